"""Networks whose numbers do not matter."""

from collections.abc import Iterator

import pytest
import torch

from gan_dist.networks.statistics import SpectralNorm


@pytest.fixture
def without_numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make networks of no numbers in no time: only the shapes count."""
    monkeypatch.setattr(SpectralNorm, "begin", lambda layer: None)
    with torch.device("meta"):
        yield
