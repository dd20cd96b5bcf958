"""No secret reaches a file of a run or W&B."""

import pytest

from gan_dist.redaction import redact, redact_all


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        (
            "https://host/train-{0..9}.tar?X-Amz-Signature=abc&x=1",
            "https://host/train-{0..9}.tar?[removed]",
        ),
        (
            "see https://a/b.tar?sig=x, and s3://me:pw@c/d.tar",
            "see https://a/b.tar?[removed] and s3://[removed]@c/d.tar",
        ),
        ("https://user@host/x", "https://[removed]@host/x"),
        (
            "WANDB_API_KEY=0123 HF_TOKEN='a b' db.password=x, n=3",
            "WANDB_API_KEY=[removed] HF_TOKEN=[removed] db.password=[removed], n=3",
        ),
        ("curl -H 'Authorization: Bearer abc.def' x", "curl -H 'Authorization: [removed]' x"),
        ("train-????.tar", "train-????.tar"),
        ("https://host/train.tar", "https://host/train.tar"),
        ("monkey=3 keys=4", "monkey=3 keys=4"),
    ],
)
def test_secrets_are_removed_and_the_rest_stays(text: str, safe: str) -> None:
    assert redact(text) == safe
    assert redact(safe) == safe


def test_texts_at_any_depth_are_redacted() -> None:
    tree = {"data": {"shards": ["https://a/b?c", 3]}, "seed": 0, "none": None}
    assert redact_all(tree) == {"data": {"shards": ["https://a/b?[removed]", 3]}, "seed": 0, "none": None}
