"""What a person can read of an Acceleration's parts, in Markdown."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from cq.core.artifacts import CacheSchedule, ChannelAffine, QuantParams

KIB = 1024
BYTE = 8


def of_schedule(schedule: CacheSchedule) -> Iterator[str]:
    """Refreshes over calls: one character a call."""
    refresh = set(schedule.refresh_calls)
    line = "".join("#" if call in refresh else "." for call in range(schedule.num_calls))
    yield f"{len(refresh)} of {schedule.num_calls} calls run the whole network (`#`), by {schedule.planner}; the others"
    yield "(`.`) reuse maps, noisiest call first:"
    yield from ("", "```", *(line[start : start + 100] for start in range(0, len(line), 100)), "```")
    for first, sites in schedule.phases:
        yield f"- from call {first} on, reused at: {', '.join(f'`{site}`' for site in sites) or 'nothing'}"


def of_bits(params: QuantParams) -> Iterator[str]:
    """Bits by layer, with the reason where a layer stays in full precision."""
    if not params.bits:
        yield "Every layer computes in full precision."
        return
    count = Counter("full precision" if row["reason"] else _width(row) for row in params.coverage)
    yield "; ".join(f"{number} layers {width}" for width, number in count.most_common()) + "."
    wide = [row for row in params.coverage if not row["reason"] and not row.get("dtype") and _bits(row) > BYTE]
    if wide:
        yield f"{len(wide)} have more than {BYTE} bits, which no engine multiplies: in float32, on the same grids."
    yield from ("", "| layer | kind | bits | why not |", "|---|---|---|---|")
    for row in params.coverage:
        width = "full" if row["reason"] else _width(row)
        yield f"| {row['name']} | {row['kind']} | {width} | {row['reason']} |"


def of_correction(name: str, correction: ChannelAffine) -> Iterator[str]:
    """Where gain and offset are applied, and how far the gains reach."""
    for site, table_T2C in correction.tables.items():
        gain = table_T2C[:, 0]
        explained = (
            f", {float(correction.r2[site].mean()):.0%} of the variance explained" if site in correction.r2 else ""
        )
        yield (
            f"- {name}, `{site}`: {gain.shape[1]} channels, gains {float(gain.min()):.3f} to {float(gain.max()):.3f}"
            f"{explained}"
        )


def of_sizes(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """What each part takes on disk."""
    sizes: Counter[str] = Counter()
    for name, tensor in tensors.items():
        sizes[name.partition("/")[0]] += tensor.numel() * tensor.element_size()
    yield "; ".join(f"{part} {size / KIB:.1f} KiB" for part, size in sizes.items()) or "no tensors"


def of_origin(made_from: Mapping[str, Any]) -> Iterator[str]:
    """One line a fact."""
    for section, facts in made_from.items():
        for key, value in (facts if isinstance(facts, Mapping) else {"": facts}).items():
            yield f"- {section}{key and ', '}{key}: {_said(value)}"


def _said(value: Any) -> str:
    """A component as its class with what is set, a digest by its beginning, a long list by its ends."""
    if isinstance(value, Mapping):
        facts = {key: _said(each) for key, each in value.items() if key != "class" and each is not None}
        inside = ", ".join(f"{key}={text}" for key, text in facts.items())
        return f"{value['class'].rpartition('.')[2]}({inside})" if "class" in value else inside
    if isinstance(value, list | tuple):
        shown = [*map(_said, value)]
        return ", ".join(shown) if len(shown) <= 4 else f"{shown[0]}, {shown[1]} to {shown[-1]} ({len(shown)})"
    text = str(value)
    return text[:12] if len(text) in (40, 64) and not set(text) - set("0123456789abcdef") else text


def _bits(row: Mapping[str, Any]) -> int:
    return max(int(row["weight_bits"]), int(row["act_bits"]))


def _width(row: Mapping[str, Any]) -> str:
    dynamic = f", scales of the input by {row['dynamic']}" if row.get("dynamic") else ""
    return row.get("dtype") or f"W{row['weight_bits']}A{row['act_bits']}{dynamic}"
