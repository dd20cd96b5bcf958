"""Find out before hours are spent whether a training would run, be right and be fast; one Finding type for all checks."""
