"""Record what each start of a run ran on: command, code, packages, devices and settings; keep of it what bits depend on."""

import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gan_dist import redaction
from gan_dist.config import Config
from gan_dist.engine import Engine
from gan_dist.run_directory import Run
from gan_dist.slurm_jobs import code

_PREFIXES = (
    "ACCELERATE_", "CUDA_", "CUBLAS_", "CUDNN_", "DS_", "FI_", "GAN_DIST_", "GLOO_", "LOCAL_", "MALLOC_", "MASTER_",
    "MKL_", "NCCL_", "NVIDIA_", "OMP_", "PYTHONHASHSEED", "PYTORCH_", "SLURM_", "TORCH", "UCX_", "WORLD_SIZE",
)  # fmt: skip
_SECRET = ("CREDENTIAL", "JWT", "KEY", "PASS", "SECRET", "TOKEN")
_LONGEST = 1000  # characters of a variable


def describe(engine: Engine, logs: Path) -> dict[str, Any] | None:
    """Describe one start: returns the facts on rank 0 and None on the others. All ranks call it, each with its device.

    Changes to the code that are not committed are kept as a patch in `logs`.
    """
    gpu = engine.device.type == "cuda"
    device = torch.cuda.get_device_name(engine.device) if gpu else f"cpu ({torch.get_num_threads()} threads)"
    ranks = engine.gather((os.environ.get("SLURMD_NODENAME") or platform.node(), device))
    if not engine.is_main:
        return None
    build: dict[str, Any] = {"threads": torch.get_num_threads()}
    if gpu:
        build |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "nccl": torch.cuda.nccl.version(),  # type: ignore[no-untyped-call]
        }
    root = Path(__file__).resolve().parents[1]
    return {
        "command": [redaction.redact(word) for word in sys.argv],
        "commit": code.commit(root),
        "changes": _keep(code.changes(root), logs),
        "ranks": [f"{node} {kind}" for node, kind in ranks],
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": build,
        "packages": _packages(),
        "variables": variables(os.environ),
    }


def _keep(patch: str, logs: Path) -> str:
    """Write the patch and return its name; empty where there is no patch, or no room for it."""
    name = f"changes-{hashlib.sha256(patch.encode()).hexdigest()[:8]}.patch"
    try:
        if patch:
            (logs / name).write_text(patch)
    except OSError:
        return ""
    return name if patch else ""


def keep_bits(config: Config, engine: Engine, run: Run) -> str:
    """Keep for `exact` what changes rounding and is left to the machine, as it was at the run's first start.

    On a CPU sums depend on the number of threads. Returns in words what cannot be kept. All ranks call it.
    """
    training = config.training
    if training.strategy != "exact":
        return ""
    name = " and ".join(sorted(set(engine.gather(machine(engine.device)))))
    here: dict[str, Any] = {"device": engine.device.type, "channels_last": training.channels_last, "machine": name}
    if engine.device.type == "cpu":
        here["threads"] = torch.get_num_threads()
    kept = engine.on_main(lambda: run.choose(here)) or here
    if engine.device.type == "cpu":
        torch.set_num_threads(kept["threads"])
    if kept["machine"] == name:
        return ""
    return f"bits may differ from here on: the run began on {kept['machine']}, and this is {name}"


def machine(device: torch.device) -> str:
    """Return in words what decides how numbers are rounded: processor or GPU, libraries, torch."""
    if device.type == "cuda":
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        kind = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    else:
        kind = f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind}, torch {torch.__version__}"


def _processor() -> str:
    """Return the CPU's name and the instructions beyond torch's own levels by which oneDNN chooses kernels."""
    try:
        rows = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:  # not Linux
        rows = []
    facts = {name.strip(): value.strip() for name, _, value in reversed(rows)}
    more = sorted({"avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16"} & set(facts.get("flags", "").split()))
    return " ".join([facts.get("model name") or platform.processor() or platform.machine(), *more])


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that change how a run computes or communicates, and Slurm's.

    A variable whose name says secret is left out; in the others secrets are replaced by a mark (redaction.py).
    """
    return {
        name: redaction.redact(value[: 4 * _LONGEST])[:_LONGEST]
        for name, value in sorted(environment.items())
        if name.startswith(_PREFIXES) and not any(word in name for word in _SECRET)
    }


def _packages() -> dict[str, str]:
    """Return all installed packages with their versions."""
    versions = {package.metadata["Name"] or "": package.version for package in importlib.metadata.distributions()}
    return dict(sorted((name, version) for name, version in versions.items() if name))
