"""Score a run or folders of images: where the images come from, what is recorded of a score, and the work over ranks."""

from gan_dist.scoring.held_out import compared_with
from gan_dist.scoring.images import ImageSet, of_index, of_source
from gan_dist.scoring.pictures import pictures_of
from gan_dist.scoring.prepare import check, learnt, ranks_of, ready, sets_of
from gan_dist.scoring.record import lines_of
from gan_dist.scoring.ways import inputs

__all__ = [
    "ImageSet",
    "check",
    "compared_with",
    "inputs",
    "learnt",
    "lines_of",
    "of_index",
    "of_source",
    "pictures_of",
    "ranks_of",
    "ready",
    "sets_of",
]
