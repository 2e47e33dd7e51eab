"""The images: of the accelerated model, and of the full-precision one that it is compared with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cq.core.acceleration import Acceleration, every_call
from cq.core.artifacts import SampleSet
from cq.core.seeding import image_seeds
from cq.models.diffusion import DiffusionModel
from cq.run.costs import CallBytes, CallSeconds
from cq.run.identity import described
from cq.run.stages.stage import Stage
from cq.sample.generate import Sample, draw, generate


class Samples(Stage[SampleSet]):
    """Images of the evaluation seeds, as the run's engine executes the Acceleration."""

    name = "samples"
    batch_of = "sample"
    kind = SampleSet

    @property
    def sample(self) -> Sample:
        """How many, in what batches and steps."""
        return self.parts.sample

    @property
    def model(self) -> DiffusionModel:
        """With its solver."""
        return self.run.model

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of evaluation."""
        return image_seeds("evaluation", run_seed=self.parts.run_seed, count=self.sample.num_images)

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {
            "sample": described(self.sample), "engine": described(self.run.engine_for(before)),
            "acceleration": before.identity,
        }  # fmt: skip

    def share(self, before: Acceleration) -> None:
        def parts(shards: Path, starts: Sequence[int]) -> Any:
            return draw(self.model, self.run.lowered(before), starts=starts, **self._options(before, shards))

        self.share_out(before, parts, self.sample.starts(self.seeds))

    def drawn(self, before: Acceleration) -> Callable[[], SampleSet]:
        """All processes draw them; what is returned puts them together, and is for the main process."""
        self.share(before)
        return lambda: self.run.store.get(
            self.name, self.whole_key(before), self.kind, lambda shards: self.make(before, shards)
        )

    def make(self, before: Acceleration, shards: Path) -> SampleSet:
        return generate(self.model, self.run.lowered(before), **self._options(before, shards))

    def _options(self, before: Acceleration, shards: Path) -> dict[str, Any]:
        return {
            "sample": self.sample, "seeds": self.seeds, "acceleration": before, "shards": shards,
            "describe": self.name, "told": partial(self.run.live.progress, self.name),
        }  # fmt: skip

    @property
    def needed(self) -> bool:
        """Where nothing is cached and nothing quantized, they are the baseline's very images."""
        return self.run.expected_refreshes < self.run.num_calls or self.parts.quantized or not self.parts.is_baseline

    def seconds(self, calls: CallSeconds) -> float:
        factor = calls.twin / calls.full if self.parts.quantized else 1.0
        return self.sample.num_images * self.run.deployed_seconds(calls) * factor

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        twin = found.weights if self.parts.quantized else 0
        sets = self.run.set_bytes if found.on_cpu else 0
        batch = min(self.sample.batch_size, self.sample.num_images)
        return {self.name: twin + sets + found.copies * batch * max(found.image, found.decode)}


class Baseline(Samples):
    """The full-precision, uncached images of the same seeds, with the baseline's own solver and steps."""

    name = "samples_full_precision"

    @property
    def sample(self) -> Sample:
        return replace(self.parts.sample, num_steps=self.parts.baseline_steps)

    @property
    def model(self) -> DiffusionModel:
        return self.run.baseline_model

    @property
    def is_there(self) -> bool:
        """Whether they have been drawn."""
        return self.folder(self.unaccelerated).exists()

    @property
    def unaccelerated(self) -> Acceleration:
        """Every call of the baseline's loop, in full precision."""
        return Acceleration(schedule=every_call(self.parts.baseline_sampler.num_calls(self.parts.baseline_steps)))

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        own = {"num_steps": self.parts.baseline_steps, "sampler": described(self.parts.baseline_sampler)}
        return {**super().key(before), **own}

    @property
    def needed(self) -> bool:
        return True

    def seconds(self, calls: CallSeconds) -> float:
        return self.sample.num_images * self.unaccelerated.num_calls * calls.full

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        return {}  # as those of the run
