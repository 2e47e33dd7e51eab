"""Scales and zero points, and learned roundings where the quantizer learns them."""

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from cq.core.acceleration import Acceleration
from cq.core.artifacts import QuantParams
from cq.core.contracts import Learns
from cq.core.processes import device
from cq.models.diffusion import guiding
from cq.quantize.on_base import ROUNDING
from cq.run.costs import CallBytes, CallSeconds
from cq.run.identity import described
from cq.run.stages.stage import Part


class Quantization(Part[QuantParams]):
    """What the quantizer decides, along the trajectories that are deployed."""

    name = "quant_params"
    batch_of = "quantizer"
    field = "params"
    decided_by = ("strategy", "calibrate", "cost", "planner", "correct_cache", "predictor", "quantizer")
    kind = QuantParams

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {"quantizer": described(self.parts.quantizer), "acceleration": before.identity}

    def make(self, before: Acceleration, shards: Path) -> QuantParams:
        quantizer = self.parts.quantizer
        trajectories = self.run.loops.lockstep(before, quantizer)
        return quantizer.calibrate(self.run.model.denoiser, trajectories, num_calls=self.run.num_calls, shards=shards)

    @property
    def needed(self) -> bool:
        return self.parts.quantized

    def seconds(self, calls: CallSeconds) -> float:
        quantizer = self.parts.quantizer
        in_full_calls = self.run.deployed_seconds(calls) / calls.full
        found = in_full_calls * (quantizer.num_samples * calls.observed + calls.search)
        if isinstance(quantizer, Learns):
            found += in_full_calls * quantizer.num_samples * calls.full  # once more, to draw states from
            rows = 1 if guiding(self.parts.model.guidance) is None else 2
            found += calls.twin * quantizer.image_calls(
                calls.units, rows=rows, returned=calls.unit_bytes, device=device()
            )
        return found

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        quantizer = self.parts.quantizer
        batch = min(quantizer.batch_size, quantizer.num_samples)
        running = found.weights + found.copies * batch * found.image
        held = {self.name: running + quantizer.num_samples * found.map}
        if isinstance(quantizer, Learns):
            state = 4 * prod(self.parts.model.latent_shape) + found.map
            held[ROUNDING] = running + quantizer.held_bytes(
                state=state,
                unit=found.unit,
                units=found.units,
                call=found.image,
                columns=found.columns,
                device=device(),
            )
        return held
