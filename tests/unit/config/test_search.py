"""Keys are found by their names, by what they do, and by what other tools call them."""

import json

import pytest

from gan_dist import cli
from gan_dist.config import search
from gan_dist.config.names import MEANINGS


@pytest.fixture(scope="module")
def known() -> list[search.Found]:
    return search.everything()


@pytest.mark.parametrize(
    ("words", "first"),
    [
        (["lr"], "optimizers.generator.learning_rate"),
        (["learning", "rate"], "optimizers.generator.learning_rate"),
        (["--gamma"], "penalties.r1.weight"),
        (["batch-size"], "training.batch"),
        (["training.batch"], "training.batch"),
        (["hinge"], "loss.kind"),
        (["ada", "target"], "augment.ada.target"),
        (["mirror"], "data.flip"),
        (["Half-life", "average"], "average.half_life"),
        (["attention"], "networks.generator.attention"),
        (["output"], "run.directory"),
        (["output", "folder"], "run.directory"),
        (["output", "qqq"], "run.directory"),
        (["grayscale"], "data.channels"),
        (["optimizer"], "optimizers.generator.kind"),
    ],
)
def test_words_find_the_key_they_mean_first(known: list[search.Found], words: list[str], first: str) -> None:
    found, _ = search.search(known, words)
    assert first in found[0].keys


def test_every_key_that_another_tool_s_word_means_is_found(known: list[search.Found]) -> None:
    all_keys = {key for found in known for key in found.keys}
    for word, meaning in MEANINGS.items():
        exist = [key for key in meaning.keys if any(f".{each}".endswith(f".{key}") for each in all_keys)]
        places = [key for key in meaning.keys if any(each.startswith(f"{key}.") for each in all_keys)]
        assert exist or places or not meaning.keys, word
        found, note = search.search(known, [word])
        assert note == meaning.note
        told = [key for each in found for key in each.keys]
        assert all(any(f".{each}".endswith(f".{key}") for each in told) for key in exist), word


def test_it_is_known_which_parts_and_games_have_a_key_and_whether_it_is_free(known: list[search.Found]) -> None:
    by_key = {(key, tuple(found.kinds)): found for found in known for key in found.keys}
    assert by_key["networks.generator.attention", ("biggan",)].type == "[int, ...]"
    gamma = by_key["game.gamma", ("vae_gan",)]
    assert (gamma.games, gamma.default, gamma.free) == (["vae_gan"], "0.01", False)
    assert by_key["training.images", ()].default is None
    assert by_key["training.images", ()].games == []
    assert by_key["evaluate.scores.psnr.border", ("psnr", "ssim")].free
    assert by_key["networks.generator.truncation", ("stylegan2",)].free
    makers = next(each for each in known if each.keys == ["networks.encoder.kind"])
    assert makers.type == "{autoencoder}"  # no other network encodes


def test_the_command_prints_where_a_key_is_and_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "lr_d"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("optimizers.discriminator.learning_rate\n  float|SCHEDULE [default: 0.0002] mathematics")
    assert cli.main(["keys", "epochs", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["note"] == "the number of epochs times the number of samples"
    assert told["keys"][0]["keys"] == ["training.images"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("leraning_rate", "did you mean learning_rate"),
        ("zzzz", "no key has zzzz in its name or description; try a shorter word"),
        ("nnodes", "no key is called nnodes; several machines: gan-dist slurm"),
        ("...", "try a shorter word"),
        ("(", "try a shorter word"),
    ],
)
def test_a_word_that_finds_nothing_is_one_line(word: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", word]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1
