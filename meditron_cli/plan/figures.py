"""Figures in short, for people. Pure."""


def count(value: float) -> str:
    """Return a count in short: ``48.2B``, ``3.3M``."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    """Return bytes in binary units: ``19.4 GiB``."""
    for limit, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if value >= limit:
            return f"{value / limit:.1f} {unit}"
    return f"{value / 1024:.1f} KiB"
