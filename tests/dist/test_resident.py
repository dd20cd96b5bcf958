"""A run with samples in memory has the digest of a run that decodes each time, at any number of ranks."""

from pathlib import Path

import pytest

from tests import making
from tests.launching import digests, train

pytestmark = [pytest.mark.slow, pytest.mark.dist]


def test_a_run_has_the_same_digest_with_samples_in_memory_on_other_ranks(tmp_path: Path) -> None:
    members = making.samples(40, classes=3)
    members[2 * 23] = (members[2 * 23][0], members[2 * 23][1][:60] + b"\0" * 20)  # another stands in for it
    making.write_tar(tmp_path / "data/0.tar", members)
    more = {"data__labels": True, "data__flip": True, "data__max_bad_fraction": 0.5, "checkpoint__every": 160}
    more |= {"training__strategy": "exact", "augment__diffaugment": "{}", "training__images": 320}

    def play(name: str, processes: int, **own: object) -> str:
        done = train(making.tiny(tmp_path / "data", tmp_path / name, **{**more, **own}), processes)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    play("plain", 1)
    # 176 images end in the middle of the fifth epoch; what is kept fills again after the resume
    said = play("kept", 2, data__resident="host", data__workers=1, training__images=176)
    said += play("kept", 1, data__resident="auto")
    assert said.count("data.resident: host: 40 decoded samples, 10 KiB, are kept") == 2
    assert said.count("data.resident: all samples are in memory, workers have ended") == 2
    assert digests(tmp_path / "kept")["images-000000320"] == digests(tmp_path / "plain")["images-000000320"]
