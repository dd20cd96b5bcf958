"""When a run must stop or end: it was asked to, it is out of time, it hangs, ranks are dead or differ, numbers are bad."""
