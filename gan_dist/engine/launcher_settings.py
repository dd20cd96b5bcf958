"""Validate the ACCELERATE_* variables that change mathematics, and DeepSpeed's config file, against the config."""

import json
import os
from pathlib import Path
from typing import Any

from gan_dist import footprint
from gan_dist.config import Config
from gan_dist.errors import AgreedError

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
"""DeepSpeed's zero_optimization without its stage; launch/deepspeed/*.json say the same to accelerate. A file may
change these values and add no others: offloading, for example, would move weights that checkpoints read."""

_TRUE = ("1", "on", "t", "true", "y", "yes")  # as Accelerate reads it
_NOTHING = ("", "0", "0.0", "auto", "default", "f", "false", "n", "no", "none", "off")
_REFUSED = {
    "GRADIENT_CLIPPING": "{clip_norms} decide about that",
    "USE_FSDP": "it has no effect here; training.strategy decides how ranks share the work",
    "USE_MEGATRON_LM": "it has no effect here; training.strategy decides how ranks share the work",
    "USE_PARALLELISM_CONFIG": "it has no effect here; training.strategy decides how ranks share the work",
}
"""Variables that would change what is computed, and what decides about it instead. `validate` looks at six others:
MIXED_PRECISION, DYNAMO_BACKEND, GRADIENT_ACCUMULATION_STEPS, USE_CPU, USE_DEEPSPEED and its stage. All the rest is ignored:
it changes no result, and every release of Accelerate has more of it."""
_KEYS = {
    "gradient_clipping": "optimizers.generator.clip_norm and optimizers.discriminator.clip_norm",
    "train_batch_size": "training.batch",
    "train_micro_batch_size_per_gpu": "training.micro_batch",
    "gradient_accumulation_steps": "training.micro_batch",
    "optimizer": "optimizers.generator and optimizers.discriminator",
    "scheduler": "optimizers.generator and optimizers.discriminator",
    "fp16": "training.precision",
    "bf16": "training.precision",
}
"""DeepSpeed's settings that the config has keys for; their value "auto" is accepted."""


def to_use_the_cpu() -> bool:
    """Say whether accelerate was told to use the CPU."""
    return _said("USE_CPU") in _TRUE


def validate(config: Config) -> None:
    """Raise AgreedError where a setting of accelerate that changes mathematics contradicts the config."""
    training = config.training
    for name, instead in _REFUSED.items():
        if (value := _said(name)) not in _NOTHING:
            clip_norms = " and ".join(key for key in config.flat() if key.endswith(".clip_norm"))
            raise AgreedError(
                f"accelerate was told {name.lower()} = {value} (ACCELERATE_{name}): "
                f"{instead.format(clip_norms=clip_norms)}; remove it"
            )
    if _said("USE_DEEPSPEED") in _TRUE:
        stage = (
            str(_file().get("zero_optimization", {}).get("stage", 0)) if _path() else _said("DEEPSPEED_ZERO_STAGE", "2")
        )
        if training.strategy != f"zero{stage}":
            raise AgreedError(
                f"accelerate was told to use DeepSpeed's ZeRO stage {stage}, but training.strategy = {training.strategy}; "
                f"give --training.strategy zero{stage}, or launch without DeepSpeed (launch/accelerate/ddp.yaml)"
            )
    precision = _said("MIXED_PRECISION", "no")
    if precision not in ("no", training.precision):
        raise AgreedError(
            f"accelerate was told --mixed_precision {precision}, but training.precision = {training.precision}; "
            f"give --training.precision {precision}, or --mixed_precision no"
        )
    if _said("DYNAMO_BACKEND", "no") != "no":
        raise AgreedError("accelerate was told to use a dynamo backend; remove that, and set training.compile: true")
    if _said("GRADIENT_ACCUMULATION_STEPS", "1") not in ("", "1", "auto"):
        raise AgreedError(
            "accelerate was told to accumulate gradients; remove that: training.micro_batch decides about it"
        )
    if to_use_the_cpu() and training.device == "cuda":
        raise AgreedError("accelerate was told to use the CPU, but training.device = cuda; change one of them")


def deepspeed_config(strategy: str, weights: int) -> dict[str, Any]:
    """Return DeepSpeed's settings for a network of this many weights, with those of the launcher's file."""
    written = _file().get("zero_optimization", {})
    given = {name: value for name, value in written.items() if value != "auto"}
    zero = {**SETTINGS[strategy], **given, "stage": int(strategy.removeprefix("zero"))}
    # no more than there is: buffers of this size are made; DeepSpeed wants an even number
    zero |= {name: min(size, weights + weights % 2) for name, size in zero.items() if name.endswith("bucket_size")}
    return {"zero_optimization": zero}


def _said(name: str, usual: str = "") -> str:
    return os.environ.get(f"ACCELERATE_{name}", usual).lower()


def _path() -> str:
    path = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "")
    return "" if path == "none" else path


def _file() -> dict[str, Any]:
    """Return the settings in the launcher's DeepSpeed file; {} without a file. Raises AgreedError."""
    if not (path := _path()):
        return {}
    try:
        settings = dict(json.loads(Path(path).read_text()))
        zero = dict(settings.get("zero_optimization", {}))
    except (OSError, TypeError, ValueError) as error:
        raise AgreedError(f"{path}, which accelerate was given for DeepSpeed, cannot be read: {error}") from None
    for name, value in settings.items():
        if name in _KEYS and value != "auto":
            raise AgreedError(f'{path}: remove "{name}", or set it to "auto": {_KEYS[name]} decides about that')
        if name not in _KEYS and name != "zero_optimization":
            raise AgreedError(f'{path}: remove "{name}", which was not proved with two coupled networks')
    known = {"stage", *SETTINGS.get(f"zero{zero.get('stage')}", {})}
    for name, value in zero.items():
        if name not in known:
            raise AgreedError(
                f'{path}: remove "{name}" from zero_optimization, where {", ".join(sorted(known))} may stand'
            )
        if name.endswith("bucket_size") and not (value == "auto" or (isinstance(value, int) and value > 0)):
            raise AgreedError(f"{path}: {name} = {value!r} is no number of elements")
    return settings
