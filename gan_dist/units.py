"""Write sizes and times for a person."""


def size(count: float) -> str:
    """Return bytes in words: 72.30 GiB, 1.00 MiB, 24 KiB."""
    for unit, bytes_of in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if abs(count) >= bytes_of:
            return f"{count / bytes_of:,.2f} {unit}"
    return f"{count / 2**10:.0f} KiB"


def hours(seconds: float) -> str:
    """Return a duration in words: 3.2 hours, 4.0 minutes."""
    return f"{seconds / 3600:,.1f} hours" if seconds > 3600 else f"{seconds / 60:.1f} minutes"
