"""What can go wrong by the user's hand, and the exit codes that scripts see."""

EXIT_FINISHED = 0
EXIT_FAILED = 1
EXIT_INPUT = 2
EXIT_STOPPED = 75  # stopped early and saved: start the same command again (sysexits' EX_TEMPFAIL)


class InputError(Exception):
    """Wrong input: the message says what is wrong, where, and what to change. Exit code 2."""


class RunError(Exception):
    """The run cannot go on, and its input is not to blame: the message says why. Exit code 1."""


class AgreedError(InputError):
    """An InputError that every process has: one of them prints it."""
