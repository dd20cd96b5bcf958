"""Secrets in recorded text are recognised by their value's surroundings."""

import pytest

from gan_dist import provenance
from gan_dist.data import shards
from gan_dist.redaction import redact, redact_all


@pytest.mark.parametrize(
    "text",
    [
        "apptainer exec --env WANDB_API_KEY=abc123 image.sif",
        "--env A=1,HF_TOKEN=abc123,B=2",
        "HF_TOKEN='abc123 more'",
        "https://b.example/x.tar?X-Amz-Algorithm=A&X-Amz-Signature=abc123&X-Amz-Expires=3",
        "https://b.example/x.tar?sv=2020&sig=abc123%3D&se=3",
        "https://b.example/x?AWSAccessKeyId=abc123&Expires=3",
        "https://me:abc123@host/x.tar",
        "https://abc123abc123abc123abc123@host/x.git",
        "pipe:curl -H 'Authorization: Bearer abc123abc123' https://host/x",
        "tool --password abc123 --api-key abc123 run",
        '{"token": "abc123"}',
        "login ghp_abc123abc123abc123abc123",
    ],
)
def test_the_secret_is_gone_and_the_rest_is_there(text: str) -> None:
    redacted = redact(text)
    assert "abc123" not in redacted
    assert "***" in redacted
    assert redacted.split("***")[0] == text[: len(redacted.split("***")[0])]


@pytest.mark.parametrize(
    "text",
    [
        "CUDA_VISIBLE_DEVICES=0,1",
        "monkey=3 keyboard=4 compass=n passes=2 SLURM_KEYS=3",
        "ssh://host:22/x me@host",
        "max_tokens=5 --pass-through yes TOKENIZERS_PARALLELISM=false",
        "python gan_dist/train.py configs/digits.yaml --training.images 5",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_a_run_records_no_secret_of_its_variables() -> None:
    found = provenance.variables(
        {
            "GAN_DIST_WRAP": "apptainer exec --env WANDB_API_KEY=abc123 image.sif",
            "NCCL_DEBUG": "WARN",
            "GAN_DIST_TOKEN": "abc123",
            "HOME": "/home/x",
        }
    )
    assert found == {"GAN_DIST_WRAP": "apptainer exec --env WANDB_API_KEY=*** image.sif", "NCCL_DEBUG": "WARN"}


def test_texts_at_any_depth_are_redacted() -> None:
    tree = {"data": {"shards": ["https://a/b?c", 3]}, "seed": 0, "none": None}
    assert redact_all(tree) == {"data": {"shards": ["https://a/b?***", 3]}, "seed": 0, "none": None}
    assert redact_all("train-????.tar") == "train-????.tar"
    assert redact(redact("https://host/x?y=z WANDB_API_KEY=1")) == redact("https://host/x?y=z WANDB_API_KEY=1")


def test_secrets_are_found_by_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/home/me/key.json")
    assert (
        redact("signing failed: wJalrXUtnFEMI/K7MDENG, /home/me/key.json") == "signing failed: ***, /home/me/key.json"
    )
    shards.expand("https://me:pass%21word%21word@host/0.tar?Policy=eyJTdGF0ZW1lbnQiOl9f&x=1")
    for secret in ("pass%21word%21word", "pass!word!word", "eyJTdGF0ZW1lbnQiOl9f"):
        assert redact(f"<{secret}>") == "<***>"
