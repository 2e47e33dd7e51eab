"""Short trajectories of the tiny model, as the pipeline runs them, and a quantizer with every option written out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.core.acceleration import NO_CORRECTION, Acceleration
from cq.core.artifacts import CacheSchedule, ChannelAffine, QuantParams
from cq.core.contracts import Quantizer
from cq.core.denoise import DenoiseStep, denoise
from cq.core.denoiser import Denoiser, GuidedDenoiser
from cq.core.seeding import initial_noise
from cq.models.diffusion import DiffusionModel
from cq.quantize.observers import MinMax
from cq.quantize.ptq import PTQ
from cq.quantize.twin import fake_quantized

CALLS = 4
UNUSED = Path("no-folder")  # for quantizers that leave no shards
CACHED = CacheSchedule(num_calls=CALLS, refresh_calls=(0, 2), planner="test", interval=2)
EVERY = CacheSchedule(num_calls=CALLS, refresh_calls=tuple(range(CALLS)), planner="none", interval=None)

PTQ_8 = PTQ(
    weight_bits=8,
    act_bits=8,
    edge_bits=8,
    softmax_bits=8,
    weight_observer=MinMax(),
    act_observer=MinMax(),
    per_call=True,
    split=True,
    attention=True,
    exclude=(),
    trajectory="deployed",
    num_samples=4,
    batch_size=2,
)
PTQ_16 = replace(PTQ_8, weight_bits=16, act_bits=16, edge_bits=16, softmax_bits=16)


@dataclass(frozen=True, kw_only=True)
class TinyRuns:
    """The denoising loop of `model` on the batches `seeds`. It is a `LockstepTrajectories`."""

    model: DiffusionModel
    schedule: CacheSchedule = CACHED
    correction: ChannelAffine = NO_CORRECTION
    seeds: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3))

    def steps(self, denoiser: Any, seeds: tuple[int, ...], *, deployed: bool = True) -> Iterator[DenoiseStep]:
        return denoise(
            denoiser,
            self.model.noise_scheduler(self.schedule.num_calls),
            initial_noise(seeds, self.model.component.latent_shape),
            cond=self.model.condition(torch.tensor([seed % 10 for seed in seeds])),
            acceleration=Acceleration(schedule=self.schedule, cache=self.correction)
            if deployed
            else Acceleration(schedule=EVERY),
        )

    def __call__(self, denoiser: Any, *, deployed: bool) -> Iterator[int]:
        for steps in zip(*(self.steps(denoiser, seeds, deployed=deployed) for seeds in self.seeds), strict=True):
            yield steps[0].call

    def latents(self, denoiser: Denoiser) -> Tensor:
        """The state after every call, [T, N, C, H, W], of the first batch."""
        return torch.stack([step.x_NCHW for step in self.steps(denoiser, self.seeds[0])])

    def calibrated(self, quantizer: Quantizer, shards: Path = UNUSED) -> QuantParams:
        return quantizer.calibrate(self.model.denoiser, self, num_calls=self.schedule.num_calls, shards=shards)

    def twin(self, params: QuantParams, correction: ChannelAffine = NO_CORRECTION) -> GuidedDenoiser:
        return fake_quantized(self.model.denoiser, params, correction)


def identity_card(unet: Any) -> dict[str, Any]:
    """Everything a quantizer might leave behind: classes, processors, hooks, parameters and buffers."""
    card: dict[str, Any] = {}
    for name, module in unet.named_modules():
        hooks = [len(table) for table in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)]
        card[name] = (type(module), id(module), id(getattr(module, "processor", None)), hooks)
    return card
