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


def seconds_text(seconds: float) -> str:
    """Return a time in seconds, or milliseconds below one: ``482.9 s``, ``14 ms``."""
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def speed_text(bytes_per_second: float) -> str:
    """Return a speed in the unit that shows its digits: ``2.0 GB/s``, ``35.0 MB/s``."""
    for limit, unit in ((1e9, "GB/s"), (1e6, "MB/s")):
        if bytes_per_second >= limit:
            return f"{bytes_per_second / limit:.1f} {unit}"
    return f"{bytes_per_second / 1e3:.1f} KB/s"
