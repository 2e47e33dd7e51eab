"""Post-training quantization whose weights are rounded in closed form, layer after layer, to suit its output."""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from cq.core.artifacts import QuantParams
from cq.core.contracts import LockstepTrajectories
from cq.core.denoiser import GuidedDenoiser
from cq.core.shards import read, write
from cq.core.values import Within
from cq.quantize.affine import dequantize, over_weight, quantize
from cq.quantize.compensate import Moments, by_group, compensated_codes, damped, target
from cq.quantize.layers import QuantLayer, halves
from cq.quantize.learn import Workbench
from cq.quantize.on_base import ERRORS, ROUNDING, OnBase
from cq.quantize.passes import all_can_wait, unit_bytes
from cq.quantize.states import sampled_states
from cq.quantize.twin import fake_quantized
from cq.quantize.units import Collection, Targets, layer_units

log = logging.getLogger(__name__)

GATHERED = 35.0  # calls of one image that rounding all layers costs, for each state: 20 s for 96 of ldm_mini
LAYERS = 6  # quantized ones of a unit


@dataclass(frozen=True, kw_only=True)
class GPTQ(OnBase):
    """Error-compensated rounding (GPTQ, arXiv:2210.17323) of every quantized layer, the edges too, on top of `base`.

    Layers are rounded one after another, in the order in which they run. A layer's inputs are those of the quantized
    network so far, on the cached, corrected path that is deployed. `asymmetric`: first its weights are taken to those
    that come nearest, by least squares on these inputs, to what the full-precision layer makes of full precision's own
    inputs at the same state (as in GPTAQ, arXiv:2504.02692, and Qronos, arXiv:2505.11695), so it also makes up for what
    the layers before it lost. Weights are then rounded a column at a time, the largest inputs first, on the channel's
    fixed grid, and the rest of the row makes up for each. Both halves of a concatenated input are one row, each on its
    own grid. Where a layer's output is not nearer to full precision's than with nearest rounding, it keeps that.

    ridge: of the least squares, and damping: of the rounding, in shares of the mean square of an input.
    targets: full precision's inputs of the full network, or of the cached path; see `units.Collection`.
    num_states, refresh_share, wait, seed: as of `Reconstruct`.

    Memory: see `held_bytes`. Time: one run of both networks over all states, and products of all inputs of a layer
    with each other; without waiting, one run for each layer, up to it. Rounded layers stay in the folder of shards.
    """

    asymmetric: bool
    ridge: float
    damping: float
    targets: Targets
    num_states: Annotated[int, Within(1, 10**6, "96")]
    refresh_share: float
    wait: bool | None
    seed: int

    def __post_init__(self) -> None:
        if self.num_states < 1:
            raise ValueError(f"quantize.num_states={self.num_states}: must be at least 1; 96 is usual.")
        for key, usual in (("ridge", 0.05), ("damping", 0.01)):
            if not 0 < getattr(self, key) <= 1:
                raise ValueError(
                    f"quantize.{key}={getattr(self, key)}: a share of the inputs' mean square, in (0, 1]. Without it "
                    f"inputs that depend on each other have no solution; {usual} is usual."
                )
        if not 0 < self.refresh_share <= 1:
            raise ValueError(
                f"quantize.refresh_share={self.refresh_share}: must lie in (0, 1]; layers that are skipped on cached "
                "calls are rounded by refresh calls alone. 0.5 is usual."
            )

    def calibrate(
        self, denoiser: GuidedDenoiser, trajectories: LockstepTrajectories, *, num_calls: int, shards: Path
    ) -> QuantParams:
        """The base's parameters, with the codes of every weight that is not rounded to nearest.

        The rows of the coverage name the errors of each layer's output with nearest and with the final rounding.
        """
        nearest = self.base_params(denoiser, trajectories, num_calls=num_calls, shards=shards)
        denoiser = denoiser.widened()
        groups = sampled_states(
            denoiser, trajectories, num_states=self.num_states, refresh_share=self.refresh_share,
            copies=1 if denoiser.guidance is None else 2, seed=self.seed,
        )  # fmt: skip
        twin = fake_quantized(denoiser, nearest)
        bench = Workbench.of(twin.network.backbone, denoiser.network.backbone, nearest.tensors)
        layers = [row["name"] for row in nearest.coverage if not row["reason"] and row["kind"] != "attention"]
        first = next(groups[0].batches(self.batch_size))
        layers = list(layer_units(denoiser.network, layers, next(first.batches(1))))
        sizes = unit_bytes(denoiser.network, denoiser.network.units(), lambda: first.run(denoiser.network, full=True))
        returned = sum(size for _, size in sizes.values()) / len(first)
        tensors = dict(nearest.tensors)
        notes: dict[str, dict[str, Any]] = {}
        collection = Collection(
            layers, groups, quantized=twin.network, plain=denoiser.network, calls=bench.calls,
            batch_size=self.batch_size, targets=self.targets, of_plain="input",
            wait=self.waits(returned, first.x_PCHW.device),
        )  # fmt: skip
        with collection:
            for index, name in enumerate(layers):
                path = shards / f"layer_{index:04d}.safetensors"
                started = time.monotonic()
                shard = read(path)
                if shard is None:
                    shard = self._rounded(bench, name, collection, nearest.bits[f"{name}.weight0"])
                    write(path, shard)
                errors = {key: float(shard.pop(key)) for key in ERRORS}
                bench.install(name, shard)
                tensors |= shard
                notes[name] = {"unit": name, **errors}
                log.info(
                    "layer %d of %d, %s: mean squared error %.3g with nearest rounding, %.3g compensated; %.1f s",
                    index + 1, len(layers), name, *errors.values(), time.monotonic() - started,
                )  # fmt: skip
        coverage = tuple({**row, **notes.get(row["name"], {})} for row in nearest.coverage)
        return QuantParams(tensors=tensors, bits=nearest.bits, coverage=coverage)

    @torch.no_grad()
    def _rounded(self, bench: Workbench, name: str, collection: Collection, bits: int) -> dict[str, Tensor]:
        """The layer's codes, none where nearest rounding is as good; and its errors before and after."""
        layer: QuantLayer = bench.unit(name)
        plain = bench.plain.get_submodule(name)
        moments = Moments(layer=plain)
        for ((x,), _), ((x0,), _), calls_R in collection.each(name):
            with bench.calls.at(calls_R):
                parts = [
                    quantizer(half) for quantizer, half in zip(layer.quantizers, halves(x, layer.split), strict=True)
                ]
            x = torch.cat(parts, 1) if layer.split else parts[0]
            moments.add(x, x0 if self.asymmetric else x)
        weights = [(key, part) for key, _, _, part in bench.weights(name)]
        grids = (
            [over_weight(bench.tensors[f"{key}/{of}"], part).expand_as(part) for key, part in weights]
            for of in ("scale", "zero_point")
        )
        scale_GOD, zero_point_GOD = (by_group(plain, torch.cat(parts, 1)) for parts in grids)
        weight_GOD = by_group(plain, plain.weight).double()
        codes_GOD = quantize(weight_GOD, scale_GOD, zero_point_GOD, bits)
        nearest = error = moments.error(dequantize(codes_GOD, scale_GOD, zero_point_GOD).double())
        if self.asymmetric:
            weight_GOD = target(weight_GOD, moments, self.ridge)
        codes_GOD = compensated_codes(
            weight_GOD, damped(moments.gram_GDD, self.damping), scale_GOD=scale_GOD, zero_point_GOD=zero_point_GOD,
            bits=bits,
        )  # fmt: skip
        found = moments.error(dequantize(codes_GOD, scale_GOD, zero_point_GOD).double())
        codes: dict[str, Tensor] = {}
        if found < nearest:
            error = found
            whole = codes_GOD.to(torch.uint8 if bits <= 8 else torch.int32).view_as(plain.weight)
            pairs = zip(weights, halves(whole, layer.split), strict=True)
            codes = {f"{key}/codes": half.cpu() for (key, _), half in pairs}
        return codes | dict(zip(ERRORS, torch.tensor([nearest, error], dtype=torch.float64), strict=True))

    def waits(self, returned: float, device: torch.device) -> bool:
        """Whether passes wait. returned: bytes of what the units of one network return for a state."""
        return all_can_wait(returned * self.num_states, device) if self.wait is None else self.wait

    def lighter(self, step: str) -> "GPTQ | None":
        """First without passes that wait, then with half the base's batch."""
        if step == ROUNDING and self.wait is not False:
            return replace(self, wait=False)
        base = self.base.lighter(step)
        return None if base is None else replace(self, base=base)

    def held_bytes(self, *, state: int, unit: int, units: int, call: int, columns: int, device: torch.device) -> int:
        """See `cq.core.contracts.Learns`.

        While states are drawn, as many as are kept of either kind, and then their copy in one piece. Later the kept
        ones, the maps of both networks where passes wait, and of one layer the moments and three solutions.
        """
        waiting = min(units, call) if self.waits(units, device) else 0
        return max(self.num_states * 3 * state, self.num_states * (state + 2 * waiting) + 5 * 8 * columns**2)

    def image_calls(self, num_units: int, *, rows: int, returned: int, device: torch.device) -> float:
        """See `cq.core.contracts.Learns`."""
        passes = 2 if self.waits(returned, device) else LAYERS * num_units
        return self.num_states * (passes + GATHERED)
