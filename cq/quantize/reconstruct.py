"""Block reconstruction: post-training quantization whose weights are rounded to suit each block's output."""

import logging
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from cq.core.artifacts import QuantParams
from cq.core.contracts import LockstepTrajectories
from cq.core.denoiser import GuidedDenoiser
from cq.core.shards import read, write
from cq.core.values import Batch, Within
from cq.quantize.learn import Training, Workbench, learn_unit
from cq.quantize.learnable import LearnedScales, RowCalls
from cq.quantize.on_base import ERRORS, ROUNDING, OnBase
from cq.quantize.passes import all_can_wait, unit_bytes
from cq.quantize.states import States, sampled_states
from cq.quantize.twin import fake_quantized
from cq.quantize.units import Collection, Targets, UnitData, block_units, layer_units

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(OnBase):
    """AdaRound (arXiv:2004.10568) on blocks (BRECQ, arXiv:2102.05426), on top of `base`; CacheQuant's remedy for W4A8.

    Units are adjusted one after another, in the order in which they run. A unit's inputs are those of the quantized
    network so far, on the cached, corrected path that is deployed; its targets those of the full-precision network.
    A unit that is skipped on cached calls learns from refresh calls alone. Where learning did not lower a unit's
    error over all its rows, the unit keeps nearest rounding. Weight scales and all zero points stay the base's.

    Deviations from CacheQuant's release, whose reconstruction has no working regulariser, forgets its optimiser's
    state and corrects with the wrong rows: none of that here; and float weights and biases are not trained.

    units: blocks (ResNets, attentions, transformer blocks, single layers between them), or every layer alone.
    targets: see `units.Collection`. iterations, batch_rows: optimiser steps a unit, and rows of a step.
    learning_rate: of the rounding. learned_scales: what is trained of the activations' scales (`RowQuantizer`), at
    scale_learning_rate (of the logarithm). regulariser: weight of the indecision, beside an error in units of nearest
    rounding's. beta: its first and last exponent. warm_up: share of the iterations without it.
    num_states: (image, call) pairs to learn from; with guidance each gives two rows. refresh_share: how many of them
    are refresh calls, if there are enough. wait: whether passes wait for the next unit (`Collection`); None: where half
    of the free memory holds the maps that are alive then. seed: of the states and of the batches.

    Memory: see `held_bytes`. Time: `iterations` passes through every unit forward and back, and one run of both
    networks over all states; without waiting, one run for each unit, up to it. Finished units stay in the folder of
    shards: a killed calibration goes on from there, and ends the same.
    """

    units: Literal["block", "layer"]
    targets: Targets
    iterations: Annotated[int, Within(1, 10**6, "1000")]
    batch_rows: Batch
    learning_rate: float
    learned_scales: LearnedScales
    scale_learning_rate: float
    regulariser: float
    beta: tuple[float, float]
    warm_up: float
    num_states: Annotated[int, Within(1, 10**6, "1024")]
    refresh_share: float
    wait: bool | None
    seed: int

    def __post_init__(self) -> None:
        for key in ("iterations", "batch_rows", "num_states"):
            if getattr(self, key) < 1:
                raise ValueError(f"quantize.{key}={getattr(self, key)}: must be at least 1.")
        for key in ("learning_rate", "scale_learning_rate", "regulariser"):
            if getattr(self, key) < 0:
                raise ValueError(f"quantize.{key}={getattr(self, key)}: must not be negative.")
        if not 0 <= self.warm_up < 1:
            raise ValueError(f"quantize.warm_up={self.warm_up}: a share of the iterations, in [0, 1); 0.2 is usual.")
        if not 0 < self.refresh_share <= 1:
            raise ValueError(
                f"quantize.refresh_share={self.refresh_share}: must lie in (0, 1]; units that are skipped on cached "
                "calls learn from refresh calls alone. 0.5 is usual."
            )
        if not self.beta[0] >= self.beta[1] >= 1:
            raise ValueError(f"quantize.beta={list(self.beta)}: must fall, and end at 1 or more; [20, 2] is usual.")

    def calibrate(
        self, denoiser: GuidedDenoiser, trajectories: LockstepTrajectories, *, num_calls: int, shards: Path
    ) -> QuantParams:
        """The base's parameters, with the codes of every weight whose rounding was learned.

        The rows of the coverage name each layer's unit and the unit's errors with nearest and with the final rounding.
        """
        nearest = self.base_params(denoiser, trajectories, num_calls=num_calls, shards=shards)
        denoiser = denoiser.widened()  # rounding is learned in float32, and deployed in whatever the network computes
        groups = sampled_states(
            denoiser, trajectories, num_states=self.num_states, refresh_share=self.refresh_share,
            copies=1 if denoiser.guidance is None else 2, seed=self.seed,
        )  # fmt: skip
        twin = fake_quantized(denoiser, nearest)
        bench = Workbench.of(twin.network.backbone, denoiser.network.backbone, nearest.tensors)
        layers = [row["name"] for row in nearest.coverage if not row["reason"] and row["kind"] != "attention"]
        if self.units == "block":
            units = block_units(denoiser.network, layers)
        else:
            units = layer_units(denoiser.network, layers, next(groups[0].batches(1)))
        first = next(groups[0].batches(self.batch_size))
        sizes = unit_bytes(denoiser.network, list(units), lambda: first.run(denoiser.network, full=True))
        returned = sum(size for _, size in sizes.values()) / len(first)
        wait = self.waits(returned * sum(map(len, groups)), first.x_PCHW.device)
        self._announce(bench.calls, twin, first, groups, len(units), wait=wait)
        tensors = dict(nearest.tensors)
        notes: dict[str, dict[str, Any]] = {}
        collection = Collection(
            units, groups, quantized=twin.network, plain=denoiser.network, calls=bench.calls,
            batch_size=self.batch_size, targets=self.targets, wait=wait,
        )  # fmt: skip
        with collection:
            for index, (unit, inside) in enumerate(units.items()):
                path = shards / f"unit_{index:04d}.safetensors"
                started = time.monotonic()
                shard = read(path)
                if shard is None:
                    shard = self._learned(bench, unit, collection.of(unit), seed=self.seed + index)
                    write(path, shard)
                errors = {name: float(shard.pop(name)) for name in ERRORS}
                bench.install(unit, shard)
                tensors |= shard
                notes |= {name: {"unit": unit, **errors} for name in inside}
                log.info(
                    "unit %d of %d, %s: mean squared error %.3g with nearest rounding, %.3g learned; %.1f s",
                    index + 1, len(units), unit, *errors.values(), time.monotonic() - started,
                )  # fmt: skip
        coverage = tuple({**row, **notes.get(row["name"], {})} for row in nearest.coverage)
        return QuantParams(tensors=tensors, bits=nearest.bits, coverage=coverage)

    def waits(self, returned: float, device: torch.device) -> bool:
        """Whether passes wait. returned: bytes of what the units of one network return for all states."""
        return all_can_wait(returned, device) if self.wait is None else self.wait

    def lighter(self, step: str) -> "Reconstruct | None":
        """First without passes that wait, then with half the base's batch."""
        if step == ROUNDING and self.wait is not False:
            return replace(self, wait=False)
        base = self.base.lighter(step)
        return None if base is None else replace(self, base=base)

    def held_bytes(self, *, state: int, unit: int, units: int, call: int, columns: int, device: torch.device) -> int:
        """See `cq.core.contracts.Learns`.

        While states are drawn, as many as are kept of either kind, and then their copy in one piece. Later the kept
        ones, a unit's data twice while they are put together, and, where passes wait, the maps of both networks.
        """
        waiting = min(units, call) if self.waits(units * self.num_states, device) else 0  # what is alive in a call
        return self.num_states * max(3 * state, state + 2 * unit + 2 * waiting)

    def image_calls(self, num_units: int, *, rows: int, returned: int, device: torch.device) -> float:
        """See `cq.core.contracts.Learns`.

        Collecting: both networks, once, or for each unit half of each on average. Learning: forward, twice that back,
        and as much again for soft weights and optimisers (an allowance).
        """
        return self._image_calls(num_units, rows, wait=self.waits(returned * self.num_states, device))

    def _image_calls(self, num_units: int, rows: int, *, wait: bool) -> float:
        collecting = (2 if wait else num_units) * self.num_states
        return collecting + 4 * self.iterations * self.batch_rows / rows

    def _learned(self, bench: Workbench, unit: str, data: UnitData, *, seed: int) -> dict[str, Tensor]:
        """The unit's learned tensors, none where its error did not fall; and its errors before and after."""
        nearest = error = bench.error(unit, data, self.batch_rows)
        learned: dict[str, Tensor] = {}
        if nearest > 0:
            candidate = learn_unit(bench, unit, data, self._training(), seed=seed)
            bench.install(unit, candidate)
            found = bench.error(unit, data, self.batch_rows)
            if found < nearest:
                learned, error = {name: tensor.cpu() for name, tensor in candidate.items()}, found
        return learned | dict(zip(ERRORS, torch.tensor([nearest, error], dtype=torch.float64), strict=True))

    def _training(self) -> Training:
        return Training(**{field.name: getattr(self, field.name) for field in fields(Training)})

    def _announce(
        self, calls: RowCalls, twin: GuidedDenoiser, first: States, groups: list[States], num_units: int, *, wait: bool
    ) -> None:
        """Log what is to be done and about how long it will take, from one timed batch of full calls."""
        with calls.at(first.calls_R):
            first.run(twin.network, full=True)
            started = time.perf_counter()
            first.run(twin.network, full=True)
        seconds = (time.perf_counter() - started) / len(first) * self._image_calls(num_units, first.copies, wait=wait)
        log.info(
            "reconstruction of %d units from %d states (%d of refresh calls)%s, %d steps of %d rows each: about %.0f "
            "min",
            num_units, sum(map(len, groups)), sum(len(group) for group in groups if not group.maps),
            "" if wait else ", run again for each unit as memory is short", self.iterations, self.batch_rows,
            seconds / 60,
        )  # fmt: skip
