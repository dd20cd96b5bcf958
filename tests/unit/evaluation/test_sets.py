"""Scores of sets equal their formulas and other libraries, at any number of ranks, and the reals are looked at once."""

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gan_dist import rng
from gan_dist.errors import InputError
from gan_dist.evaluation import (
    METRICS,
    Evaluation,
    Metric,
    Ranks,
    ScoreError,
    Sets,
    check,
    collect,
    evaluate,
    moments,
    pairs,
    ranks as ranks_module,
    reference,
    scores,
    sets,
)
from gan_dist.evaluation.features import Features, RandomNetwork
from gan_dist.evaluation.pairs import Wants
from gan_dist.scoring import ImageSet, lines_of, sets_of
from tests.unit.evaluation.ranking import on_ranks


def normal(seed: int, count: int, width: int, deviation: float = 1.0, mean: float = 0.0) -> Tensor:
    return deviation * rng.normal(rng.key(seed, "features"), torch.arange(count), width) + mean


EVERYTHING = Wants(neighbours=True, balls=frozenset({3, 5}), kernels=frozenset({"polynomial", "gaussian"}))


def test_moments_keep_their_digits_far_from_zero_and_are_the_same_bits_on_every_number_of_ranks() -> None:
    rows = normal(1, 700, 300, 0.03, 1000)

    def of_rank(ranks: Ranks) -> moments.Moments:
        sums = moments.Sums(300, ranks.device, ranks.rank, ranks.count)
        for part in torch.split(rows, 128):
            sums.add(part)
        return sums.moments(ranks.gather(sums.columns()))

    (alone,) = on_ranks(1, of_rank)
    assert np.allclose(alone.covariance, np.cov(rows.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-14)
    assert np.allclose(alone.mean, rows.double().mean(0), rtol=1e-15)
    for found in on_ranks(2, of_rank):
        assert torch.equal(found.covariance, alone.covariance)


def test_the_frechet_distance_of_gaussians_is_the_closed_form_and_that_of_a_set_to_itself_is_0() -> None:
    deviations = [torch.linspace(0.5, 2, 24).double(), torch.linspace(1, 3, 24).double()]
    one, other = (moments.Moments(10, i * torch.ones(24).double(), d.square().diag()) for i, d in enumerate(deviations))
    rotation = torch.linalg.qr(normal(2, 24, 24).double()).Q
    turned = [moments.Moments(10, rotation @ m.mean, rotation @ m.covariance @ rotation.T) for m in (one, other)]
    assert moments.frechet(*turned) == pytest.approx(
        24 + float((deviations[0] - deviations[1]).square().sum()), rel=1e-12
    )
    for count, most in ((500, 1e-9), (20, 1e-5)):  # 20 of 64 numbers: the covariance is singular
        same = moments.of(normal(3, count, 64))
        assert abs(moments.frechet(same, same)) < most


def test_pairs_equal_all_distances_and_kernels_in_float64_on_every_number_of_ranks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pairs, "_GROUPS", 4)
    monkeypatch.setattr(pairs, "_ROWS", 25)
    monkeypatch.setattr(pairs, "_COLUMNS", 30)
    fake, real = normal(1, 311, 16, mean=3).numpy(), normal(2, 203, 16, 1.2, mean=3).numpy()

    def of_rank(ranks: Ranks) -> Any:
        within = [pairs.within(rows, EVERYTHING, ranks) for rows in (fake, real)]
        return within, pairs.between(fake, real, *within, EVERYTHING, ranks)

    (_, of_real), both = on_ranks(1, of_rank)[0]
    x, y = torch.from_numpy(real).double(), torch.from_numpy(fake).double()
    distances = torch.cdist(y, x).square()
    own = torch.cdist(x, x).square().fill_diagonal_(math.inf).sort(1).values[:, :10]
    assert torch.allclose(of_real.distances.double(), own, rtol=1e-4)
    assert torch.equal(both.nearest, distances.argmin(1))
    assert torch.allclose(both.to_fake.double(), distances.amin(0), rtol=1e-4)
    assert torch.equal(both.counts[3], (distances <= own[:, 2]).sum(1))
    kernel = (x @ x.T / 16 + 1) ** 3
    assert float(of_real.sums["polynomial"].sum()) == pytest.approx(float(kernel.sum() - kernel.trace()), rel=1e-6)
    gaussian = (1 - torch.exp(-distances / 200)).sum()
    assert float(both.sums["gaussian"].sum()) == pytest.approx(float(gaussian), rel=1e-6)
    for (_, other_real), other in on_ranks(3, of_rank):
        assert torch.equal(other_real.distances, of_real.distances)
        for name in ("polynomial", "gaussian"):
            assert torch.equal(other.sums[name], both.sums[name])
        assert all(
            torch.equal(other.inside[k], both.inside[k]) and torch.equal(other.counts[k], both.counts[k])
            for k in (3, 5)
        )


def compared(fake: Tensor, real: Tensor, wants: Wants = EVERYTHING) -> Any:
    within = [pairs.within(rows.numpy(), wants, Ranks(), around=real.numpy()) for rows in (fake, real)]
    return *within, pairs.between(fake.numpy(), real.numpy(), *within, wants, Ranks())


def test_scores_equal_torch_fidelity_and_prdc_of_the_same_features() -> None:
    from prdc import compute_prdc
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    fake, real = normal(1, 500, 32, 1.2, 0.4).relu(), normal(2, 500, 32).relu()
    statistics = [metric_fid.fid_features_to_statistics(rows.double()) for rows in (fake, real)]
    known = metric_fid.fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert moments.frechet(moments.of(fake), moments.of(real)) == pytest.approx(known, rel=1e-5)

    of_fake, of_real, both = compared(fake, real)
    sums = [each.sums["polynomial"] for each in (of_fake, of_real, both)]
    whole = {"kid_subsets": 1, "kid_subset_size": 500, "kid_degree": 3, "kid_gamma": None, "kid_coef0": 1}
    known = metric_kid.kid_features_to_metric(fake, real, **whole, rng_seed=0, verbose=False)
    value, error = scores.polynomial_mmd(*sums, 500, 500)
    assert value == pytest.approx(known["kernel_inception_distance_mean"], rel=1e-5)
    assert 0 < error < value

    known = metric_prc.prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=True, verbose=False
    )
    known = [known["precision"], known["recall"]]  # in float32
    assert [scores.precision(both, 3), scores.recall(both, 3)] == pytest.approx(known, abs=1e-6)
    known = compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)
    found = (
        scores.precision(both, 5),
        scores.recall(both, 5),
        scores.density(both, 5),
        scores.coverage(both, 5),
    )
    assert found == pytest.approx([known[name] for name in ("precision", "recall", "density", "coverage")], abs=1e-12)

    known = metric_isc.isc_features_to_metric(fake, splits=10, shuffle=False)
    assert scores.inception_score(fake, 10)[0] == pytest.approx(known["inception_score_mean"], rel=1e-5)


def test_copies_and_other_ties_are_counted_as_in_exact_arithmetic_and_in_any_order() -> None:
    """A generator that copies 30 real images, ten times each: all its distances are ties."""
    real = 0.4 * normal(1, 300, 64) + 20
    fake = real[:30].repeat_interleave(10, 0)
    x, y = real.double(), fake.double()
    own = (x[:, None] - x[None]).square().sum(2).sort(1).values[:, 5]
    apart = (y[:, None] - x[None]).square().sum(2)
    for order in (torch.arange(300), normal(2, 300, 1)[:, 0].argsort()):
        _, of_real, both = compared(fake[order], real)
        assert scores.precision(both, 5) == 1
        assert scores.recall(both, 3) == pytest.approx(0.1)  # as torch-fidelity
        assert scores.density(both, 5) == pytest.approx(float((apart < own).sum(1).double().mean() / 5))  # as prdc
        assert scores.coverage(both, 5) == pytest.approx(float((apart.amin(0) < own).double().mean()))
        assert scores.authenticity(both, of_real) == 0
        assert scores.nearness(both, of_real) == 0


def test_kid_of_equal_distributions_is_0_within_its_error() -> None:
    found = []
    for seed in range(12):
        fake, real = normal(100 + seed, 200, 16), normal(200 + seed, 200, 16)
        three = compared(fake, real, Wants(kernels=frozenset({"polynomial"})))
        found.append(scores.polynomial_mmd(*(each.sums["polynomial"] for each in three), 200, 200))
    values, errors = np.array(found).T
    assert abs(values.mean()) < 4 * values.std() / 12**0.5
    assert 0.4 < errors.mean() / values.std() < 2.5
    subsets = [(torch.arange(200), torch.arange(200))]
    assert scores.subset_mmd(fake, real, subsets)[0] == pytest.approx(values[-1], abs=1e-7)


def test_a_copied_data_set_is_0_percent_authentic_and_a_dropped_half_is_seen_by_coverage() -> None:
    real = normal(1, 300, 8)
    _, of_real, both = compared(real.clone(), real)
    assert scores.authenticity(both, of_real) == 0
    assert scores.nearness(both, of_real) < 0.01
    _, of_real, both = compared(normal(2, 300, 8), real)
    assert scores.authenticity(both, of_real) > 30
    assert 0.8 < scores.nearness(both, of_real) < 1.2
    whole = scores.coverage(both, 5)
    halved = normal(2, 300, 8)
    halved[:, 0] = halved[:, 0].abs() + 1
    _, of_real, both = compared(halved, real)
    assert scores.coverage(both, 5) < 0.6 * whole


def images(seed: int, shift: float = 0.0) -> Callable[[range], Tensor]:
    def draw(numbers: range) -> Tensor:
        values = rng.normal(rng.key(seed, "pixels"), torch.arange(numbers.start, numbers.stop), 8 * 8)
        return (0.4 * values + shift).clamp(-1, 1).view(-1, 1, 8, 8)

    return draw


class Counted:
    """An extractor that counts the images that it has looked at."""

    def __init__(self) -> None:
        self.seen = 0
        self._features = RandomNetwork(kind="random").build(torch.device("cpu"))

    def features(self) -> Features:
        def of(pixels: Tensor) -> Tensor:
            self.seen += len(pixels)
            return self._features.of(pixels)

        return Features(of, self._features.facts)


SCORES: dict[str, Metric] = {
    "kid": METRICS["kid"](kind="kid", features="random"),
    "fd": METRICS["fd"](kind="fd", features="random", few=True),
    "prdc": METRICS["prdc"](kind="prdc", features="random"),
    "nearest": METRICS["neighbours"](kind="neighbours", features="random", count=4),
    "pixels": METRICS["pixels"](kind="pixels"),
}


def scored(
    folder: Path, ranks: Ranks, counted: Counted, data: str = "a", fake: Callable[[range], Tensor] | None = None
) -> Evaluation:
    features = counted.features()
    about = {"data": data, "extractor": dict(features.facts)}
    found = reference(about, folder, collect(images(2), 200, features, ranks), 200, ranks)
    sets = Sets({"random": features}, {"random": found}, folder)
    return evaluate(SCORES, fake or images(1, 0.1), images(2), 300, 200, ranks=ranks, sets=sets)


def test_an_evaluation_of_sets_is_the_same_on_every_number_of_ranks_and_looks_at_each_image_once(
    tmp_path: Path,
) -> None:
    counted = Counted()
    alone = scored(tmp_path / "one", Ranks(), counted)
    assert counted.seen == 200 + 300  # whatever the number of metrics
    assert alone.scores.keys() == {
        *("score/kid", "score/kid/error", "score/fd", "score/nearest", "score/pixels"),
        *(f"score/prdc/{name}" for name in ("precision", "recall", "density", "coverage")),
    }
    assert len(alone.shown["nearest"]) == 4
    first, *others = on_ranks(3, lambda ranks: scored(tmp_path / "three", ranks, Counted()))
    assert first.scores == alone.scores
    assert first.shown == alone.shown
    assert all(other.scores == {} for other in others)
    assert [path.name[:10] for path in (tmp_path / "three/evaluation").iterdir()] == [
        "reference-"
    ]  # nothing else stays


def test_the_real_images_are_looked_at_once_and_again_where_they_are_others(tmp_path: Path) -> None:
    counted = Counted()
    before = scored(tmp_path, Ranks(), counted)
    assert scored(tmp_path, Ranks(), counted).scores == before.scores
    assert counted.seen == 500 + 300
    scored(tmp_path, Ranks(), counted, data="b")
    assert counted.seen == 800 + 500
    torn = next((tmp_path / "evaluation").glob("reference-*/moments.safetensors"))
    torn.write_bytes(torn.read_bytes()[:100])  # it is made again
    assert scored(tmp_path, Ranks(), counted).scores == before.scores


def test_a_failure_on_one_rank_is_an_error_on_all_and_leaves_nothing_behind(tmp_path: Path) -> None:
    def broken(numbers: range) -> Tensor:
        found = images(1)(numbers)
        if 100 in numbers:
            found[0, 0, 0, 0] = torch.nan
        return found

    def of_rank(ranks: Ranks) -> str:
        with pytest.raises(Exception, match="not finite") as caught:
            scored(tmp_path, ranks, Counted(), fake=broken)
        return type(caught.value).__name__

    assert on_ranks(2, of_rank) == ["ScoreError", "ScoreError"]
    assert not list((tmp_path / "evaluation").glob(".generated*"))


def test_what_fails_on_one_rank_beside_the_metrics_is_an_error_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    between, end = pairs.between, sets.Collector._end

    def oom(*words: Any) -> Any:
        if words[-2].rank == 1:
            raise torch.OutOfMemoryError("no memory")
        return between(*words)

    def full(self: sets.Collector) -> Any:
        if self._ranks.rank == 0 and ".generated" in str(self._folder):
            raise OSError(28, "No space left on device")
        return end(self)

    def of_rank(ranks: Ranks) -> str:
        with pytest.raises(ScoreError) as caught:
            scored(tmp_path, ranks, Counted())
        return str(caught.value)

    places: tuple[tuple[Any, str, Any, str], ...] = (
        (pairs, "between", oom, "no memory"),
        (sets.Collector, "_end", full, "No space left"),
    )
    for place, name, work, words in places:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, work)
            one, other = on_ranks(2, of_rank)
        assert one == other
        assert words in one
    assert [path.name[:10] for path in (tmp_path / "evaluation").iterdir()] == ["reference-"]


def test_evaluations_that_share_a_cache_do_not_disturb_each_other(tmp_path: Path) -> None:
    rows = normal(1, 200, 8).numpy()

    def half_done(collector: sets.Collector) -> None:
        collector.add(rows[:100])
        found.append(reference({"a": 1}, tmp_path, lambda other: other.add(rows), 200, Ranks()))
        collector.add(rows[100:])

    found: list[sets.FeatureSet] = []
    found.append(reference({"a": 1}, tmp_path, half_done, 200, Ranks()))
    assert all(np.array_equal(each.rows, rows) for each in found)
    assert len(list((tmp_path / "evaluation").iterdir())) == 1


def test_what_killed_evaluations_left_is_deleted_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    for name in (".generated-killed.host.part", ".reference-killed.host.part", ".generated-old", ".generated-new"):
        (folder / name).mkdir(parents=True)
        (folder / name / "features.npy").touch()
    for name in (".generated-killed.host.part", ".reference-killed.host.part"):
        (folder / name / ".lock").touch()
    for path in (folder / ".generated-old/features.npy", folder / ".generated-old"):
        os.utime(path, (1, 1))
    with sets.scratch(tmp_path, Ranks()) as alive, sets.scratch(tmp_path, Ranks()):
        there = {path.name for path in folder.iterdir()}
        assert alive.exists()
        assert len(there) == 3
        assert ".generated-new" in there  # it may be about to be locked
    assert [path.name for path in folder.iterdir()] == [".generated-new"]


def test_the_limit_is_that_of_its_distances_and_says_that_it_goes_on(tmp_path: Path) -> None:
    features = Counted().features()
    found = reference({}, tmp_path, collect(images(2), 200, features, Ranks()), 200, Ranks())
    fake = reference({"fake": 1}, tmp_path, collect(images(1), 300, features, Ranks()), 300, Ranks())
    beats: list[int] = []
    none = pairs.Within(torch.zeros(0, 0), {})
    both = sets.compare(features, fake, found, Wants(), Ranks(), lambda: None)
    both = dataclasses.replace(both, fake_pairs=none, beat=lambda: beats.append(1))
    metric = METRICS["fd"](kind="fd", features="random", few=True, limit=True)
    rows = torch.from_numpy(fake.rows.copy())
    sizes = torch.linspace(30, 300, 15).long().tolist()
    known = [moments.frechet(moments.of(rows[:size]), found.moments) for size in sizes]
    line = np.polyfit(1 / np.array(sizes), known, 1)
    assert metric.score(both)["limit"] == pytest.approx(line[1], rel=1e-6)
    assert len(beats) == 15


def test_ranks_that_wait_for_the_first_one_are_heard_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "_BUSY", 0.0)

    def of_rank(ranks: Ranks) -> int:
        beats: list[int] = []
        with ranks.agreed() as own:
            own.on_main(lambda beat: [beat() for _ in range(5)], lambda: beats.append(1))
        return len(beats)

    assert on_ranks(3, of_rank) == [5, 5, 5]


def test_what_a_score_cannot_be_made_of_is_told_before_an_image_is_drawn() -> None:
    score, random = METRICS["inception_score"](kind="inception_score", features="random"), RandomNetwork(kind="random")
    with pytest.raises(InputError, match="the score is needs features that name classes"):
        check({"is": score}, {"random": random}, 1000)
    limit = METRICS["fd"](kind="fd", features="random", limit=True)
    with pytest.raises(InputError, match="needs 258 generated images or more, and there are 257"):
        check({"fd": limit}, {"random": random}, 257)


def test_a_score_that_compares_with_nothing_looks_at_two_real_images(tmp_path: Path) -> None:
    looked: list[int] = []

    def read(number: int) -> np.ndarray:
        looked.append(number)
        return np.full((8, 8, 1), number, np.uint8)

    real = ImageSet(50, (8, 8), 1, read, {"data": "d"})
    extractors = {"random": RandomNetwork(kind="random")}
    alone = METRICS["inception_score"](kind="inception_score", features="random")
    found = sets_of(extractors, real, tmp_path, Ranks(), metrics={"is": alone})
    assert (len(looked), found.references["random"].rows.shape) == (2, (2, 256))
    both = {"is": alone, "kid": METRICS["kid"](kind="kid", features="random")}
    assert sets_of(extractors, real, tmp_path, Ranks(), metrics=both).references["random"].moments.count == 50


def test_the_deviation_over_subsets_is_the_error_of_their_mean_in_the_record(tmp_path: Path) -> None:
    features = Counted().features()
    found = reference({}, tmp_path, collect(images(2), 64, features, Ranks()), 64, Ranks())
    of = Sets({"random": features}, {"random": found}, tmp_path)
    kid = METRICS["kid"](kind="kid", features="random", subsets=3, size=20)
    evaluation = evaluate({"kid": kid}, images(1), None, 64, sets=of)
    lines = {line["metric"]: line for line in lines_of(evaluation, {"kid": kid}, of, None, torch.device("cpu"), {})}
    assert lines.keys() == {"kid", "kid/subsets"}
    assert lines["kid"]["error"] == evaluation.scores["score/kid/error"]
    assert lines["kid/subsets"]["error"] == evaluation.scores["score/kid/subsets/deviation"] > 0


def test_too_few_images_are_told_with_how_many_are_needed(tmp_path: Path) -> None:
    features = Counted().features()
    found = reference({}, tmp_path, collect(images(2), 200, features, Ranks()), 200, Ranks())
    sets = Sets({"random": features}, {"random": found}, tmp_path)
    metric = METRICS["fd"](kind="fd", features="random")
    with pytest.raises(InputError, match="needs 257 generated images or more, and there are 100"):
        evaluate({"fd": metric}, images(1), None, 100, ranks=Ranks(), sets=sets)
    with pytest.raises(InputError, match="needs 257 real images or more, and there are 200"):
        evaluate({"fd": metric}, images(1), None, 300, ranks=Ranks(), sets=sets)
