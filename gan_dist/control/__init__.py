"""When a run must not simply go on: asked to stop, out of time, hung, dead ranks, bad numbers, ranks that differ."""
