"""``meditron drill``: compare a training with injected faults to an undisturbed one."""
