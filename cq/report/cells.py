"""Numbers and their spread, and how they read in a cell."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COSTS: Mapping[str, str] = {
    "macs_mean": "MACs a call, mean (counted)",
    "bops_mean": "BOPs a call, mean (counted)",
    "compression": "compression (counted)",
    "seconds_per_image": "s/image (measured)",
    "speedup": "speed-up (measured)",
    "peak_mem_mib": "peak MiB (measured)",
}
DASH = "-"


@dataclass(frozen=True, kw_only=True)
class Stat:
    """A mean over seeds. With several: spread is their sample standard deviation; with one: low, high its interval."""

    mean: float
    spread: float | None
    low: float | None
    high: float | None
    num: int

    @property
    def band(self) -> tuple[float, float]:
        """The stretch in which the value lies: mean plus or minus spread, or the interval; a point without either."""
        if self.spread is not None:
            return (self.mean - self.spread, self.mean + self.spread)
        return (self.mean if self.low is None else self.low, self.mean if self.high is None else self.high)

    def text(self, decimals: int) -> str:
        value = fixed(self.mean, decimals)
        if self.spread is not None:
            return f"{value} ± {fixed(self.spread, decimals)}"
        if self.low is not None and self.high is not None:
            return f"{value} [{fixed(self.low, decimals)}, {fixed(self.high, decimals)}]"
        return value


def mean_of(values: Sequence[float], *, low: float | None = None, high: float | None = None) -> Stat:
    """Mean and sample standard deviation; with one value its own interval instead. Values may be infinite."""
    mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
    if len(values) == 1:
        return Stat(mean=mean, spread=None, low=low, high=high, num=1)
    if all(value == values[0] for value in values):  # also where all are infinite, of which no deviation can be taken
        return Stat(mean=values[0], spread=0.0, low=None, high=None, num=len(values))
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Stat(mean=mean, spread=spread, low=None, high=None, num=len(values))


def fixed(value: float, decimals: int) -> str:
    """A number with a fixed count of decimals; without the sign of a negative zero."""
    text = f"{value:.{decimals}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text


def cost_text(key: str, stat: Stat | None) -> str:
    if stat is None:
        return DASH
    if key in ("macs_mean", "bops_mean"):
        return si(stat)
    decimals = {"compression": 2, "speedup": 2, "seconds_per_image": 4, "peak_mem_mib": 1}[key]
    text = stat.text(decimals) if stat.spread else fixed(stat.mean, decimals)
    return text + "x" if key in ("compression", "speedup") else text


def si(stat: Stat) -> str:
    """A count with one prefix for mean and spread; a spread of zero is left out, for counts mostly are equal."""
    size, prefix = 1.0, ""
    for exponent, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(stat.mean) >= 10**exponent:
            size, prefix = float(10**exponent), f" {letter}"
            break
    spread = f" ± {stat.spread / size:.3f}" if stat.spread else ""
    return f"{stat.mean / size:.3f}{spread}{prefix}"
