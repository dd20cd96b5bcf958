"""`evaluate.best` names a value that a score has."""

import pytest

from gan_dist.config import load
from gan_dist.errors import InputError
from gan_dist.evaluation import METRICS


@pytest.mark.parametrize("best", ["prdc", "prdc/recal", "kid/error"])
def test_a_best_that_no_evaluation_gives_is_refused_with_the_names_that_there_are(best: str) -> None:
    words = ["tests/data/digits.yaml", "--evaluate.every", "100", "--evaluate.scores", "prdc,kid", "--evaluate.best"]
    with pytest.raises(InputError, match=f"{best} is no value of the score {best.partition('/')[0]}; name one: "):
        load([*words, best])
    assert load([*words, "prdc/recall"]).evaluate.best == "prdc/recall"
    assert load([*words, "kid"]).evaluate.best == "kid"


def test_every_built_in_score_says_which_values_it_has() -> None:
    for kind, metric in METRICS.items():
        keys = {"classifier": "digits.pt"} if kind == "modes" else {}
        parts = metric(kind=kind, **keys).parts()
        assert parts
        assert isinstance(metric.better, str) or set(metric.better) <= set(parts)
