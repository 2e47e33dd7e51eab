"""Decoupled error correction: of stale maps, of what quantized layers make of them, of the noise prediction.

CacheQuant (arXiv:2503.01323) fits the cache error and the quantization error apart; the third slot holds corrections
of the prediction, such as PTQD's (arXiv:2305.10657).
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.calibrate.predicted import batch_moments, merged_moments
from cq.core.acceleration import NO_CORRECTION, NOISE, Acceleration
from cq.core.artifacts import ChannelAffine
from cq.core.contracts import Corrector, FitsAlongTrajectories
from cq.core.moments import PairMoments
from cq.core.shards import present
from cq.correct.along import Uncorrected, fitted_along
from cq.correct.from_statistics import moments_for_schedule
from cq.correct.tables import fit_tables
from cq.quantize.entry_moments import entry_moments
from cq.quantize.output_moments import output_moments
from cq.quantize.twin import entry_layers, fake_quantized
from cq.run.costs import CORRECTION_FACTOR, CallBytes, CallSeconds
from cq.run.identity import described
from cq.run.stages.full_states import FullStates, batches_of
from cq.run.stages.stage import Part
from cq.run.stages.statistics import Statistics


class _Correction(Part[ChannelAffine]):
    """Gain and offset, per call and channel, that a corrector fits."""

    kind = ChannelAffine

    @property
    @abstractmethod
    def corrector(self) -> Corrector | FitsAlongTrajectories:
        """Who fits it."""

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {"corrector": described(self.corrector), "acceleration": before.identity}

    @property
    def needed(self) -> bool:
        return self.corrector.corrects

    def fitted(
        self, before: Acceleration, gather: Callable[[], Mapping[str, PairMoments]], *,
        biases: Mapping[str, Tensor | None], maps: bool = False,
    ) -> ChannelAffine:  # fmt: skip
        """The fits at the names that have `biases`. maps: fresh at refresh calls, where nothing is corrected."""
        assert isinstance(self.corrector, Corrector)
        return fit_tables(self.corrector, before.schedule, gather, biases=biases, identity_at_full=maps)


class CacheCorrection(_Correction):
    """Gain and offset of the map that is reused."""

    name = "cache_correction"
    batch_of = "calibrate"
    field = "cache"

    @property
    def corrector(self) -> Corrector:
        return self.parts.correct_cache

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {**super().key(before), "calibrate": described(self.parts.calibrate)}

    def share(self, before: Acceleration) -> None:
        if not self.needed:
            return
        if self._from_statistics(before):
            statistics = Statistics(self.run)
            self.run.store.share(self.name, self.whole_key(before), self.kind, lambda _: statistics.get(before))
        else:
            self.share_out(before, partial(self._batches, before), range(self.parts.calibrate.num_batches))

    def make(self, before: Acceleration, shards: Path) -> ChannelAffine:
        sites = self.run.model.denoiser.sites

        def gather() -> Mapping[str, PairMoments]:
            return merged_moments(self._batches(before, shards, range(self.parts.calibrate.num_batches)), sites)

        if self._from_statistics(before):
            return self.at_once(before)
        return self.fitted(before, gather, biases=dict.fromkeys(sites), maps=True)

    def at_once(self, before: Acceleration) -> ChannelAffine:
        """From the calibration statistics, which know every pair of calls already; none for a forecast."""
        sites = self.run.model.denoiser.sites

        def gather() -> Mapping[str, PairMoments]:
            statistics = Statistics(self.run).get(before)
            return {site: moments_for_schedule(statistics, before.schedule, site) for site in sites}

        if not self._from_statistics(before):
            return NO_CORRECTION
        return self.fitted(before, gather, biases=dict.fromkeys(sites), maps=True)

    @property
    def _passes(self) -> bool:
        """Whether it takes a pass of its own, as far as can be told before there is a schedule."""
        return self.needed and self.parts.predictor.depth > 1

    def seconds(self, calls: CallSeconds) -> float:
        return self.parts.calibrate.num_samples * self.run.num_calls * calls.full if self._passes else 0.0

    def held_bytes(self, found: CallBytes) -> Mapping[str, int]:
        calibrate = self.parts.calibrate
        maps = (self.parts.predictor.depth + 4) * found.map  # the past ones; a map in float64, and a product with it
        batch = min(calibrate.batch_size, calibrate.num_samples)
        return {self.name: batch * (found.copies * found.image + maps)} if self._passes else {}

    def _from_statistics(self, before: Acceleration) -> bool:
        """Whether the pairs to fit are those of plain reuse; a forecast looks at maps that are not held together."""
        return self.parts.predictor.depth == 1 and before.reuses_as_is

    def _batches(self, before: Acceleration, shards: Path, indices: Sequence[int]) -> Iterator[Mapping[str, Tensor]]:
        calibrate, denoiser = self.parts.calibrate, self.run.model.denoiser
        batches = self.run.loops.full(denoiser, calibrate.num_samples, calibrate.batch_size)
        for index in indices:
            path = shards / f"moments_{index:05d}.safetensors"
            yield present(path, partial(batch_moments, batches[index], acceleration=before, sites=denoiser.sites))


class _Calibrated(_Correction):
    """One that is fitted along the quantizer's own trajectories, where anything is quantized."""

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return {**super().key(before), "quantizer": described(self.parts.quantizer)}

    @property
    def needed(self) -> bool:
        return self.parts.quantized and super().needed


class QuantCorrection(_Calibrated):
    """Gain and offset of what the quantized entry layers make of the cached half."""

    name = "quant_correction"
    field = "quant"

    @property
    def corrector(self) -> Corrector:
        return self.parts.correct_quant

    def make(self, before: Acceleration, shards: Path) -> ChannelAffine:
        denoiser = self.run.model.denoiser
        layers = entry_layers(denoiser, before.params)

        def gather() -> Mapping[str, PairMoments]:
            return entry_moments(
                denoiser, fake_quantized(denoiser, before.params), layers,
                self.run.loops.lockstep(before, self.parts.quantizer), num_calls=self.run.num_calls,
                may_rest=len(before.schedule.phases) > 1,
            )  # fmt: skip

        biases = {name: denoiser.network.backbone.get_submodule(name).bias for name in layers}
        return self.fitted(before, gather, biases=biases)

    def seconds(self, calls: CallSeconds) -> float:
        return self.parts.quantizer.num_samples * self.run.deployed_seconds(calls) * CORRECTION_FACTOR


class OutputCorrection(_Calibrated):
    """Of the noise prediction, as the accelerated network makes it.

    One that is fitted from moments knows quantization's error alone; one along trajectories the cache's, too.
    """

    name = "output_correction"
    field = "output"

    @property
    def corrector(self) -> Corrector | FitsAlongTrajectories:
        return self.parts.correct_output

    @property
    def _along(self) -> FitsAlongTrajectories | None:
        return self.corrector if isinstance(self.corrector, FitsAlongTrajectories) else None

    def key(self, before: Acceleration) -> Mapping[str, Any]:
        return _Correction.key(self, before) if self._along else super().key(before)

    @property
    def needed(self) -> bool:
        if self._along is None:
            return super().needed
        cached = self.run.expected_refreshes < self.run.num_calls
        return self._along.corrects and (cached or self.parts.quantized or not self.parts.is_baseline)

    def _idle(self, before: Acceleration) -> bool:
        if self._along is None:
            return not before.quantized
        return not (before.quantized or before.caches) and self.parts.is_baseline

    def share(self, before: Acceleration) -> None:
        if self._along and not self._idle(before):
            states = FullStates(self.run)
            self.run.store.share(self.name, self.whole_key(before), self.kind, lambda _: states.get(before))

    def make(self, before: Acceleration, shards: Path) -> ChannelAffine:
        if self._idle(before):
            return NO_CORRECTION
        denoiser = self.run.model.denoiser
        twin = fake_quantized(denoiser, before.params, before.quant)
        if self._along:
            passing = Uncorrected(denoiser=twin)
            started = [self.run.loops.started(passing, seeds, before) for seeds in batches_of(self.run, self._along)]
            states = FullStates(self.run).wanted(before)
            wanted = torch.split(states, [len(each.x_NCHW) for each in started], dim=1)
            return fitted_along(self._along, twin, started, wanted, before)

        def gather() -> Mapping[str, PairMoments]:
            lockstep = self.run.loops.lockstep(before, self.parts.quantizer)
            return {NOISE: output_moments(denoiser, twin, lockstep, num_calls=self.run.num_calls)}

        return self.fitted(before, gather, biases={NOISE: None})

    def seconds(self, calls: CallSeconds) -> float:
        deployed = self.run.deployed_seconds(calls)
        if self._along:
            twin = calls.twin / calls.full if self.parts.quantized else 1.0
            return self._along.num_samples * (deployed * twin + self.run.num_calls * calls.full)
        return self.parts.quantizer.num_samples * deployed * (1 + calls.twin / calls.full)
