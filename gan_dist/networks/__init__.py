"""Generators and discriminators in pure torch: they know nothing of ranks, files or configs."""
