"""The config of a run: common.py has the keys of every run, compose.py adds those of its parts, loading.py reads them."""

from gan_dist.config.common import Config, default_cache, differences, other_bits
from gan_dist.config.loading import find, load, read_run, to_yaml, validate
from gan_dist.config.no_data import NoData
from gan_dist.config.parts import keep as keep_parts
from gan_dist.config.section import FREE, Fraction, Many, One, Part, Positive, Section
from gan_dist.config.tree import fields

__all__ = [
    "FREE",
    "Config",
    "Fraction",
    "Many",
    "NoData",
    "One",
    "Part",
    "Positive",
    "Section",
    "default_cache",
    "differences",
    "fields",
    "find",
    "keep_parts",
    "load",
    "other_bits",
    "read_run",
    "to_yaml",
    "validate",
]
