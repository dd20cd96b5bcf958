"""How threads of OpenMP wait for work. Set it before torch is loaded: its OpenMP library reads the variables only then."""

import os
from collections.abc import MutableMapping

WAIT = "OMP_WAIT_POLICY"
_OTHERS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def wait_passively(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for work sleep instead of spinning, unless the user set how they wait.

    A thread that spins keeps its core while another program could use it. Beside two busy programs on two cores a
    training with spinning threads gets a small part of its fair share (benchmarks/neighbour.py).
    """
    if not any(environment.get(name) for name in (WAIT, *_OTHERS)):
        environment[WAIT] = "PASSIVE"
