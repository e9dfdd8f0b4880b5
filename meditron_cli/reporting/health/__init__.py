"""What the monitors of the nodes saw of a run: alarms, findings, energy."""
