"""Where the error of a run lies, layer by layer; made when a page of the run is asked for, and by no run itself."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cq.core.acceleration import Acceleration
from cq.core.denoise import DenoiseStep
from cq.core.seeding import image_seeds
from cq.evaluate.diagnosis import Diagnosis, diagnosed, looked_at
from cq.quantize.twin import fake_quantized
from cq.run.costs import CallSeconds
from cq.run.stages.stage import Stage

IMAGES = 4  # trajectories; errors of a layer are means over all their values, which differ little between images


class Diagnosed(Stage[Diagnosis]):
    """A few trajectories of seeds that neither calibration nor evaluation draws from, and all layers along them."""

    name = "diagnosis"
    kind = Diagnosis

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {"num_images": IMAGES, "calls": looked_at(before.schedule), "acceleration": before.identity}

    def make(self, before: Acceleration, shards: Path) -> Diagnosis:
        denoiser = self.run.model.denoiser
        seeds = image_seeds("tuning", run_seed=self.parts.run_seed, count=IMAGES)
        return diagnosed(
            denoiser, fake_quantized(denoiser, before.params, before.quant), before.params,
            self._shown(self.run.loops.one(denoiser, seeds, before), before.num_calls),
            calls=looked_at(before.schedule), num_images=IMAGES, num_calls=before.num_calls,
        )  # fmt: skip

    def _shown(self, steps: Iterator[DenoiseStep], num_calls: int) -> Iterator[DenoiseStep]:
        from tqdm import tqdm

        yield from tqdm(steps, total=num_calls, desc=self.name, unit="call", mininterval=1.0)

    def seconds(self, calls: CallSeconds) -> float:
        return IMAGES * self.run.deployed_seconds(calls)
