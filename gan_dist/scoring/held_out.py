"""Open the samples that scores compare with instead of the training data, which training does not see."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gan_dist.config import Config
from gan_dist.data import loader
from gan_dist.data.index import Index
from gan_dist.errors import AgreedError, InputError
from gan_dist.redaction import redact
from gan_dist.scoring.prepare import check

if TYPE_CHECKING:
    from gan_dist.engine import Engine

KEY = "evaluate.against"
Shards = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""As data.shards."""


def config_of(config: Config, against: Shards) -> Config:
    """Return the config under which held-out shards are opened and read; the config itself where none are named.

    They may be fewer than a batch of the training, and its cache of blocks, which follows the order of the training, is not
    for them.
    """
    if not against:
        return config
    data = {"shards": against, "source": "", "streams": 1, "workers": 0, "cache_limit": 0, "cache_local": False}
    changes = {f"data.{name}": value for name, value in data.items()}
    return config.with_({**changes, "training.batch": 1, "training.micro_batch": 1})


def chosen(config: Config, against: Shards, judged: str) -> tuple[Config, str]:
    """Return the config under which the real images of a run are read, and what names them; "" for the training data.

    `against` is what the command line names, of sets without pairs some or those of `judged`; the others are then the training
    data. By default evaluate.against.
    """
    shards: Any = against or config.evaluate.against
    if not shards or config.data.drawn:
        return config, ""
    sets = config.data.shards
    if isinstance(sets, dict):
        shards = {**sets, **(shards if isinstance(shards, dict) else {judged: shards})}
    return config_of(config, shards), "--against" if against else KEY


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """While shards are opened, say of which key they are where they will not do. "": of data.shards."""
    try:
        yield
    except InputError as error:
        if not key:
            raise
        said = str(error)
        said = said.replace("data.shards", key) if "data.shards" in said else f"{key}: {said}"
        raise InputError(said) from None


def open_index(config: Config, engine: "Engine") -> Index | None:
    """Return the index of evaluate.against; None where scores are of the training data. All ranks call it.

    Raises AgreedError where the shards are not there, or cannot serve the run.
    """
    held_out = config_of(config, config.evaluate.against)
    if held_out is config:
        return None

    def prepare() -> None:
        with naming(KEY):
            loader.prepare(held_out, progress=engine.is_main)
            loader.open_index(held_out)

    engine.on_main(prepare, where="machine")
    index = loader.open_index(held_out)
    if where := engine.who_differs(index.digest):
        raise AgreedError(f"{KEY} has other contents {where}; give all machines the same shards")
    return index


def compared_with(config: Config, engine: "Engine", index: Index) -> Index:
    """Return the index of what scores compare with: of evaluate.against, else the training data's, `index`.

    All ranks call it. Raises AgreedError where that will not do, and for scores that could not be computed of it.
    """
    held_out = open_index(config, engine)
    found = index if held_out is None else held_out
    engine.on_main(lambda: check(config, len(found)))
    return found


def record(against: Shards, digest: str, samples: int) -> dict[str, Any]:
    """Return what a score's record says of held-out samples, by the digest of their index."""
    return {"where": text_of(against), "data": digest, "samples": samples}


def text_of(shards: Shards) -> str:
    """Return in words which shards are meant: A=FOLDER,B=FOLDER of sets."""
    if isinstance(shards, Mapping):
        return ",".join(f"{name}={text_of(each)}" for name, each in shards.items())
    return redact(shards if isinstance(shards, str) else ",".join(shards))
