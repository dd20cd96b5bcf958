"""Say beforehand what a training takes on other machines: step time, memory, traffic, and what limits it (`gan-dist plan`)."""
