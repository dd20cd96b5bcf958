"""Words of other tools, and names that will not do, are one useful line before anything is trained."""

from pathlib import Path

import pytest

from gan_dist.config import load
from gan_dist.errors import InputError
from tests import making
from tests.launching import REPOSITORY

DIGITS = str(REPOSITORY / "tests/data/digits.yaml")


def refused(*words: str, config: str = DIGITS) -> str:
    with pytest.raises(InputError) as caught:
        load([config, *words])
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--lr", "0.1"),
            "unknown argument --lr; did you mean --optimizers.generator.learning_rate or "
            "--optimizers.discriminator.learning_rate?",
        ),
        (
            ("--optimizer.G.lr", "0.1"),
            "unknown argument --optimizer.G.lr; did you mean --optimizers.generator.learning_rate?",
        ),
        (("--batch_size", "8"), "unknown argument --batch_size; did you mean --training.batch (the batch of all"),
        (("--epochs", "3"), "did you mean --training.images (the number of epochs times the number of samples)?"),
        (("--outdir", "x"), "unknown argument --outdir; did you mean --run.directory?"),
        (("--gpus", "2"), "unknown argument --gpus; all GPUs of this machine: ./launch/run.sh CONFIG"),
        (("--training.bacth", "8"), "unknown argument --training.bacth; did you mean --training.batch?"),
        (("--qqq", "8"), "unknown argument --qqq; `"),
    ],
)
def test_a_word_of_another_tool_names_our_key(words: tuple[str, ...], says: str) -> None:
    assert says in refused(*words)


def test_a_word_of_another_tool_in_a_file_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(Path(DIGITS).read_text() + "optimizer:\n  lr: 0.1\n")
    said = refused(config=str(path))
    line = len(path.read_text().splitlines()) - 1
    assert said.startswith(
        f"{path}, line {line}: unknown key optimizer; did you mean optimizers.generator.learning_rate"
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--evaluate.every", "64", "--evaluate.scores.real.kind", "pixels"),
            "evaluate.scores.real: score/real is the mean logit in metrics.jsonl; give another name",
        ),
        (
            ("--evaluate.every", "64", "--evaluate.scores.a b.kind", "pixels"),
            "evaluate.scores: 'a b' is no name of a score",
        ),
        (("--track.panels.images.kind", "weights"), "track.panels.images: images is the position of every line"),
        (("--track.panels.../x.kind", "weights"), "is no name of a panel or score"),
    ],
)
def test_a_bad_name_of_a_score_or_panel_is_refused_with_the_config(words: tuple[str, ...], says: str) -> None:
    assert says in refused(*words)


def test_good_names_of_scores_and_panels_are_taken() -> None:
    words = ["--evaluate.every", "64", "--evaluate.scores.pixels.kind", "pixels", "--track.panels.w-1.kind", "weights"]
    config = load([DIGITS, *words, *making.flags({"run.directory": "unused"})])
    assert type(config.evaluate.scores).model_fields.keys() == {"pixels"}
    assert type(config.track.panels).model_fields.keys() == {"w-1"}
