"""The Acceleration as one artefact, with where it comes from: what a run leaves behind for others to apply."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cq import __version__
from cq.core.acceleration import Acceleration
from cq.engine.fingerprint import fingerprint, noise_of, solver_of
from cq.run.identity import described
from cq.run.origin import Source
from cq.run.stages.stage import Stage


class Accelerated(Stage[Acceleration]):
    """All parts together."""

    name = "acceleration"
    kind = Acceleration

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        """With how it was made: equal parts of two makings are two artefacts, each of which tells its own."""
        return {"acceleration": before.identity, "calibration": self._calibration()}

    def _calibration(self) -> dict[str, Any]:
        parts = self.parts
        return {
            "run_seed": parts.run_seed, "calibrate": described(parts.calibrate), "cache": described(parts.strategy),
            "schedule": described(parts.planner), "cost": described(parts.cost),
            "predict": described(parts.predictor), "quantize": described(parts.quantizer),
            "correct": {
                "cache": described(parts.correct_cache), "quant": described(parts.correct_quant),
                "output": described(parts.correct_output),
            },
        }  # fmt: skip

    def make(self, before: Acceleration, shards: Path) -> Acceleration:
        parts = self.parts
        scheduler = self.run.model.noise_scheduler(parts.sample.num_steps)
        made_from = {
            "model": {
                "weights": parts.model.weights, "latent_shape": list(parts.model.latent_shape),
                **fingerprint(self.run.model.denoiser),
            },
            "sampler": {
                "num_inference_steps": parts.sample.num_steps, **described(parts.sampler),
                "scheduler": type(scheduler).__name__, "noise": noise_of(scheduler),
                "solver": solver_of(scheduler),
                "timesteps": [float(t) for t in scheduler.timesteps],
            },
            "calibration": self._calibration(),
            "versions": {"cq": __version__, "commit": Source.now().commit, "dtype": parts.dtype},
        }  # fmt: skip
        return replace(before, made_from=made_from)
