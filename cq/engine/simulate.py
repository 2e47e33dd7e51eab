"""Simulate: fake quantization, which shows the quality of an Acceleration and nothing of its speed."""

from dataclasses import dataclass

from cq.core.acceleration import Acceleration
from cq.core.denoiser import Denoiser, GuidedDenoiser
from cq.correct.corrected import corrected
from cq.quantize.twin import fake_quantized


@dataclass(frozen=True, kw_only=True)
class Simulate:
    """Float32 arithmetic on values that lie on the grids of integers."""

    def check(self, *, quantized: bool) -> None:
        """Everything can be simulated."""

    def real(self, acceleration: Acceleration) -> bool:
        """Fake quantization is never timed."""
        return not acceleration.quantized

    def lower(self, denoiser: GuidedDenoiser, acceleration: Acceleration) -> Denoiser:
        """The denoiser with fake-quantized layers, and the prediction corrected."""
        twin = fake_quantized(denoiser, acceleration.params, acceleration.quant, share=True)
        return corrected(twin, acceleration.output)
