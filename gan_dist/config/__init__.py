"""The config of a run: schema.py has every key with its meaning, loading.py reads files and command lines."""

from gan_dist.config.common import FREE_KEYS, Config, default_cache, differences, fields, other_bits
from gan_dist.config.games import Adam, Penalty
from gan_dist.config.loading import find, load, read_run, to_yaml, validate

__all__ = [
    "FREE_KEYS",
    "Adam",
    "Config",
    "Penalty",
    "default_cache",
    "differences",
    "fields",
    "find",
    "load",
    "other_bits",
    "read_run",
    "to_yaml",
    "validate",
]
