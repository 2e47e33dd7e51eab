"""Seeds: no two streams meet, in the bits that PyTorch's generator really looks at."""

import itertools

import pytest
import torch

from cq.core.seeding import IMAGES, RUNS, Purpose, drawn_labels, image_seeds, initial_noise

PURPOSES: tuple[Purpose, ...] = ("evaluation", "calibration", "tuning")


def ends(purpose: Purpose, run_seed: int) -> tuple[int, int]:
    seeds = image_seeds(purpose, run_seed=run_seed, count=IMAGES)
    assert seeds == tuple(range(seeds[0], seeds[0] + IMAGES))
    return seeds[0], seeds[-1]


def test_ranges_of_all_runs_and_purposes_are_disjoint_below_the_bits_that_are_ignored() -> None:
    """`torch.Generator` on the CPU uses the lowest 32 bits; one bit of them tells labels from noise."""
    first = torch.Generator().manual_seed(7)
    second = torch.Generator().manual_seed(7 + 2**32)
    assert torch.equal(torch.randn(4, generator=first), torch.randn(4, generator=second))
    some_runs = (0, 1, 2, 1000, RUNS - 2, RUNS - 1)
    ranges = sorted(ends(purpose, run) for purpose, run in itertools.product(PURPOSES, some_runs))
    assert ranges[0][0] >= 0
    assert ranges[-1][1] < 2**31
    assert all(last < first for (_, last), (first, _) in itertools.pairwise(ranges))


def test_neighbouring_runs_and_purposes_touch_without_overlapping() -> None:
    assert ends("evaluation", 0)[1] + 1 == ends("evaluation", 1)[0]
    assert ends("evaluation", RUNS - 1)[1] + 1 == ends("calibration", 0)[0]
    assert ends("calibration", RUNS - 1)[1] + 1 == ends("tuning", 0)[0]


def test_no_purpose_or_run_repeats_the_noise_of_another() -> None:
    noises = [
        initial_noise(image_seeds(purpose, run_seed=run, count=3), (8,))
        for purpose, run in itertools.product(PURPOSES, (0, 1, RUNS - 1))
    ]
    rows = [tuple(row.tolist()) for noise in noises for row in noise]
    assert len(set(rows)) == len(rows)


def test_the_noise_of_an_image_depends_on_its_seed_alone() -> None:
    together = initial_noise((5, 6, 7), (2, 3, 3))
    torch.manual_seed(123)
    assert torch.equal(initial_noise((6,), (2, 3, 3))[0], together[1])
    assert torch.equal(initial_noise((7, 5), (2, 3, 3)), together[[2, 0]])
    assert together.dtype == torch.float32


def test_drawn_labels_depend_on_each_seed_alone_and_reach_every_class() -> None:
    seeds = image_seeds("evaluation", run_seed=3, count=200)
    labels = drawn_labels(seeds, (1, 4, 9))
    assert set(labels.tolist()) == {1, 4, 9}
    assert torch.equal(drawn_labels(seeds[50:60], (1, 4, 9)), labels[50:60])
    assert labels.dtype == torch.int64


def test_labels_and_noise_are_drawn_from_different_streams() -> None:
    labels = drawn_labels(tuple(range(100)), tuple(range(1000)))
    same_stream = [int(torch.randint(1000, (), generator=torch.Generator().manual_seed(seed))) for seed in range(100)]
    assert sum(a == b for a, b in zip(labels.tolist(), same_stream, strict=True)) < 5  # chance alone


@pytest.mark.parametrize("run_seed", [-1, RUNS])
def test_a_run_outside_the_range_is_refused(run_seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed={run_seed}: must lie in 0\.\.{RUNS - 1}"):
        image_seeds("evaluation", run_seed=run_seed, count=1)


@pytest.mark.parametrize("count", [0, IMAGES + 1])
def test_a_count_outside_the_range_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} images for tuning"):
        image_seeds("tuning", run_seed=0, count=count)


@pytest.mark.parametrize("seed", [-1, 2**31, 2**40])
def test_an_image_seed_that_would_repeat_anothers_noise_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="repeat the noise"):
        initial_noise((seed,), (2,))
