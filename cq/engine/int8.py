"""Int8: integer products, the very ones that the parameters describe."""

import logging
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import nn

from cq.core.acceleration import Acceleration
from cq.core.denoiser import Denoiser, GuidedDenoiser
from cq.core.heap import LARGE, give_back
from cq.core.processes import device
from cq.correct.corrected import corrected
from cq.engine.between import ChannelsLast, joined
from cq.engine.card import verdict
from cq.engine.integer import Executed, IntegerLayer, coverage, in_float, no_integers
from cq.engine.kernels import HELD_BITS, missing, weight_bits
from cq.quantize.twin import StoredLayer, with_layers

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Int8:
    """oneDNN's integer products on a CPU. What it does not run as integers is simulated in float32."""

    def check(self, *, quantized: bool) -> None:
        """Raise ValueError where this machine cannot multiply integers exactly, or runs on a GPU."""
        if quantized:
            self._refuse(device())

    def _refuse(self, where: torch.device) -> None:
        if where.type == "cuda":
            raise ValueError(
                f"engine=int8: runs on CPUs; {verdict(where)}. Set quantize=none engine=compiled "
                "compute.dtype=bfloat16 for speed, engine=simulate for the quality of these bits."
            )
        if weight_bits() == 0:
            reason = missing() or "its products of integers are not exact on this processor"
            raise ValueError(f"engine=int8: {reason}. Set engine=simulate, which shows the same quality.")

    @property
    def exact_weight_bits(self) -> int:
        """8; or 7 on a processor whose products of 8 bits overflow."""
        return weight_bits()

    def real(self, acceleration: Acceleration) -> bool:
        """Whether any layer's bits are multiplied as integers here: with none, all of it would be simulated."""
        layers = [row for row in acceleration.params.coverage if not row["reason"] and row["kind"] != "attention"]
        return not layers or any(not no_integers(row, exact_bits=weight_bits()) for row in layers)

    def lower(self, denoiser: GuidedDenoiser, acceleration: Acceleration) -> Denoiser:
        """The denoiser with integer layers, the prediction corrected. Raises ValueError where it computes elsewhere."""
        if not acceleration.quantized:
            return corrected(denoiser, acceleration.output)
        self._refuse(next(each for each in denoiser.network.backbone.parameters() if not each.is_meta).device)
        exact_bits = weight_bits()

        def make(stored: StoredLayer) -> nn.Module:
            reason = in_float(stored.module, stored.row, exact_bits=exact_bits)
            made = stored.simulated() if reason else IntegerLayer(stored, exact_bits=exact_bits)
            if stored.module.weight.numel() >= LARGE:
                give_back()
            return made

        told = Counter(layer.reason for layer in self.coverage(denoiser, acceleration))
        for reason, count in told.most_common():
            log.info("engine=int8: %d layers %s", count, f"in float32: {reason}" if reason else "in integers")
        lost = [
            row["name"]
            for row in acceleration.params.coverage
            if row["kind"] != "attention" and exact_bits < row["weight_bits"] <= HELD_BITS
        ]
        if lost:
            log.warning(
                "engine=int8: %d layers have weights of more bits than the %d that this processor multiplies exactly; "
                "they run in float32, slower than without quantization. Calibrate with budget.weight_bits=%d here.",
                len(lost), exact_bits, exact_bits,
            )  # fmt: skip
        made = with_layers(denoiser, acceleration.params, acceleration.quant, make, share=True)
        joined(made.network.backbone)
        # its call index is the one that its layers read
        return corrected(replace(made, network=ChannelsLast(made.network)), acceleration.output)

    def coverage(self, denoiser: GuidedDenoiser, acceleration: Acceleration) -> tuple[Executed, ...]:
        """How every layer runs that the quantizer looked at: in integers, or in float32 and why."""
        return coverage(denoiser.network, acceleration.params, exact_bits=weight_bits())
