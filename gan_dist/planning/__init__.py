"""Foretell what a training takes on other machines: step time, memory, traffic, what limits it (`gan-dist plan`)."""
