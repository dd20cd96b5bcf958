"""Hand over what a run has trained: a folder that loads with this package, and without it by plain torch."""
