"""Plain: full precision. The cache and its corrections are all that accelerates."""

from dataclasses import dataclass

from cq.core.acceleration import Acceleration
from cq.core.denoiser import Denoiser, GuidedDenoiser
from cq.correct.corrected import corrected


@dataclass(frozen=True, kw_only=True)
class Plain:
    """What executes an Acceleration without bits, but for an engine that was chosen for just that (`Compiled`).

    compile: torch.compile, one graph for full and one for cached calls.
    """

    compile: bool

    def check(self, *, quantized: bool) -> None:
        """Raise ValueError where something is to be quantized."""
        if quantized:
            raise ValueError("engine=plain: runs nothing quantized. Set quantize=none, or engine=simulate.")

    def real(self, acceleration: Acceleration) -> bool:
        """Always: what is timed is what a deployment in full precision runs."""
        return True

    def lower(self, denoiser: GuidedDenoiser, acceleration: Acceleration) -> Denoiser:
        """The denoiser, compiled where asked, with the prediction corrected. Raises ValueError for one with bits."""
        self.check(quantized=acceleration.quantized)
        if self.compile:
            from cq.engine.compiled import compiled

            denoiser = compiled(denoiser)
        return corrected(denoiser, acceleration.output)
