"""Define when a run is not to go on, and from where on a signal of collapse is suspect (control.limits)."""

from typing import Annotated, Literal

from pydantic import Field

from gan_dist.config.section import Positive, Section
from gan_dist.figures import LOGITS

__all__ = ["LOGITS", "Control", "Limits"]

Part = Annotated[float, Field(ge=0, le=1)]


class Limits(Section):
    """Where signals of collapse become suspect. docs/is-it-working.md says what each one is, and how these were chosen."""

    all_free = True

    readings: Positive = 5
    """Readings in a row beyond a limit that make an alarm, and within it that end the alarm."""
    warm_up: Annotated[int, Field(ge=0)] = 20_000
    """Images before which the averaged generator is not judged; 4 half-lives of the average, where that is more."""
    warm_up_live: Annotated[int, Field(ge=0)] = 5_000
    """Images before which logits and gradients are not judged; twice as many for images of the generator as it trains."""
    warm_up_steps: Annotated[int, Field(ge=0)] = 150
    """Steps before which these are not judged, however many images they have; 4 times as many for the averaged generator."""
    diversity: Annotated[float, Field(ge=0)] = 0.45
    """Least collapse/diversity, 1 being that of real images."""
    diversity_in_class: Annotated[float, Field(ge=0)] = 0.3
    """Least collapse/diversity_in_class, the same of images of one class."""
    diversity_high: Annotated[float, Field(gt=0)] = 1.4
    """Most collapse/diversity, of both generators."""
    diversity_of_best: Part = 0.6
    """Least collapse/diversity as a part of the run's best until then."""
    diversity_live: Annotated[float, Field(ge=0)] = 0.3
    """Least collapse/diversity_live, the same of the generator as it trains."""
    duplicates: Part = 0.1
    """Most collapse/duplicates: pairs that are nearer than the nearest 0.1 % of real pairs."""
    duplicates_live: Part = 0.5
    """Most collapse/duplicates_live."""
    cells: Part = 0.25
    """Most collapse/cells: parts of the data that no sample falls into."""
    labels: Annotated[float, Field(ge=0)] = 1.6
    """Least data/labels, of a run with data.labels: 1 for labels at random."""
    gap: Annotated[float, Field(gt=0)] | None = None
    """Most score/gap; 0.6 of it while the generator is not good. Default: by the loss, 12 for logits and 4 for hinge."""
    level: Annotated[float, Field(gt=0)] | None = None
    """Most score/level. Default: for the Wasserstein loss the length of an image, sqrt(channels * height * width)."""
    accuracy: Part = 0.55
    """Least score/accuracy, 0.5 being a guess, while the generator is not good."""
    good: Annotated[float, Field(ge=0)] = 0.6
    """The generator is good while collapse/diversity_live is from here to control.limits.diversity_high: then a discriminator
    may be unsure, or very sure."""
    sign_real: Part = 0.9
    """Most score/sign_real, for control.limits.sign_real_images, while the generator is not good."""
    sign_real_images: Positive = 100_000
    """Images that score/sign_real must have been too high for."""
    ratio: Annotated[float, Field(gt=0)] = 1.2
    """Most grad_norm/ratio, and least with a minus: powers of ten between the gradients of the players."""


class Control(Section):
    all_free = True

    hang_seconds: Annotated[float, Field(gt=0)] = 600.0
    """A process that makes no progress for so long ends the job, with its name and its stack in RUN/logs."""
    max_bad_steps: Positive = 20
    """Updates of a player in a row that may be skipped for a loss or gradient that is not finite; then the run goes back
    to its last checkpoint, once, and the next time it stops."""
    desync_every: Annotated[int, Field(ge=0)] = 0
    """Images between two comparisons of the weights over processes, beside the one at each save. 0: at saves only."""
    margin_seconds: Annotated[float, Field(ge=0)] = 120.0
    """How long before the end of a Slurm job to save and stop."""
    collapse: Literal["off", "warn", "stop"] = "warn"
    """What to do when a signal of collapse is suspect. warn: say it, in events.jsonl, on the console and in W&B, and keep the
    checkpoint from before. stop: also save and stop, with exit code 1. off: nothing; the signals are logged all the same."""
    limits: Limits = Limits()
    """From where on a signal is suspect."""
