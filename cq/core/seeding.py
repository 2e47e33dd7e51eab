"""Every image owns its seed; calibration, tuning and evaluation draw from ranges that cannot meet.

PyTorch's CPU generator looks at the lowest 32 bits of a seed and at no other: seeds that agree in them give the same
numbers. So everything that tells two streams apart has bits of its own below 2^32: one for noise or label, two for
the purpose, twelve for the run, seventeen for the image.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a look at the numbers of a configuration needs no tensor
    import torch
    from torch import Tensor

Purpose = Literal["evaluation", "calibration", "tuning"]

IMAGES = 2**17  # seeds a purpose may use in one run
RUNS = 2**12
SEARCH_SEEDS = range(RUNS - 96, RUNS)  # run seeds set aside for searches: what is chosen on them is judged on others
_INDEX: dict[Purpose, int] = {"evaluation": 0, "calibration": 1, "tuning": 2}
_LABEL = 2**31  # set in the seeds that draw labels


def image_seeds(purpose: Purpose, *, run_seed: int, count: int) -> tuple[int, ...]:
    """`count` seeds of run `run_seed`, disjoint from every other run's and purpose's."""
    if not 0 <= run_seed < RUNS:
        raise ValueError(f"seed={run_seed}: must lie in 0..{RUNS - 1}.")
    if not 1 <= count <= IMAGES:
        raise ValueError(f"{count} images for {purpose}: must lie in 1..{IMAGES}. Use several seeds for more.")
    first = (_INDEX[purpose] * RUNS + run_seed) * IMAGES
    return tuple(range(first, first + count))


def initial_noise(seeds: tuple[int, ...], shape: tuple[int, ...]) -> "Tensor":
    """Standard normal float32 [len(seeds), *shape]; row i depends on seeds[i] alone."""
    import torch

    return torch.stack([torch.randn(shape, generator=_generator(seed)) for seed in seeds])


def drawn_labels(seeds: tuple[int, ...], classes: tuple[int, ...]) -> "Tensor":
    """int64 [len(seeds)], each drawn uniformly from `classes` by its own seed (another stream than the noise)."""
    import torch

    picks = [torch.randint(len(classes), (), generator=_generator(seed, stream=_LABEL)) for seed in seeds]
    return torch.tensor([classes[int(pick)] for pick in picks])


def directions(seeds: tuple[int, ...], shape: tuple[int, ...]) -> "Tensor":
    """Standard normal float32 [len(seeds), *shape], each by its own seed; as the labels, independent of the noise."""
    import torch

    return torch.stack([torch.randn(shape, generator=_generator(seed, stream=_LABEL)) for seed in seeds])


def _generator(seed: int, *, stream: int = 0) -> "torch.Generator":
    import torch

    if not 0 <= seed < _LABEL:
        raise ValueError(f"image seed {seed}: must lie in 0..{_LABEL - 1}; larger ones repeat the noise of others.")
    return torch.Generator().manual_seed(seed | stream)
