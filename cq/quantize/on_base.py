"""What quantizers share that take ranges from another one and choose codes of weights themselves."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cq.core.artifacts import QuantParams
from cq.core.contracts import LockstepTrajectories
from cq.core.denoiser import GuidedDenoiser
from cq.quantize.ptq import PTQ

ROUNDING = "rounding"  # the name of its memory in a plan
ERRORS = ("error_nearest", "error_learned")  # of a unit's output, with nearest and with the final rounding


@dataclass(frozen=True, kw_only=True)
class OnBase:
    """base: chooses all scales and zero points; see there."""

    base: PTQ

    def check_layers(self, names: frozenset[str]) -> None:
        """Raise ValueError for a pattern of the base's that no layer has."""
        try:
            self.base.check_layers(names)
        except ValueError as error:
            raise ValueError(str(error).replace("quantize.", "quantize.base.", 1)) from error

    @property
    def num_samples(self) -> int:
        return self.base.num_samples

    @property
    def batch_size(self) -> int:
        return self.base.batch_size

    @property
    def ranges(self) -> PTQ:
        """The base, which chooses them."""
        return self.base

    def base_params(
        self, denoiser: GuidedDenoiser, trajectories: LockstepTrajectories, *, num_calls: int, shards: Path
    ) -> QuantParams:
        """What the base decides; kept in the folder of shards, whole or not at all."""
        folder, unfinished = shards / "base", shards / "base.tmp"
        if not folder.exists():
            params = self.base.calibrate(denoiser, trajectories, num_calls=num_calls, shards=shards)
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            params.save(unfinished)
            os.rename(unfinished, folder)
        return QuantParams.load(folder)
