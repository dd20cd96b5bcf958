"""How threads of OpenMP wait for work. Set it before torch is loaded: its OpenMP library reads the variables only then."""

import os
from collections.abc import MutableMapping

WAITS = {"GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"}
"""Rounds of GNU's library, some 0.2 ms, and milliseconds of LLVM's: the pauses between the operations of a step."""
_OTHERS = ("OMP_WAIT_POLICY", "KMP_LIBRARY")


def spin_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for work spin for a moment and then sleep, unless the user set how they wait.

    A thread that spins without end keeps its core while another program could use it. Beside two busy programs on two
    cores such a training gets a small part of its fair share. A thread that sleeps at once is slow to wake: small networks
    then lose up to half of their speed (benchmarks/neighbour.py).
    """
    if not any(environment.get(name) for name in (*WAITS, *_OTHERS)):
        environment.update(WAITS)
