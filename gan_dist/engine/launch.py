"""What the launcher and the config say of devices, processes and precision: brought together, or refused."""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from gan_dist import footprint
from gan_dist.config import Config
from gan_dist.errors import AgreedError, InputError

# Indexing a new data set happens on one process while the others wait in a collective.
TIMEOUT = datetime.timedelta(hours=2)


def start(config: Config) -> Accelerator:
    """The processes of this launch, joined. Raises InputError where launcher, machine and config contradict each other.

    DeepSpeed is driven by engine/zero.py and not by Accelerate, whose plugin knows one network, needs `transformers`, and
    makes every process on a CPU rank 0 of 1; so Accelerate is told nothing of it.
    """
    training, environment = config.training, os.environ
    _agree_with_accelerate(config)
    on_cpu = _on_cpu(training.device)
    if training.precision == "fp16" and on_cpu:
        raise AgreedError("training.precision = fp16 needs a GPU, and this runs on a CPU; set training.precision: fp32")
    if training.strategy.startswith("zero"):
        _need_deepspeed(training.strategy, on_cpu)
    if training.deterministic or training.strategy == "exact":
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses; read when CUDA starts
        torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = training.tf32
    torch.backends.cudnn.allow_tf32 = training.tf32
    if training.threads:
        torch.set_num_threads(training.threads)
    environment.pop("ACCELERATE_USE_DEEPSPEED", None)
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="no",
        kwargs_handlers=[
            # BatchNorm's statistics are shared by the engine; broadcasting buffers would undo it
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=TIMEOUT),
        ],
    )
    launched = int(environment.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise InputError(
            f"the launcher started {launched} processes (WORLD_SIZE), but they did not join: each believes to be one of "
            f"{accelerator.num_processes}, and would train alone; start them by torchrun, without accelerate's own settings"
        )
    if training.processes not in (0, accelerator.num_processes):
        raise AgreedError(
            f"training.processes = {training.processes}, but {accelerator.num_processes} started; `torchrun --standalone "
            f"--nproc-per-node {training.processes} gan_dist/train.py ...` starts them on one machine (`accelerate launch "
            "--cpu` starts one, whatever --num_processes says)"
        )
    return accelerator


BUCKETS = footprint.BUCKETS
SETTINGS: dict[str, dict[str, Any]] = {
    "zero1": {
        "contiguous_gradients": True,
        "overlap_comm": True,
        "reduce_bucket_size": BUCKETS,
        "allgather_bucket_size": BUCKETS,
    },
    "zero3": {
        "contiguous_gradients": True,
        "overlap_comm": True,
        "reduce_bucket_size": BUCKETS,
        "stage3_prefetch_bucket_size": BUCKETS,
        "stage3_param_persistence_threshold": 100_000,
        "stage3_max_reuse_distance": 0,
    },
}
SETTINGS["zero2"] = SETTINGS["zero1"]
"""DeepSpeed's zero_optimization without its stage; launch/deepspeed/*.json say the same to accelerate."""


def deepspeed_config(strategy: str, weights: int) -> dict[str, Any]:
    """DeepSpeed's own settings for a network of so many weights: the launcher's, where accelerate was given a file."""
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    found: dict[str, Any] = json.loads(Path(path).read_text()) if path not in ("", "none") else {}
    zero = {**SETTINGS[strategy], **found.get("zero_optimization", {}), "stage": int(strategy.removeprefix("zero"))}
    # no more than there is: buffers of this size are made
    zero |= {name: min(size, weights) for name, size in zero.items() if name.endswith("bucket_size")}
    return {**found, "zero_optimization": zero}


def versions(config: Config) -> dict[str, str]:
    """What must be the same on all machines of a run: packages, and the config but for the places of files."""
    packages = ["torch", "accelerate", *(["deepspeed"] if config.training.strategy.startswith("zero") else [])]
    own = {name: importlib.metadata.version(name) for name in packages}
    places = ("data.cache", "run.fresh")
    return own | {key: repr(value) for key, value in config.flat().items() if key not in places}


def difference(everyone: list[dict[str, str]]) -> str:
    """Where processes do not have the same versions and keys: the first such, in words; empty if there is none."""
    for rank, other in enumerate(everyone):
        for name, value in everyone[0].items():
            if other.get(name) != value:
                return f"{name} is {value} on rank 0 and {other.get(name)} on rank {rank}"
    return ""


def _agree_with_accelerate(config: Config) -> None:
    """Raise AgreedError where `accelerate launch` was told something else than the config."""
    training, environment = config.training, os.environ

    def told(name: str) -> bool:
        return environment.get(f"ACCELERATE_{name}", "").lower() in ("1", "true")

    for kind in ("FSDP", "MEGATRON_LM"):
        if told(f"USE_{kind}"):
            raise AgreedError(
                f"accelerate was told to use {kind}, which cannot train here; choose by training.strategy"
            )
    if told("USE_DEEPSPEED"):
        stage = _stage_of_launcher()
        if training.strategy != f"zero{stage}":
            raise AgreedError(
                f"accelerate was told to use DeepSpeed's ZeRO stage {stage}, but training.strategy = {training.strategy}; "
                f"give --training.strategy zero{stage}, or launch without DeepSpeed (launch/accelerate/ddp.yaml)"
            )
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", training.precision):
        raise AgreedError(
            f"accelerate was told --mixed_precision {precision}, but training.precision = {training.precision}; "
            f"give --training.precision {precision}, or --mixed_precision no"
        )
    if environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise AgreedError("accelerate was told to use a dynamo backend; leave it away, and set training.compile: true")
    if int(environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS") or 1) != 1:
        raise AgreedError(
            "accelerate was told to accumulate gradients; leave it away: training.micro_batch decides about that"
        )
    if told("USE_CPU") and training.device == "cuda":
        raise AgreedError("accelerate was told to use the CPU, but training.device = cuda; change one of them")


def _stage_of_launcher() -> str:
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    if path not in ("", "none"):
        try:
            settings = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise AgreedError(f"{path}, which accelerate was given for DeepSpeed, cannot be read: {error}") from None
        _check_settings(path, settings)
        return str(settings.get("zero_optimization", {}).get("stage", 0))
    return os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")


def _check_settings(path: str, settings: dict[str, Any]) -> None:
    """Refuse settings of DeepSpeed that the config has keys for, or that would be two optimizers for one player."""
    own = {
        "gradient_clipping": "game.generator.clip_norm and game.discriminator.clip_norm",
        "train_batch_size": "training.batch",
        "train_micro_batch_size_per_gpu": "training.micro_batch",
        "gradient_accumulation_steps": "training.micro_batch",
        "optimizer": "game.generator and game.discriminator",
        "scheduler": "game.generator and game.discriminator",
        "fp16": "training.precision",
        "bf16": "training.precision",
    }
    for name, key in own.items():
        if settings.get(name, "auto") != "auto":
            raise AgreedError(f'{path}: remove "{name}", or set it to "auto": {key} decides about that')


def _need_deepspeed(strategy: str, on_cpu: bool) -> None:
    if importlib.util.find_spec("deepspeed") is None:
        raise AgreedError(
            f"training.strategy = {strategy} needs DeepSpeed, which is not installed: ./launch/setup.sh deepspeed, or "
            "pip install 'gan_dist[deepspeed]'"
        )
    missing = [name for name in ("g++", "ninja") if shutil.which(name) is None and not _is_module(name)]
    if on_cpu and missing:
        raise AgreedError(
            f"training.strategy = {strategy} on a CPU needs {' and '.join(missing)}, by which DeepSpeed builds a part of "
            "itself; install it, or set training.strategy: ddp"
        )


def _is_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _on_cpu(device: str) -> bool:
    gpus = torch.cuda.device_count()
    if device == "cuda" and not gpus:
        raise AgreedError("training.device = cuda, but torch finds no GPU here; set training.device: auto or cpu")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device != "cpu" and gpus and local > gpus:
        raise AgreedError(
            f"{local} processes on this machine, but it has {gpus} GPUs; start {gpus}, or set training.device: cpu"
        )
    return device == "cpu" or not gpus


def prepare_quietly(accelerator: Accelerator, network: torch.nn.Module) -> torch.nn.Module:
    """The network through DDP, where there is more than one process."""
    with warnings.catch_warnings():
        # torch 2.15 renames broadcast_buffers, which Accelerate still passes by its old name
        warnings.simplefilter("ignore", FutureWarning)
        wrapped: torch.nn.Module = accelerator.prepare_model(network)
    return wrapped
