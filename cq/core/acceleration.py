"""The Acceleration: all that turns a diffusion model into its accelerated self, as one frozen artefact.

It is what calibration makes, engines execute, stock pipelines take (`cq.adapt`) and folders hold. Legend: T call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from cq.core import summary
from cq.core.artifacts import Artifact, CacheSchedule, ChannelAffine, QuantParams
from cq.core.checksum import digest_of
from cq.core.combine import combine

NO_CORRECTION = ChannelAffine(schedule="", tables={}, r2={})
FULL_PRECISION = QuantParams(tensors={}, bits={}, coverage=())
# The tables of the output correction: of the noise prediction, of the state that it is made of, and of both at the last
# refresh. They belong to no site and no layer.
NOISE, STATE, HELD_NOISE, HELD_STATE, EARLIER_NOISE = "noise", "state", "held_noise", "held_state", "earlier_noise"
HELD = (HELD_NOISE, HELD_STATE, EARLIER_NOISE)

Forecast = tuple[tuple[float, ...], ...]


def every_call(num_calls: int) -> CacheSchedule:
    """The schedule without a cache."""
    return CacheSchedule(num_calls=num_calls, refresh_calls=tuple(range(num_calls)), planner="none", interval=None)


def low_bits() -> "Acceleration":
    """One that has bits and nothing else: what an engine is asked about before there is any."""
    return Acceleration(schedule=every_call(1), params=replace(FULL_PRECISION, bits={"": 8}))


@dataclass(frozen=True, kw_only=True, repr=False)
class Acceleration(Artifact):
    """When a model's maps are refreshed, what stands in for them in between, and with how many bits it computes.

    schedule: the refreshes. forecast: at every call the weights of the last refreshes' maps, newest first, () at a
    refresh; by default the last refresh's map stands as it is.
    cache: gain and offset of what is reused, by site (CacheQuant's DEC for the cache error, arXiv:2503.01323).
    params: scales, zero points and learned codes. quant: gain and offset of what quantized layers make of the reused
    map, by layer (its DEC for the quantization error). output: of the guided noise prediction, a sum over its tables.
    made_from: model, sampler, calibration and versions, for a reader and for the checks of whoever applies it; decides
    no number.
    """

    schedule: CacheSchedule
    forecast: Forecast = ()
    cache: ChannelAffine = NO_CORRECTION
    params: QuantParams = FULL_PRECISION
    quant: ChannelAffine = NO_CORRECTION
    output: ChannelAffine = NO_CORRECTION
    made_from: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        calls = self.schedule.num_calls
        if not self.forecast:
            refresh = set(self.schedule.refresh_calls)
            object.__setattr__(self, "forecast", tuple(() if t in refresh else (1.0,) for t in range(calls)))
        if len(self.forecast) != calls:
            raise ValueError(f"forecast: has {len(self.forecast)} rows, and the schedule {calls} calls. Make it anew.")
        if [call for call, row in enumerate(self.forecast) if not row] != list(self.schedule.refresh_calls):
            raise ValueError("forecast: must have weights at every reused call of the schedule, and at no other.")
        for name in ("cache", "quant", "output"):
            fitted: ChannelAffine = getattr(self, name)
            if fitted.tables and fitted.schedule not in ("", self.schedule.identity):
                raise ValueError(
                    f"{name}: was fitted for schedule {fitted.schedule[:12]}, not for {self.schedule.identity[:12]}. "
                    "Fit it again for this schedule."
                )
            if any(len(table) != calls for table in fitted.tables.values()):
                raise ValueError(f"{name}: its tables are not for {calls} calls. Fit it again for this schedule.")

    def __repr__(self) -> str:
        """One line; `describe` says the rest."""
        bits = "quantized" if self.quantized else "full precision"
        refreshes = len(self.schedule.refresh_calls)
        return f"<Acceleration {self.identity[:12]}: {refreshes} of {self.num_calls} calls run whole, {bits}>"

    @property
    def num_calls(self) -> int:
        """Denoiser calls of one trajectory."""
        return self.schedule.num_calls

    @property
    def caches(self) -> bool:
        """Whether any call reuses a map."""
        return len(self.schedule.refresh_calls) < self.num_calls

    @property
    def reuses_as_is(self) -> bool:
        """Whether a reused map is always that of the last refresh, and no forecast."""
        return all(row in ((), (1.0,)) for row in self.forecast)

    @property
    def quantized(self) -> bool:
        """Whether any layer computes with fewer bits."""
        return bool(self.params.bits)

    @property
    def depth(self) -> int:
        """How many refreshes a reused map is made of, at most."""
        return max(1, *map(len, self.forecast))

    @cached_property
    def identity(self) -> str:
        """SHA-256 (hex) of what decides a number: no label, no origin, and nothing of a cache that is never used."""
        found: dict[str, Any] = {"schedule": list(self.schedule.refresh_calls), "num_calls": self.num_calls}
        if self.caches:
            found |= {"phases": self.schedule.phases, "forecast": self.forecast, "cache": self.cache.digest}
        if self.quantized:
            found |= {"params": self.params.digest, "quant": self.quant.digest}
        return digest_of(found | {"output": self.output.digest})

    def reused(self, call: int, past: Sequence[Mapping[str, Tensor]], *, sites: tuple[str, ...]) -> dict[str, Tensor]:
        """The maps that stand in at `call`, by site; {} at a refresh.

        past: maps [N, C, ...] of the last refreshes by site, newest first. sites: where the schedule has no phases.
        """
        weights = self.forecast[call]
        held = {name: past[0][name] for name in HELD if past and name in past[0]}
        if not weights:
            return held
        found = {
            site: self.cache.apply(combine(weights, [maps[site] for maps in past]), name=site, call=call)
            for site in self.schedule.sites_at(call, default=sites)
        }
        return found | held

    def describe(self) -> str:
        """A page in Markdown: refreshes over calls, bits by layer with reasons, corrections, sizes, and the origin."""
        tensors, _ = self._split()
        corrections = [
            line for name in ("cache", "quant", "output") for line in summary.of_correction(name, getattr(self, name))
        ]
        sections: dict[str, Iterable[str]] = {
            "Calls": summary.of_schedule(self.schedule),
            "Bits": summary.of_bits(self.params),
            "Corrections": corrections or ["None."],
            "Sizes on disk": summary.of_sizes(tensors),
            "Made from": summary.of_origin(self.made_from),
        }
        lines = [f"# Acceleration {self.identity[:12]}"]
        for title, found in sections.items():
            lines += ["", f"## {title}", "", *found]
        return "\n".join(lines) + "\n"
