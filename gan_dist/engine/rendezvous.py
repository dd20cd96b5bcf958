"""Check the ranks of a launch before they join: whether one of them cannot start, or two of them differ.

A fault may be one machine's alone (a package or a GPU that is missing there). If only that machine knew, the others would
wait for it, and nobody would say why; so all of them learn of it, by the launcher's own store.
"""

import datetime
import itertools
import json
import os
import platform
from typing import Any

import torch.distributed
from accelerate.utils import gather_object
from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

from gan_dist.errors import AgreedError

_stores: list[Any] = []  # kept: where no agent serves it, the first process does, and the group is made through it too
_meetings = itertools.count()


def check_ranks(problem: str, facts: dict[str, str], timeout: datetime.timedelta) -> None:
    """Raise AgreedError on all ranks of the launch if one has a `problem`, or if their `facts` differ."""
    own = {"problem": problem, "facts": facts, "node": platform.node()}
    environment = os.environ
    if torch.distributed.is_initialized():
        verdict = judge(gather_object([own]) if torch.distributed.get_world_size() > 1 else [own])
    elif int(environment.get("WORLD_SIZE", "1")) > 1 and {"RANK", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        verdict = _judge_by_store(own, timeout)
    else:
        verdict = judge([own])
    if verdict:
        raise AgreedError(verdict)


def judge(everyone: list[dict[str, Any]]) -> str:
    """Return what is wrong with the ranks of a launch, given in order; empty if nothing."""
    problems = [one["problem"] for one in everyone]
    for rank, one in enumerate(everyone):
        if one["problem"]:
            where = "" if len(set(problems)) == 1 else f"on {one['node']} (rank {rank}): "
            return f"{where}{one['problem']}"
    for rank, one in enumerate(everyone):
        for name, value in everyone[0]["facts"].items():
            if one["facts"].get(name) != value:
                return (
                    f"the processes of this run differ: {name} is {value} on rank 0 ({everyone[0]['node']}) and "
                    f"{one['facts'].get(name)} on rank {rank} ({one['node']}); start all of them alike"
                )
    return ""


def _judge_by_store(own: dict[str, Any], timeout: datetime.timedelta) -> str:
    """Return the verdict on all ranks: rank 0 reads the facts of each, and the others read its verdict."""
    if not _stores:
        _stores.append(next(iter(rendezvous("env://", timeout=timeout))))
    base, rank, count = _stores[0]
    store = PrefixStore(f"gan_dist/{next(_meetings)}", base)
    store.set_timeout(timeout)
    store.set(str(rank), json.dumps(own))
    if rank == 0:
        store.set("verdict", judge([json.loads(store.get(str(other))) for other in range(count)]))
    verdict = store.get("verdict").decode()
    if store.add("read", 1) == count:
        store.set("all read", "")
    if rank == 0:  # it may serve the store, and end now
        store.wait(["all read"])
    return str(verdict)
