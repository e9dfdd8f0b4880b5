"""Reports of the node monitors about a run: alarms, energy."""
