"""Whether other programs use the cores that training needs, said once in words."""

import os


def others(threads: int, processes: int = 1, load: float | None = None, cores: int | None = None) -> str:
    """Return a line that names the load of this machine where other programs take cores from training; empty otherwise.

    `threads` of each of our `processes` on this machine. `load` is the number of runnable threads, averaged over the
    last minute, and `cores` the machine's; both are read where they are not given.
    """
    load = os.getloadavg()[0] if load is None else load
    cores = (os.cpu_count() or 1) if cores is None else cores
    ours = min(threads * processes, cores)
    # an earlier start of this run, or the work before the first step, may count for up to `ours`
    if load <= 1.5 * ours or load <= cores - ours + 1:
        return ""
    return (
        f"other programs use the cores: load {load:.1f} on {cores} cores, of which this training wants {ours}; "
        "it will be slower than this machine allows"
    )
