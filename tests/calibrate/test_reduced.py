"""Calibration on a part of each map."""

import pytest
import torch
from torch.testing import assert_close

from cq.calibrate.reduced import ReducedCalibrate

OPTIONS = {"num_samples": 4, "batch_size": 2, "max_interval": 5}


@pytest.mark.parametrize("method", ["positions", "pooling"])
def test_a_reduced_map_keeps_channels_and_is_the_same_for_every_call(method: str) -> None:
    reduced = ReducedCalibrate(**OPTIONS, keep=6, method=method)  # type: ignore[arg-type]
    x = torch.randn(3, 4, 5, 5)
    once = reduced.reduce(x)
    assert once.shape == (3, 4, 6)
    assert torch.equal(reduced.reduce(x), once)
    assert torch.equal(reduced.reduce(2 * x), 2 * once)


def test_kept_positions_are_positions_of_the_map_and_pools_are_means() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    chosen = ReducedCalibrate(**OPTIONS, keep=5, method="positions").reduce(x)
    assert len(set(chosen.flatten().tolist())) == 5
    pooled = ReducedCalibrate(**OPTIONS, keep=4, method="pooling").reduce(x)
    assert_close(pooled, torch.tensor([[[1.5, 5.5, 9.5, 13.5]]]))


@pytest.mark.parametrize("method", ["positions", "pooling"])
def test_a_map_that_is_small_enough_is_kept_whole(method: str) -> None:
    x = torch.randn(2, 3, 2, 2)
    assert torch.equal(ReducedCalibrate(**OPTIONS, keep=4, method=method).reduce(x), x.flatten(2))  # type: ignore[arg-type]


def test_nothing_kept_is_refused() -> None:
    with pytest.raises(ValueError, match=r"calibrate\.keep=0"):
        ReducedCalibrate(**OPTIONS, keep=0, method="positions")
