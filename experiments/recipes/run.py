"""How much of naive's error a recipe removes, from the records of `recipes`. Usage: python experiments/recipes/run.py

Removed is 1 - rel(row) / rel(naive), rel the relative latent error against full precision, mean over images and over
run seeds, each with a fit of its own. A mean is moved by the few images that become other ones: the median and the
count of these, over all seeds, stand beside it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, median, stdev

from cq.run.record import PREPARATION, RunRecord
from cq.run.record_file import read

RESULTS = Path(__file__).parents[2] / "results"
RECORDS, PARTS, SCHEDULES = (RESULTS / f"runs_{table}.jsonl" for table in ("recipes", "parts", "schedules_best"))
ROWS = {"paper": "the paper's", "best_cached": "best with cached calls", "best": "best"}
CONTROLS = ROWS | {
    "naive": "naive", "best_uniform": "best, uniform grid",
    "quantized_closed": "no cache, best's rounding and closed loop",
    "steps_20": "20 steps, the same", "steps_10": "10 steps, the same", "steps_5": "5 steps, the same",
}  # fmt: skip
HEAD = (
    "| model, N, bits | recipe | removed (median) | latent error (naive's) | PSNR, dB (naive's) | images above 0.3 "
    "(naive's) |",
    "|---|---|---|---|---|---|",
)
ERROR, MEDIAN, PSNR, COUNT = "latent_error_fp", "latent_error_median_fp", "psnr_fp_db", "outliers_fp"
Key = tuple[str, int, int]


def cells(records: Iterable[RunRecord]) -> dict[Key, dict[str, dict[int, RunRecord]]]:
    """Model, interval and weight bits to row to seed to record; the last record of a question counts."""
    found: dict[Key, dict[str, dict[int, RunRecord]]] = {}
    for record in records:
        name, interval, bits = record.model["name"], record.budget["cache_interval"], record.budget["weight_bits"]
        if record.drawn and None not in (interval, bits):
            rows = found.setdefault((name, interval, bits), {})
            rows.setdefault(record.experiment.partition("/")[2], {})[record.seed] = record
    return found


def _of(runs: dict[int, RunRecord], score: str) -> list[float]:
    return [run.scores[score]["value"] for run in runs.values()]


def line(key: Key, label: str, ours: dict[int, RunRecord], naive: dict[int, RunRecord]) -> str:
    """A row against naive."""
    removed, middle = (1 - mean(_of(ours, score)) / mean(_of(naive, score)) for score in (ERROR, MEDIAN))
    model, interval, bits = key
    return (
        f"| {model}, N = {interval}, W{bits}A8 | {label} | {removed:.2f} ({middle:.2f}) | {mean(_of(ours, ERROR)):.4f} "
        f"({mean(_of(naive, ERROR)):.4f}) | {_spread(ours, PSNR, 1)} "
        f"({mean(_of(naive, PSNR)):.1f}) | {sum(_of(ours, COUNT)):.0f} "
        f"({sum(_of(naive, COUNT)):.0f}) |"
    )


def table(records: Iterable[RunRecord]) -> list[str]:
    """In Markdown."""
    lines = list(HEAD)
    for key, rows in sorted(cells(records).items(), key=lambda item: (item[0][0], -item[0][2], item[0][1])):
        naive = rows["naive"]
        # What was run on fewer seeds is no mean beside theirs; `controls` has it.
        shown = [name for name in ROWS if rows.get(name, {}).keys() == naive.keys()]
        lines += [line(key, ROWS[name], rows[name], naive) for name in shown]
    return lines


def headline(records: Sequence[RunRecord]) -> list[str]:
    """PSNR and products of the recipes at W8A8, a line a model and interval; naive's error that `best` removes."""
    shown, whole = {"naive": "naive", **ROWS}, _whole(records)
    lines = [
        f"| PSNR, dB (BOPs), W8A8 | {' | '.join(shown.values())} | removed by best |",
        f"|---|{'---|' * len(shown)}---|",
    ]
    for (model, interval, bits), rows in sorted(cells(records).items()):
        if bits == 8:
            told = {row: f"{mean(_of(runs, PSNR)):.1f} ({_share(runs, whole):.2%})" for row, runs in rows.items()}
            removed = 1 - mean(_of(rows["best"], ERROR)) / mean(_of(rows["naive"], ERROR))
            numbers = " | ".join(
                told[row] if rows.get(row, {}).keys() == rows["naive"].keys() else "-" for row in shown
            )
            lines.append(f"| `{model}`, N = {interval} | {numbers} | {removed:.0%} |")
    return lines


def controls(records: Sequence[RunRecord]) -> list[str]:
    """Every row at W8A8 by what it costs, a model after the other: what is above and better makes a row needless."""
    whole = _whole(records)
    found: dict[tuple[str, str, int | None], dict[int, RunRecord]] = {}
    for record in records:
        row, bits = record.experiment.partition("/")[2], record.budget["weight_bits"]
        if record.drawn and bits == 8 and row in CONTROLS:
            found.setdefault((record.model["name"], row, record.budget["cache_interval"]), {})[record.seed] = record
    lines = ["| model | row | full calls | BOPs | PSNR, dB | latent error |", "|---|---|---|---|---|---|"]
    for (model, row, interval), runs in sorted(found.items(), key=lambda item: (item[0][0], _share(item[1], whole))):
        label = CONTROLS[row] if interval is None else f"{CONTROLS[row]}, N = {interval}"
        calls = sorted({run.counted["num_refreshes"] for run in runs.values()})
        lines.append(
            f"| {model} | {label} | {' or '.join(f'{each:.0f}' for each in calls)} | {_share(runs, whole):.2%} | "
            f"{_spread(runs, PSNR, 1)} | {_spread(runs, ERROR, 4)} |"
        )
    return lines


def parts(records: Sequence[RunRecord]) -> list[str]:
    """PSNR with each part added to naive and left out of `best`, a column a model."""
    models = sorted({record.model["name"] for record in records})
    rows: dict[tuple[int, str], dict[str, dict[int, RunRecord]]] = {}
    for record in records:
        runs = rows.setdefault((record.row, record.label), {}).setdefault(record.model["name"], {})
        runs[record.seed] = record
    lines = [f"| PSNR, dB, W8A8, N = 10 | {' | '.join(models)} |", f"|---|{'---|' * len(models)}"]
    for (_, label), found in sorted(rows.items()):
        told = (_spread(found[model], PSNR, 1) if model in found else "-" for model in models)
        lines.append(f"| {label} | {' | '.join(told)} |")
    return lines


def schedules(records: Sequence[RunRecord]) -> list[str]:
    """Latent error and PSNR of `best` on the uniform grid and on its own schedule, all else the same."""
    lines = [
        "| model | N | seeds | uniform grid: latent error | PSNR, dB | best's schedule: latent error | PSNR, dB |",
        "|---|---|---|---|---|---|---|",
    ]
    for (model, interval, _), rows in sorted(cells(records).items()):
        both = [rows["uniform"], rows["best"]]
        same = all(run.schedule == rows["best"][seed].schedule for seed, run in rows["uniform"].items())
        told = [" | ".join((_spread(runs, ERROR, 4), _spread(runs, PSNR, 1))) for runs in both]
        told[1] = "the same | the same" if same else told[1]
        lines.append(f"| {model} | {interval} | {len(both[0])} | {' | '.join(told)} |")
    return lines


def prepared(records: Sequence[RunRecord]) -> list[str]:
    """What a recipe costs before its first image at W8A8: seconds, and how many full calls of one image they are."""
    calls = {
        run.model["name"]: run.counted["num_calls"] for run in records if run.experiment == "recipes/full_precision"
    }
    head = " | ".join(("seconds (full calls of an image)", "N", "naive", *ROWS.values()))
    lines = [f"| {head} |", f"|{'---|' * (3 + len(ROWS))}"]
    for (model, interval, bits), rows in sorted(cells(records).items()):
        if bits == 8:
            told = []
            for row in ("naive", *ROWS):
                spent = [sum(run.made.get(stage, 0.0) for stage in PREPARATION) for run in rows.get(row, {}).values()]
                images = [
                    run.config["sample"]["num_images"] * calls[model] / run.made["samples_full_precision"]
                    for run in rows.get(row, {}).values()
                ]
                told.append(
                    f"{median(spent):.0f} ({median(s * i for s, i in zip(spent, images, strict=True)):,.0f})"
                    if spent else "-"
                )  # fmt: skip
            lines.append(f"| {model} | {interval} | {' | '.join(told)} |")
    return lines


def _whole(records: Iterable[RunRecord]) -> dict[str, float]:
    """BOPs of an image in full precision without a cache, by model."""
    return {record.model["name"]: _bops(record) for record in records if record.experiment == "recipes/full_precision"}


def _bops(record: RunRecord) -> float:
    return float(record.counted["bops_mean"] * record.counted["num_calls"])


def _share(runs: dict[int, RunRecord], whole: dict[str, float]) -> float:
    return mean(_bops(run) / whole[run.model["name"]] for run in runs.values())


def _spread(runs: dict[int, RunRecord], score: str, digits: int) -> str:
    values = _of(runs, score)
    return f"{mean(values):.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def main() -> None:
    records = read(RECORDS)
    print("\n".join(table(records)))
    print("\n" + "\n".join(headline(records)))
    print("\n" + "\n".join(controls(records)))
    print("\n" + "\n".join(prepared(records)))
    print("\n" + "\n".join(parts(read(PARTS))))
    print("\n" + "\n".join(schedules(read(SCHEDULES))))


if __name__ == "__main__":
    main()
