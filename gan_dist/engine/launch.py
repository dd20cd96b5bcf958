"""Join the ranks of a launch; refuse a launcher, machine or config that contradict each other."""

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import warnings
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from gan_dist import __version__
from gan_dist.config import Config
from gan_dist.engine import launcher_settings, rendezvous
from gan_dist.errors import AgreedError, InputError

# Indexing a new data set happens on one process while the others wait in a collective.
TIMEOUT = datetime.timedelta(hours=2)


def start(config: Config) -> Accelerator:
    """Join the ranks of this launch. Raises InputError where launcher, machine and config contradict each other.

    engine/zero.py drives DeepSpeed itself: Accelerate's plugin knows one network, needs `transformers`, and makes every
    process on a CPU rank 0 of 1.
    """
    training, environment = config.training, os.environ
    # cuBLAS reads it when CUDA starts, and refuses deterministic algorithms without: an engine that is made later in this
    # process may want them. It is what torch takes on an H100 anyway (32 MiB).
    environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    problem, facts, on_cpu = "", {}, True
    try:
        launcher_settings.validate(config)
        on_cpu = _on_cpu(training.device)
        _check(config, on_cpu)
        facts = versions(config, on_cpu)
    except InputError as error:
        problem = str(error)
    rendezvous.check_ranks(problem, facts, TIMEOUT)
    _set_up(config)
    environment.pop("ACCELERATE_USE_DEEPSPEED", None)
    environment.pop("ACCELERATE_TORCH_DEVICE", None)  # training.device decides
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
        raise AgreedError(
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


def start_alone(config: Config) -> torch.device:
    """Set this process up for an engine of one rank that joins no others; returns its device. Raises AgreedError."""
    on_cpu = _on_cpu(config.training.device)
    _check(config, on_cpu)
    _set_up(config)
    return torch.device("cpu") if on_cpu else torch.device("cuda", _local_rank())


def _set_up(config: Config) -> None:
    """Set what torch keeps for the whole process."""
    training = config.training
    torch.use_deterministic_algorithms(training.deterministic or training.strategy == "exact")
    # torch would also fill all new memory with NaN, for 7 % of the images/s; nothing here reads what nobody wrote
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # tries cuDNN's algorithms at each new shape, and may find another one the next time: not where bits are promised
    torch.backends.cudnn.benchmark = not (training.deterministic or training.strategy == "exact")
    torch.backends.cuda.matmul.allow_tf32 = training.tf32
    torch.backends.cudnn.allow_tf32 = training.tf32
    if training.threads:
        torch.set_num_threads(training.threads)


def refuse(problem: str) -> NoReturn:
    """Raise AgreedError on all ranks of this launch, where this rank has no config to start with."""
    rendezvous.check_ranks(problem, {}, TIMEOUT)
    raise AgreedError(problem)


def versions(config: Config, on_cpu: bool) -> dict[str, str]:
    """Return what must be the same on all machines: software, devices, and the config except where files are."""
    training, places = config.training, ("data.cache", "run.fresh")
    facts = software(on_cpu)
    if not training.strategy.startswith("zero"):
        facts.pop("deepspeed", None)
    facts["Python"] = facts["Python"].rpartition(".")[0]
    kind = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(_local_rank())
    # other kinds of device train together, but to other bits
    facts["the device"] = ("CPU" if on_cpu else "GPU") + (f" ({kind})" if training.strategy == "exact" else "")
    return facts | {key: repr(value) for key, value in config.flat().items() if key not in places}


def software(on_cpu: bool) -> dict[str, str]:
    """Return versions of what computes here: {"torch": "2.11.0", ...}."""
    installed = {"gan_dist": __version__, "Python": platform.python_version(), "torch": str(torch.__version__)}
    for name in ("accelerate", "deepspeed"):
        if _is_module(name):
            installed[name] = importlib.metadata.version(name)
    if not on_cpu:
        installed["CUDA"] = str(torch.version.cuda)
        installed["cuDNN"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        nccl = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
        installed["NCCL"] = ".".join(map(str, nccl)) if isinstance(nccl, tuple) else str(nccl)
    return installed


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _check(config: Config, on_cpu: bool) -> None:
    """Raise AgreedError where this machine cannot do what the config wants."""
    training = config.training
    if training.precision == "fp16" and on_cpu:
        raise AgreedError("training.precision = fp16 needs a GPU, and this runs on a CPU; set training.precision: fp32")
    if training.tf32 and on_cpu:
        raise AgreedError("training.tf32 has no effect on a CPU, and this runs on one; remove it")
    compiler = os.environ.get("CXX", "g++")
    if training.compile and on_cpu and shutil.which(compiler) is None:
        raise AgreedError(
            f"training.compile needs a C++ compiler on a CPU, and {compiler} is not here; install it (or name another by "
            "CXX), or set training.compile: false"
        )
    if training.strategy.startswith("zero"):
        _need_deepspeed(training.strategy, on_cpu)


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
    if device != "cpu" and gpus and local > gpus and not launcher_settings.to_use_the_cpu():
        raise AgreedError(
            f"{local} processes on this machine, but it has {gpus} GPUs; start {gpus}, or set training.device: cpu"
        )
    return device == "cpu" or not gpus or launcher_settings.to_use_the_cpu()


def prepare_quietly(accelerator: Accelerator, network: torch.nn.Module) -> torch.nn.Module:
    """Return the network in DDP, where there is more than one rank."""
    with warnings.catch_warnings():
        # torch 2.15 renames broadcast_buffers, which Accelerate still passes by its old name
        warnings.simplefilter("ignore", FutureWarning)
        wrapped: torch.nn.Module = accelerator.prepare_model(network)
    return wrapped
