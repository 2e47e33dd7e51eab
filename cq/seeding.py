"""Every image owns its seed; calibration, tuning and evaluation draw from ranges that cannot meet."""

from typing import Literal

import torch
from torch import Tensor

Purpose = Literal["evaluation", "calibration", "tuning"]

STRIDE = 1_000_000  # seeds a purpose may use in one run
_OFFSET: dict[Purpose, int] = {"evaluation": 0, "calibration": 1 << 40, "tuning": 1 << 41}


def image_seeds(purpose: Purpose, *, run_seed: int, count: int) -> tuple[int, ...]:
    """`count` seeds of run `run_seed`, disjoint from every other run's and purpose's."""
    if not 0 <= run_seed < STRIDE:
        raise ValueError(f"seed={run_seed}: must lie in 0..{STRIDE - 1}.")
    if not 1 <= count <= STRIDE:
        raise ValueError(f"{count} images for {purpose}: must lie in 1..{STRIDE}. Use several seeds for more.")
    first = _OFFSET[purpose] + run_seed * STRIDE
    return tuple(range(first, first + count))


def initial_noise(seeds: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 [len(seeds), *shape]; row i depends on seeds[i] alone."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def drawn_labels(seeds: tuple[int, ...], classes: tuple[int, ...]) -> Tensor:
    """int64 [len(seeds)], each drawn uniformly from `classes` by its own seed (another stream than the noise)."""
    picks = [
        torch.randint(len(classes), (), generator=torch.Generator().manual_seed(~seed & (2**62 - 1))) for seed in seeds
    ]
    return torch.tensor([classes[int(pick)] for pick in picks])
