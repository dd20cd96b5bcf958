"""Make this a package of its own: the wheel of torch-fidelity brings a package `tests` too, which would be found instead."""
