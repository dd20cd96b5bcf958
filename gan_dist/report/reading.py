"""Read everything that a page shows of a run, from the run's files alone."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from gan_dist import config as config_module, files, run_status
from gan_dist.config import Config, tree
from gan_dist.errors import InputError
from gan_dist.redaction import redact_all
from gan_dist.report import facts, pictures
from gan_dist.report.series import Series, columns
from gan_dist.run_directory import locate


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What the files of one run say."""

    directory: Path
    name: str
    status: dict[str, Any]
    """As `gan-dist status --json` prints it."""
    series: dict[str, Series]
    """Every figure by its name in metrics.jsonl."""
    errors: dict[tuple[str, int], float]
    """Errors of scores, by name and images."""
    events: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    """The lines of environment.jsonl."""
    keys: dict[str, Any]
    """The run's config: every key with its value."""
    defaults: dict[str, Any]
    """What a key is where nobody sets it; empty where this version cannot tell."""
    recorded: dict[str, Any]
    better: dict[str, str]
    """`lower` or `higher` by the names of scores, where the config says."""
    grids: list[tuple[int, Path]]
    reals: Path | None
    beside: list[tuple[str, Path]]
    """Caption and file of the newest pictures of the other galleries."""

    def last(self, name: str) -> float | None:
        """Return the newest value of a figure; None where it was not measured."""
        return float(self.series[name][1][-1]) if name in self.series else None


def read(run: Path) -> RunFiles:
    """Read a run. Raises InputError where RUN is none, or has no figures yet."""
    directory = locate(run)
    lines = facts.read(directory / "metrics.jsonl")
    if not lines:
        raise InputError(
            f"{directory} has no figures yet (metrics.jsonl); they come every track.every images: wait for the first line"
        )
    config, keys, recorded = _config(directory)
    records = files.read_json_lines(directory / "scores.jsonl")
    status = run_status.of(directory, total=int(config.training.whole_images) if config else None)
    grids = [(facts.position(path.stem), path) for path in sorted((directory / "samples").glob("images-*.png"))]
    return RunFiles(
        directory=directory,
        name=str(keys.get("run.name") or directory.resolve().name),
        status=status,
        series=columns(facts.with_evaluations(lines, records)),
        errors=facts.errors(records, {name for line in lines for name in line}),
        events=files.read_json_lines(directory / "events.jsonl"),
        starts=files.read_json_lines(directory / "environment.jsonl"),
        keys=keys,
        defaults=_defaults(config),
        recorded=recorded,
        better={**_better(config), **facts.declared(records)},
        grids=grids,
        reals=next(iter(sorted((directory / "samples").glob("reals*.png"))), None),
        beside=_beside(directory / "samples"),
    )


def _caption(classes: Path) -> str:
    """Return the caption of a picture of classes, which names them; an own one where it has none, or cannot be read."""
    return pictures.caption(classes) or _BESIDE["classes"]


_BESIDE = {"live": "the same latents, not averaged", "classes": "a row for each class", "samples": "of random latents"}


def _beside(samples: Path) -> list[tuple[str, Path]]:
    newest = {name: sorted((samples / name).glob("images-*.png"))[-1:] for name in _BESIDE}
    return [
        (f"{_caption(path) if name == 'classes' else _BESIDE[name]}, {facts.position(path.stem):,} images", path)
        for name, paths in newest.items()
        for path in paths
    ]


def _config(directory: Path) -> tuple[Config | None, dict[str, Any], dict[str, Any]]:
    """Return the config, its keys, and what was recorded with it; without the config where this version cannot read it."""
    try:
        config, recorded = config_module.read_run(directory)
        return config, redact_all(dict(tree.spread(config.flat()))), recorded
    except InputError:
        pass
    try:
        content = yaml.safe_load((directory / "config.yaml").read_text(errors="replace"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        return None, {}, {}
    recorded = content.pop("gan_dist", {})
    return None, redact_all(dict(tree.spread(content))), recorded if isinstance(recorded, dict) else {}


def _defaults(config: Config | None) -> dict[str, Any]:
    if config is None:
        return {}
    usual = {key: field.default for key, field in tree.fields(type(config)) if not field.is_required()}
    return dict(tree.spread(usual))


def _better(config: Config | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, metric in dict(config.evaluate.scores).items() if config is not None else ():
        better = getattr(metric, "better", "lower")
        if isinstance(better, str):
            found[name] = better
        else:
            found |= {f"{name}/{part}".rstrip("/"): direction for part, direction in better.items()}
    return found


def named(run: RunFiles, name: str) -> RunFiles:
    """Return the same run under another name."""
    return dataclasses.replace(run, name=name)
