"""The page of a bench: speed-ups, memory, where the time of a call goes, and what does not run in integers."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cq.report import html
from cq.report.bench_figure import PAPER, speedup_figure
from cq.report.html import Html, paragraph, section, table
from cq.report.looks import png_bytes, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
KINDS = ("product", "quantize", "norm", "attention", "activation", "other")


def bench_page(rows: Sequence[Row], timed: Sequence[Row], weighed: Sequence[Row]) -> str:
    """rows: of `cq.bench.rows`. timed, weighed: the documents they are made of."""
    parts: list[str] = [Html("<h1>Measured speed and memory</h1>"), *map(paragraph, _words(rows))]
    for name in dict.fromkeys(row["scenario"] for row in rows):
        own = [row for row in rows if row["scenario"] == name]
        with style():
            figure = _picture(speedup_figure(own), own[0]["title"])
        parts.append(section(own[0]["title"], figure, _speed(own), _calls(own)))
        parts.append(section(f"{own[0]['title']}: memory and counted cost", _memory(own)))
        cells = [each for each in timed if each["scenario"] == name]
        parts.append(section(f"{own[0]['title']}: where the time of a call goes", *_shares(cells)))
        parts.append(section(f"{own[0]['title']}: not in integers", *_float(weighed, name)))
    return html.document("Measured speed and memory", parts)


def _words(rows: Sequence[Row]) -> Iterable[str]:
    first = rows[0]
    yield (
        f"{first['processor']} ({first['instruction_sets']}), PyTorch {first['torch']}. Measured: wall clock of what "
        "ran, engines one after the other in each round, after one that is not counted; medians, with the least and "
        "the largest. Fake quantization is never timed."
    )
    yield (
        "A speed-up compares whole trajectories, each composed from the medians of its full and cached calls and of "
        "what the loop adds. The calls are those of short trajectories, which were measured whole as well: a column "
        "says how such a one compares with its own composition. "
        "Both baselines run without a cache: PyTorch eager in float32, and the fastest float32 that was found on this "
        "machine. Counted ratios are of multiplications, and of multiplications times bits: they are no times."
    )
    yield (
        "The cap to AVX2 holds oneDNN, PyTorch's own kernels and MKL to that instruction set, for baselines and "
        "integers alike; weights then have 7 bits, which is what such processors multiply exactly. "
        f"The mark in the figures is {PAPER}."
    )


def _picture(figure: "Figure", title: str) -> Html:
    source = base64.b64encode(png_bytes(figure)).decode()
    return Html(f'<figure><img alt="{html.html(title)}" src="data:image/png;base64,{source}"></figure>')


def _speed(rows: Sequence[Row]) -> Html:
    head = ("way", "bits", "threads", "cap", "N", "trajectory (composed)", "against eager", "against best fp32",
            "best fp32", "measured / composed", "paper (GPU)")  # fmt: skip
    body = [
        (row["label"], row["bits"], row["threads"], row["cap"], _interval(row), f"{row['composed_trajectory_s']:.2f} s",
         _ratio(row, "speedup_over_eager"), _ratio(row, "speedup_over_best_fp32"), row["best_fp32"],
         f"{row['measured_over_composed']:.2f}", row["paper_gpu_speedup"])
        for row in rows
    ]  # fmt: skip
    return table(head, body)


def _calls(rows: Sequence[Row]) -> Html:
    head = ("way", "threads", "cap", "rounds", "full call", "cached call", "measured trajectory")
    body = [
        (row["label"], row["threads"], row["cap"], row["rounds"], _spread(row, "full_call"),
         _spread(row, "cached_call"), f"{row['measured_trajectory_s_median']:.2f} s of {row['measured_calls']} calls")
        for row in rows if row["interval"] == 1
    ]  # fmt: skip
    return table(head, body)


def _memory(rows: Sequence[Row]) -> Html:
    """Weighed once, at the machine's own instructions."""
    first = [row for row in rows if _cell(row) == _cell(rows[0]) and row["weights_disk_mib"] != ""]
    eager = next((row for row in first if row["way"] == "eager"), None)
    if eager is None:
        return paragraph("Not weighed.", "gone")
    keys = ("weights_disk_mib", "weights_memory_mib", "peak_serving_mib")
    head = (
        "way",
        "N",
        "weights on disk",
        "weights in memory",
        "peak while serving",
        "MACs (counted)",
        "BOPs (counted)",
    )
    body = [
        (row["label"], _interval(row), *(f"{row[key]:.0f} MiB ({row[key] / eager[key]:.0%} of eager)" for key in keys),
         f"1/{row['counted_macs_ratio']:.2f}", f"1/{row['counted_bops_ratio']:.1f}")
        for row in first
    ]  # fmt: skip
    said = (
        "The peak is of resident memory from the first served trajectory on, in a process of its own, less what Python "
        "and PyTorch take before there is a model."
    )
    return Html(table(head, body) + paragraph(said, "dim"))


def _shares(cells: Sequence[Row]) -> Iterable[Html]:
    head = ("way", "threads", "cap", "call", "seconds in the profile", *KINDS)
    body = [
        (way, cell["threads"], cell["cap"], call, f"{sum(parts.values()):.3f} s",
         *(f"{parts[kind] / sum(parts.values()):.0%}" for kind in KINDS))
        for cell in cells for way, calls in (cell["parts"] or {}).items() for call, parts in calls.items()
    ]  # fmt: skip
    yield table(head, body)
    yield paragraph(
        "product: convolutions and linear layers. quantize: what turns their inputs into codes and puts their outputs "
        "right. attention: its own products and softmax. The profiler slows small operators: these are shares, and no "
        "times.", "dim",
    )  # fmt: skip


def _float(weighed: Sequence[Row], scenario: str) -> Iterable[Html]:
    found = [each for each in weighed if each["scenario"] == scenario]
    own = [each for each in found if each["layers"]]
    if not found:
        yield paragraph("Not weighed.", "gone")
    elif not own:
        yield paragraph("Every layer of every quantized way is multiplied in integers, or none is quantized.")
    for each in own:
        layers: dict[str, list[str]] = {}
        for layer in each["layers"]:
            layers.setdefault(layer["reason"], []).append(layer["name"])
        body = [(reason, len(found), ", ".join(found[:6]) + (" ..." if len(found) > 6 else "")) for reason, found in
                layers.items()]  # fmt: skip
        yield Html(f"<h3>{html.html(each['ways'][0])}</h3>" + table(("reason", "layers", "names"), body))


def _ratio(row: Row, key: str) -> str:
    return f"{row[key]:.2f} [{row[f'{key}_low']:.2f}, {row[f'{key}_high']:.2f}]"


def _spread(row: Row, key: str) -> str:
    return f"{row[f'{key}_s_median']:.3f} s [{row[f'{key}_s_min']:.3f}, {row[f'{key}_s_max']:.3f}]"


def _interval(row: Row) -> str:
    return str(row["interval"]) if row["interval"] > 1 else "no cache"


def _cell(row: Row) -> tuple[Any, ...]:
    return row["cap"], row["threads"]
