"""One run as a page of HTML: what was asked, how it scored, where its error comes from, and what each number is.

What its store no longer has is said where it would stand, with the command that makes it again.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from cq.report import html, run_figures
from cq.report.cells import DASH, fixed, mean_of, si
from cq.report.html import Html, facts, paragraph, section, table
from cq.report.kept import Kept, command
from cq.report.looks import style
from cq.report.metrics import columns_of
from cq.report.pick import Run
from cq.report.signatures import CURVE, Signature, of_artefacts
from cq.run.record import RunRecord

if TYPE_CHECKING:
    from torch import Tensor

TABLES = 4  # of one correction that are drawn; the rest are named
LAYERS = 30  # of the table of layers that stand unfolded
SLOTS: Mapping[str, str] = {
    "cache": "the reused map (DEC, cache error)", "quant": "what quantized layers make of the reused map (DEC)",
    "output": "the noise prediction",
}  # fmt: skip


def run_page(run: Run, name: str, found: Kept, records: Sequence[RunRecord]) -> str:
    """The page. name: of the run in its table. records: among which its full-precision baseline may be."""
    record = run.record
    parts = [
        Html(f"<h1>{html.html(name)}</h1>"),
        paragraph(f"{record.experiment}, seed {record.seed}, {record.date[:10]}, {record.status}", "dim"),
    ]
    if record.status != "ok":
        parts.append(paragraph(f"{record.status}: {record.note}", "gone"))
    parts += [
        section("Signs of failure", *_signs(of_artefacts(record, found), found)),
        section("What was asked", *_asked(record)),
    ]
    with style():
        if record.drawn:
            parts += [
                section("Scores", *_scores(record, records)),
                section("Counted, simulated, executed, measured", html.boxes(_kinds(record, found))),
                section("Schedule", *_schedule(record)),
                section("Error by step", *_error(record, found)),
                section("Corrections", *_corrections(found)),
                section("Layers by share of error", *_layers(found)),
                section("Images", *_images(run, found)),
            ]
    parts += [section("Protocol", *_protocol(record)), section("Artefacts", _artefacts(run))]
    return html.document(name, parts)


def _signs(signs: Sequence[Signature], found: Kept) -> Iterator[Html]:
    for sign in signs:
        lines = (f"<strong>{html.html(sign.name)}</strong>: {html.html(sign.evidence)}.", sign.cause, sign.remedy)
        yield Html(f'<div class="sign"><p>{lines[0]}</p>{paragraph(lines[1])}{paragraph("Next: " + lines[2])}</div>')
    if not signs:
        yield paragraph("None was found.")
    missing = [
        name for name in ("acceleration", "statistics", "diagnosis", "samples", "baseline") if name in found.gone
    ]
    if missing:
        yield paragraph(f"Looked for without {', '.join(missing)}, which are not at hand.", "dim")


def _asked(record: RunRecord) -> Iterator[Html]:
    choices = {key.replace("correct_", "correct."): value for key, value in record.choices.items() if value}
    numbers = {key: value for key, value in record.budget.items() if value is not None}
    yield facts({**choices, **numbers, "seed": record.seed})
    yield paragraph("The same question again" + ("" if record.overrides else ", as far as its choices tell") + ":")
    yield html.code(command(record))
    yield html.folded("the whole configuration", html.code(OmegaConf.to_yaml(OmegaConf.create(dict(record.config)))))


def _scores(record: RunRecord, records: Sequence[RunRecord]) -> Iterator[Html]:
    baseline = baseline_of(record, records)
    rows = []
    for column in columns_of([record]):
        score = record.scores[column.key]
        theirs = (baseline.scores if baseline else {}).get(column.key, {})
        same = theirs.get("fingerprint") == score["fingerprint"]
        rows.append([column.title, _scored(score, column.decimals), _scored(theirs, column.decimals) if same else DASH])
    yield table(["metric", "this run", "full precision"], rows)
    yield paragraph("In brackets: the 95 % interval over images. (up), (down): which way is better.", "dim")
    if baseline is None:
        yield paragraph(
            "These record files hold no full-precision run of this model, seed and steps; schedule=none quantize=none "
            "would be one. Metrics against full precision compare with its images in any case.", "dim",
        )  # fmt: skip


def baseline_of(record: RunRecord, records: Sequence[RunRecord]) -> RunRecord | None:
    """The last run of the same model, seed and steps that cached and quantized nothing."""
    same = [
        other for other in records
        if other.drawn and not other.quantized and other.counted["num_refreshes"] == other.counted["num_calls"]
        and (other.model, other.seed) == (record.model, record.seed)
        and other.budget["num_steps"] == record.config["baseline"]["num_steps"]
    ]  # fmt: skip
    return same[-1] if same else None


def _kinds(record: RunRecord, found: Kept) -> dict[str, list[str]]:
    counted, measured, diagnosis = record.counted, record.measured, found.diagnosis
    engine = record.config["engine"]["_target_"].rpartition(".")[2]
    macs, bops = (si(mean_of([float(counted[key])])) if counted[key] else DASH for key in ("macs_mean", "bops_mean"))
    widths = f"{record.budget['weight_bits']} bits for weights and {record.budget['act_bits']} for activations"
    boxes = {
        "Counted": [
            f"{macs} MACs a call, mean", f"{bops} BOPs a call, mean",
            f"{counted['num_refreshes']} of {counted['num_calls']} calls run the whole network",
            f"weights {counted['compression']:.2f} times smaller",
        ],
        "Simulated": [
            "Nothing: no layer was quantized." if not record.quantized
            else "Nothing: integers drew the images." if record.executed
            else f"Low-bit arithmetic: {widths}, by fake quantization in floating point. All scores are of that."
        ],
        "Executed": [
            f"{engine if record.quantized or engine == 'Compiled' else 'Plain'} engine, "
            f"{record.config['compute']['dtype']}, on {record.device}"
            + (", compiled" if record.config["compute"]["compile"] else ""),
            f"low-bit arithmetic: {widths}, in integers. All scores are of that." if record.executed
            else "low-bit kernels: none",
        ],
        "Measured": [
            "Nothing: fake quantization is never timed." if record.quantized and not record.executed else "Nothing."
        ],
    }  # fmt: skip
    if diagnosis is not None and counted["macs_mean"]:
        ran = si(mean_of([float(diagnosis.macs_T.mean())]))
        boxes["Executed"].append(f"{ran} MACs a call, mean, ran along {diagnosis.num_images} trajectories of the loop")
    if measured is not None:
        boxes["Measured"] = [
            f"{measured['seconds_per_image']:.4f} s an image, on {measured['device']}",
            *([f"{measured['speedup']:.2f} times as fast as full precision"] if "speedup" in measured else []),
            f"{measured['peak_mem_mib']:.0f} MiB at most",
        ]
    return boxes


def _schedule(record: RunRecord) -> Iterator[Html]:
    refreshes = record.schedule["refresh_calls"]
    yield html.drawn(run_figures.schedule_figure(record), "The calls in the order of sampling.")
    yield html.folded("the calls on which the whole network runs", html.code(", ".join(map(str, refreshes))))


def _error(record: RunRecord, found: Kept) -> Iterator[Html]:
    curve = list(record.scores.get(CURVE, {}).get("curve") or ())
    if not any(value > 0 for value in curve):
        yield paragraph(
            "No error by step: the run was not compared with full precision call by call (evaluate=fidelity), its "
            "baseline makes other calls, or it is the baseline itself.", "dim",
        )  # fmt: skip
        return
    yield html.drawn(
        run_figures.error_figure(record, curve, found.errors_TN),
        "How far the latents are from those of full precision, same seeds, after each call.",
    )


def _corrections(found: Kept) -> Iterator[Html]:
    if found.acceleration is None:
        yield paragraph(found.gone["acceleration"], "gone")
        return
    slots = {slot: getattr(found.acceleration, slot) for slot in SLOTS}
    for slot, correction in slots.items():
        for place, (name, table_T2C) in enumerate(correction.tables.items()):
            gain = table_T2C[:, 0]
            caption = f"{slot}, of {SLOTS[slot]}, at {name}: gains {float(gain.min()):.3f} to {float(gain.max()):.3f}"
            if name in correction.r2:
                caption += f", {float(correction.r2[name].mean()):.1%} of the variance explained on average"
            if place < TABLES:
                yield html.drawn(run_figures.correction_figure(correction, name), f"{caption}.")
            else:
                yield paragraph(f"{caption}; not drawn.", "dim")
    if not any(correction.tables for correction in slots.values()):
        yield paragraph("Nothing is corrected.")


def _layers(found: Kept) -> Iterator[Html]:
    diagnosis = found.diagnosis
    if diagnosis is None:
        yield paragraph(found.gone["diagnosis"], "gone")
        return
    if not diagnosis.layers:
        yield paragraph("No layer is quantized.")
        return
    calls = ", ".join(map(str, diagnosis.calls))
    yield html.drawn(
        run_figures.layer_figure(diagnosis),
        f"Each quantized layer beside its full-precision self on equal input, its correction included: calls {calls}, "
        f"{diagnosis.num_images} images. The products of attention are not among them.",
    )
    share_L, error_L = diagnosis.share_L, diagnosis.relative_error_L
    rows = [
        [place + 1, diagnosis.layers[place], f"{share_L[place]:.1%}", f"{error_L[place]:.2%}",
         _worst_call(diagnosis.calls, diagnosis.error_KL[:, place]), _widths(found, diagnosis.layers[place])]
        for place in share_L.argsort(descending=True).tolist()
    ]  # fmt: skip
    head = ["place in the network", "layer", "share", "relative error", "worst call", "bits"]
    yield html.folded(f"all {len(rows)} layers", table(head, rows))


def _worst_call(calls: Sequence[int], error_K: "Tensor") -> int:
    return calls[int(error_K.nan_to_num(-1.0).argmax())]


def _widths(found: Kept, layer: str) -> str:
    rows = found.acceleration.params.coverage if found.acceleration else ()
    return next((f"W{row['weight_bits']}A{row['act_bits']}" for row in rows if row["name"] == layer), DASH)


def _images(run: Run, found: Kept) -> Iterator[Html]:
    if found.samples is None or found.baseline is None:
        gone = {found.gone.get(name, "") for name in ("samples", "baseline")} - {""}
        yield from (paragraph(text, "gone") for text in sorted(gone))
        if run.strip is not None:
            yield html.picture(
                run.strip.read_bytes(), "The first images, which are kept beside the record.", pixels=True
            )
        return
    seeds, shown = found.samples.seeds, len(found.samples.images_NCHW)
    png, factor = run_figures.image_grid(found.samples.images_NCHW, found.baseline.images_NCHW)
    rows = "From top to bottom: full precision, this run, and their difference around grey, {} times as large. "
    yield html.picture(png, f"{rows.format(factor)}Seeds {seeds[0]} to {seeds[shown - 1]}, one a column.", pixels=True)
    errors_N = found.errors_N
    if errors_N is None:
        return
    at = errors_N.quantile(errors_N.new_tensor([0.5, 0.9, 1.0])).tolist()
    yield paragraph(
        f"Relative error of the final latents over {len(errors_N)} images: half are below {at[0]:.3f}, nine in ten "
        f"below {at[1]:.3f}, and the largest is {at[2]:.3f}."
    )
    if found.worst is not None:
        png, factor = run_figures.image_grid(*found.worst)
        off = ", ".join(f"{seeds[place]} ({float(errors_N[place]):.2f})" for place in found.places)
        yield html.picture(png, f"Those furthest off. {rows.format(factor)}Seeds (and errors) {off}.", pixels=True)


def _protocol(record: RunRecord) -> Iterator[Html]:
    by_print = {score["fingerprint"]: score["protocol"] for score in record.scores.values()}
    shared = dict(set.intersection(*[{(k, str(v)) for k, v in each.items()} for each in by_print.values()]) or ()) if (
        by_print
    ) else {}  # fmt: skip
    if shared:
        yield paragraph("Of all metrics:")
        yield facts(dict(sorted(shared.items())))
    rows = [
        [key, score["fingerprint"], "; ".join(f"{k}: {v}" for k, v in score["protocol"].items() if k not in shared)]
        for key, score in record.scores.items()
    ]
    if rows:
        yield table(["metric", "fingerprint", "its own"], rows)
    tree = "" if record.clean_tree else ", with changes"
    yield facts({"commit": record.commit + tree, "weights": record.model["weights_digest"], **record.versions})


def _artefacts(run: Run) -> Html:
    record = run.record
    rows = []
    for stage, digest in record.artifacts.items():
        folder, made = record.folders.get(stage), record.made.get(stage)
        where = PurePath(record.store, folder).as_posix() if folder else "not told by this record"
        there = DASH if folder is None else "there" if run.folder(stage) else "gone"
        rows.append([stage, digest[:12], where, there, DASH if made is None else f"{made:.1f} s"])
    return table(["stage", "digest", "folder, from that of the record file", "", "made in"], rows)


def _scored(score: Mapping[str, Any], decimals: int) -> str:
    if score.get("value") is None:
        return DASH
    text = fixed(score["value"], decimals)
    if score["low"] is None or score["high"] is None:
        return text
    return f"{text} [{fixed(score['low'], decimals)}, {fixed(score['high'], decimals)}]"
