"""What people who know other tools type instead of our keys, and which key is meant."""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a foreign word means here: keys, or why there is none."""

    keys: tuple[str, ...] = ()
    """Full keys, or the last part of keys that several sections have."""
    note: str = ""
    """How the value converts, or what to do instead."""


_RATES = Meaning(("learning_rate",))
_RATE_G = Meaning(("optimizers.generator.learning_rate", "game.generator.learning_rate"))
_RATE_D = Meaning(("optimizers.discriminator.learning_rate", "game.discriminator.learning_rate"))
_BETA1, _BETA2 = Meaning(("beta1",)), Meaning(("beta2",))
_BATCH = Meaning(("training.batch",), "the batch of all processes together")
_MICRO = Meaning(("training.micro_batch",), "what one process holds at once")
_EPOCHS = Meaning(("training.images",), "the number of epochs times the number of samples")
_KIMG = Meaning(("training.images",), "1,000 times that number")
_STEPS = Meaning(("training.images",), "the number of steps times training.batch")
_NAME = Meaning(("run.name",))
_DIRECTORY = Meaning(("run.directory",))
_SEED = Meaning(("run.seed",))
_RESUME = Meaning(
    ("run.directory",), "the same command goes on where the run stopped; --run.fresh true starts from nothing"
)
_FROM = Meaning(("start.from",), "a run directory, or a checkpoint of gan_dist in one")
_VGG = Meaning(("game.perceptual.weight",))
_GPUS = Meaning((), "all GPUs of this machine: ./launch/run.sh CONFIG; fewer: PROCESSES=2 ./launch/run.sh CONFIG")
_NODES = Meaning((), "several machines: gan-dist slurm CONFIG --nodes 2, or torchrun on each of them")
_PRECISION = Meaning(("training.precision",), "fp32, bf16 or fp16")
_DATA = Meaning(("data.shards",), "shards that `gan-dist pack FOLDER SHARDS` makes of images")
_SIZE = Meaning(("data.resolution",))
_WORKERS = Meaning(("data.workers",))
_WIDTH = Meaning(("base_channels",))
_WIDTH_G = Meaning(("networks.generator.base_channels", "game.base_channels"))
_WIDTH_D = Meaning(("networks.discriminator.base_channels", "game.base_channels"))
_LATENT = Meaning(("game.latent",))
_R1 = Meaning(("penalties.r1.weight", "game.penalty.r1"))
_WGAN_GP = Meaning(("penalties.wgan_gp.weight", "game.penalty.wgan_gp"))
_EVERY = Meaning(("penalties.r1.every", "game.penalty.every"))
_EMA = Meaning(("average.half_life", "game.average.half_life"), "in images, not a factor for each step")
_LABELS = Meaning(("data.labels",))
_CHECKPOINT = Meaning(("checkpoint.every",), "in images")
_SAMPLE = Meaning(("sample.every",), "in images")
_LOG = Meaning(("track.every",), "in images")
_CRITIC = Meaning(("game.discriminator_steps",))
_CLIP = Meaning(("clip_norm",))
_CLAMP = Meaning(("clip_weights",), "for all weights of a player, after each update")
_WANDB = Meaning(("track.wandb",), "online, offline or disabled")
_OPTIMIZER = Meaning(("optimizers.generator.kind", "optimizers.discriminator.kind"))
_SCHEDULE = Meaning(("learning_rate",), "a schedule in its place: {kind: linear, start: 2.0e-4, stop: 0, end: IMAGES}")
_ACCUMULATION = Meaning(("training.micro_batch",), "micro-batches accumulate up to training.batch by themselves")
_STRATEGY = Meaning(("training.strategy",), "ddp, exact, zero1, zero2 or zero3")
_SYNC = Meaning(
    ("training.micro_batch",), "BatchNorm's statistics are those of a micro-batch, at any number of processes"
)
_CHANNELS = Meaning(("data.channels",), "1 for grey, 3 for RGB, 4 with transparency")
_KIND = Meaning(("networks.generator.kind", "networks.discriminator.kind"))
_AUGMENT = Meaning(("augment.ada.target", "augment.ada.probability"))
_DIFFAUGMENT = Meaning(("augment.diffaugment.color",), "augment: [diffaugment]")
_KL = Meaning(("game.beta",))
_KEEP = Meaning(("checkpoint.keep",))
_EVALUATE = Meaning(("evaluate.every",), "in images")
_SCORES = Meaning(("evaluate.every",), "evaluate: {every: IMAGES, scores: [kid, fid]}")
_ELSEWHERE = Meaning((), "`gan-dist track RUN --to tensorboard` (or wandb, trackio) writes a run's figures there")

MEANINGS: dict[str, Meaning] = {
    # optimizers
    "lr": _RATES, "learning_rate": _RATES, "base_lr": _RATES, "lr_g": _RATE_G, "g_lr": _RATE_G, "glr": _RATE_G,
    "lr_d": _RATE_D, "d_lr": _RATE_D, "dlr": _RATE_D, "generator_lr": _RATE_G, "discriminator_lr": _RATE_D,
    "beta1": _BETA1, "b1": _BETA1, "adam_beta1": _BETA1, "beta2": _BETA2, "b2": _BETA2, "adam_beta2": _BETA2,
    "optimizer": _OPTIMIZER, "optim": _OPTIMIZER, "opt": _OPTIMIZER, "wd": Meaning(("weight_decay",)),
    "scheduler": _SCHEDULE, "lr_scheduler": _SCHEDULE, "lr_schedule": _SCHEDULE, "lr_policy": _SCHEDULE, "lr_decay": _SCHEDULE,
    "warmup": _SCHEDULE, "warmup_steps": _SCHEDULE, "lr_warmup_steps": _SCHEDULE,
    "betas": Meaning(("beta1", "beta2")), "eps": Meaning(("epsilon",)), "adam_eps": Meaning(("epsilon",)),
    "clip": _CLIP, "grad_clip": _CLIP, "clip_grad": _CLIP, "max_grad_norm": _CLIP, "gradient_clip_val": _CLIP,
    "clip_value": _CLAMP, "weight_clip": _CLAMP, "wc_bound": _CLAMP, "clamp": _CLAMP,
    # how much and how long
    "batch_size": _BATCH, "batchsize": _BATCH, "batch": _BATCH, "bs": _BATCH, "train_batch_size": _BATCH,
    "global_batch_size": _BATCH, "batch_gpu": _MICRO, "batch_per_gpu": _MICRO, "micro_batch_size": _MICRO,
    "per_device_train_batch_size": _MICRO,
    "gradient_accumulation_steps": _ACCUMULATION, "accumulate_grad_batches": _ACCUMULATION, "grad_accum": _ACCUMULATION,
    "accumulation_steps": _ACCUMULATION,
    "epochs": _EPOCHS, "epoch": _EPOCHS, "n_epochs": _EPOCHS, "num_epochs": _EPOCHS, "max_epochs": _EPOCHS,
    "kimg": _KIMG, "total_kimg": _KIMG,
    "steps": _STEPS, "max_steps": _STEPS, "num_steps": _STEPS, "num_train_steps": _STEPS, "iterations": _STEPS,
    "n_iter": _STEPS, "niter": _STEPS, "max_iter": _STEPS, "total_steps": _STEPS, "total_iterations": _STEPS,
    # the run
    "name": _NAME, "run_name": _NAME, "exp_name": _NAME, "experiment": _NAME, "exp": _NAME,
    "outdir": _DIRECTORY, "out": _DIRECTORY, "output_dir": _DIRECTORY, "out_dir": _DIRECTORY, "logdir": _DIRECTORY,
    "log_dir": _DIRECTORY, "workdir": _DIRECTORY, "work_dir": _DIRECTORY, "results_dir": _DIRECTORY,
    "save_dir": _DIRECTORY, "checkpoints_dir": _DIRECTORY, "output": _DIRECTORY, "outputs": _DIRECTORY,
    "output_path": _DIRECTORY, "output_folder": _DIRECTORY, "out_path": _DIRECTORY, "save_path": _DIRECTORY,
    "results": _DIRECTORY, "result_dir": _DIRECTORY, "folder": _DIRECTORY, "log_path": _DIRECTORY, "model_dir": _DIRECTORY,
    "ckpt_dir": _DIRECTORY, "checkpoint_dir": _DIRECTORY, "checkpoint_path": _RESUME,
    "overwrite": Meaning(("run.fresh",), "what is there is moved aside"), "restart": Meaning(("run.fresh",)),
    "time_limit": Meaning(("run.deadline",)), "max_time": Meaning(("run.deadline",)), "timeout": Meaning(("run.deadline",)),
    "seed": _SEED, "manual_seed": _SEED, "random_seed": _SEED,
    "resume": _RESUME, "resume_from_checkpoint": _RESUME, "continue_train": _RESUME, "load": _RESUME,
    "resume_pkl": _FROM, "pretrained": _FROM, "pretrained_path": _FROM, "init_from": _FROM,
    "load_from": _FROM, "finetune": _FROM, "finetune_from": _FROM, "pretrain_network_g": _FROM, "load_pretrain": _FROM,
    "freezed": Meaning(("start.freeze",), "patterns of layers"), "freeze_d": Meaning(("start.freeze",), "patterns of layers"),
    "lambda_vgg": _VGG, "perceptual_weight": _VGG, "lambda_perceptual": _VGG,
    # machines
    "gpus": _GPUS, "gpu": _GPUS, "num_gpus": _GPUS, "n_gpus": _GPUS, "ngpu": _GPUS, "gpu_ids": _GPUS,
    "devices": _GPUS, "nproc": _GPUS, "nproc_per_node": _GPUS, "num_processes": _GPUS, "world_size": _GPUS,
    "nodes": _NODES, "num_nodes": _NODES, "nnodes": _NODES, "num_machines": _NODES,
    "device": Meaning(("training.device",)), "cuda": Meaning(("training.device",), "auto, cuda or cpu"),
    "cpu": Meaning(("training.device",), "auto, cuda or cpu"),
    "strategy": _STRATEGY, "ddp": _STRATEGY, "fsdp": _STRATEGY, "deepspeed": _STRATEGY, "zero": _STRATEGY, "zero_stage": _STRATEGY,
    "sync_bn": _SYNC, "syncbn": _SYNC, "sync_batchnorm": _SYNC, "accelerator": Meaning(("training.device",), "auto, cuda or cpu"),
    "fp16": _PRECISION, "bf16": _PRECISION, "fp32": _PRECISION, "amp": _PRECISION, "use_amp": _PRECISION,
    "precision": _PRECISION, "mixed_precision": _PRECISION, "half": _PRECISION,
    "compile": Meaning(("training.compile",)), "torch_compile": Meaning(("training.compile",)),
    "graphs": Meaning(("training.graphs",)), "cuda_graphs": Meaning(("training.graphs",)),
    "tf32": Meaning(("training.tf32",)), "allow_tf32": Meaning(("training.tf32",)),
    "threads": Meaning(("training.threads",)), "num_threads": Meaning(("training.threads",)),
    # data
    "data": _DATA, "dataset": _DATA, "dataroot": _DATA, "data_dir": _DATA, "data_path": _DATA, "data_root": _DATA,
    "train_data_dir": _DATA, "path": _DATA, "input": _DATA, "inputs": _DATA, "input_dir": _DATA, "image_folder": _DATA,
    "train_dir": _DATA, "train_path": _DATA,
    "grey": _CHANNELS, "gray": _CHANNELS, "grayscale": _CHANNELS, "rgb": _CHANNELS, "rgba": _CHANNELS, "color_mode": _CHANNELS,
    "resolution": _SIZE, "image_size": _SIZE, "img_size": _SIZE, "imsize": _SIZE, "size": _SIZE, "load_size": Meaning(("data.load_size",)),
    "crop_size": _SIZE, "channels": _CHANNELS, "nc": _CHANNELS, "img_channels": _CHANNELS, "image_channels": _CHANNELS,
    "workers": _WORKERS, "num_workers": _WORKERS, "n_cpu": _WORKERS, "n_workers": _WORKERS,
    "mirror": Meaning(("data.flip",)), "flip": Meaning(("data.flip",)), "hflip": Meaning(("data.flip",)),
    "cond": _LABELS, "conditional": _LABELS, "labels": _LABELS, "class_cond": _LABELS,
    "n_classes": Meaning(("data.classes",)), "num_classes": Meaning(("data.classes",)),
    "cache_dir": Meaning(("data.cache",)), "cache": Meaning(("data.resident",), "no, host, device or auto"),
    "cache_images": Meaning(("data.resident",), "no, host, device or auto"),
    # networks and losses
    "nz": _LATENT, "z_dim": _LATENT, "zdim": _LATENT, "latent_dim": _LATENT, "latent_size": _LATENT, "latent": _LATENT,
    "noise_dim": _LATENT, "noise_size": _LATENT, "z": _LATENT, "latents": _LATENT,
    "arch": _KIND, "architecture": _KIND, "model": _KIND, "network": _KIND, "backbone": _KIND, "cfg": _KIND,
    "netg": Meaning(("networks.generator.kind",)), "netd": Meaning(("networks.discriminator.kind",)),
    "norm": Meaning(("normalisation",)), "normalization": Meaning(("normalisation",)),
    "truncation_psi": Meaning(("truncation",)), "psi": Meaning(("truncation",)), "trunc": Meaning(("truncation",)),
    "aug": _AUGMENT, "augpipe": _AUGMENT, "augment": _AUGMENT, "ada_target": Meaning(("augment.ada.target",)),
    "diffaug": _DIFFAUGMENT, "diff_aug": _DIFFAUGMENT, "diffaugment": _DIFFAUGMENT,
    "ngf": _WIDTH_G, "ndf": _WIDTH_D, "cbase": _WIDTH, "channel_base": _WIDTH, "base_channels": _WIDTH, "width": _WIDTH,
    "loss": Meaning(("loss.kind", "game.loss")), "gan_mode": Meaning(("loss.kind", "game.loss")),
    "loss_type": Meaning(("loss.kind", "game.loss")),
    "r1": _R1, "gamma": _R1, "r1_gamma": _R1, "r1_weight": _R1, "r1_reg": _R1,
    "gp": _WGAN_GP, "lambda_gp": _WGAN_GP, "gp_weight": _WGAN_GP, "gradient_penalty": _WGAN_GP,
    "d_reg_every": _EVERY, "d_reg_interval": _EVERY,
    "ema": _EMA, "ema_kimg": _EMA, "ema_decay": _EMA, "ema_beta": _EMA, "ema_halflife": _EMA,
    "n_critic": _CRITIC, "d_steps": _CRITIC, "critic_iters": _CRITIC, "num_d_steps": _CRITIC,
    "lambda_l1": Meaning(("game.l1",)), "lambda_feat": Meaning(("game.feature_matching",)),
    "lambda_a": Meaning(("game.cycle",)), "lambda_b": Meaning(("game.cycle",)), "pool_size": Meaning(("game.pool",)),
    "kl_weight": _KL, "kld_weight": _KL, "lambda_kl": _KL, "beta": _KL,
    "lambda_gan": Meaning(("game.adversarial",)), "adv_weight": Meaning(("game.adversarial",)),
    "lambda_identity": Meaning(("game.identity",), "a weight of its own: 0.5 of the authors' code is half of game.cycle"),
    "n_layers_d": Meaning(("networks.discriminator.layers",)), "num_d": Meaning(("networks.discriminator.scales",)),
    "scale": Meaning(("data.degrade",), "[{kind: downscale, factor: 4}]"),
    "upscale": Meaning(("data.degrade",), "[{kind: downscale, factor: 4}]"),
    "sf": Meaning(("data.degrade",), "[{kind: downscale, factor: 4}]"),
    "noise_level": Meaning(("data.degrade",), "[{kind: noise, sigma: 25}]"),
    "l_pixel": Meaning(("game.pixel",)), "gan_weight": Meaning(("game.adversarial",)),
    "preprocess": Meaning(("data.crop", "data.load_size")),
    # when
    "snap": _CHECKPOINT, "save_every": _CHECKPOINT, "save_interval": _CHECKPOINT, "checkpoint_every": _CHECKPOINT,
    "save_freq": _CHECKPOINT, "save_steps": _CHECKPOINT, "checkpointing_steps": _CHECKPOINT,
    "save_total_limit": _KEEP, "max_keep": _KEEP, "keep_last": _KEEP, "checkpoints_total_limit": _KEEP,
    "eval_every": _EVALUATE, "eval_interval": _EVALUATE, "eval_freq": _EVALUATE, "validation_steps": _EVALUATE,
    "metrics": _SCORES, "fid": _SCORES, "eval_metrics": _SCORES,
    "n_samples": Meaning(("sample.count",)), "num_samples": Meaning(("sample.count",)),
    "tensorboard": _ELSEWHERE, "logger": _ELSEWHERE, "trackio": _ELSEWHERE,
    "sample_every": _SAMPLE, "sample_interval": _SAMPLE, "image_snapshot_ticks": _SAMPLE,
    "log_every": _LOG, "log_interval": _LOG, "logging_steps": _LOG, "print_freq": _LOG,
    "wandb": _WANDB, "use_wandb": _WANDB, "report_to": _WANDB,
    "project": Meaning(("track.project",)), "wandb_project": Meaning(("track.project",)),
}  # fmt: skip
"""Word, lower case with underscores -> what it means. StyleGAN's, StudioGAN's, CycleGAN's, Lightning's, diffusers' words."""

_MOST = 2  # keys in one answer


def suggest(word: str, known_keys: Iterable[str], mark: str = "") -> str:
    """Return a sentence about the key that `word` may mean, without a full stop; empty where nothing is near.

    `word` is what stood on the command line or in the config: `--lr`, `--lr=0.1`, `optimizer.G.lr`. Only keys of
    `known_keys` are named, each with `mark` before it.
    """
    known = list(dict.fromkeys(key.lstrip("-") for key in known_keys))
    word = word.lstrip("-").partition("=")[0].strip()
    leaf = word.rpartition(".")[2].lower().replace("-", "_")
    if moved := _best([key for key in known if key.rpartition(".")[2] == leaf], word, mark):  # in another section
        return f"did you mean {moved}?"
    meaning = MEANINGS.get(word.lower().replace("-", "_")) or MEANINGS.get(leaf)
    if meaning is not None:
        keys = [key for wanted in meaning.keys for key in known if key == wanted or key.endswith(f".{wanted}")]
        if keys:
            note = f" ({meaning.note})" if meaning.note else ""
            return f"did you mean {_best(keys, word, mark)}{note}?"
        if meaning.note and not meaning.keys:
            return meaning.note
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {mark}{close[0]}?" if close else ""


def _best(keys: Sequence[str], word: str, mark: str) -> str:
    """Return the keys of the player that `word` names, or else the first few."""
    parts = {part.lower() for part in word.replace("_", ".").split(".")}
    for player, names in (("generator", {"g", "generator"}), ("discriminator", {"d", "discriminator", "critic"})):
        if parts & names and (of_player := [key for key in keys if f".{player}." in key]):
            keys = of_player
    return " or ".join(f"{mark}{key}" for key in list(dict.fromkeys(keys))[:_MOST])
