"""How much of naive's error a recipe removes, from the records of `recipes`. Usage: python experiments/removed/run.py

Removed is 1 - rel(row) / rel(naive), rel the relative latent error against full precision, mean over images and over
run seeds, each with a fit of its own. A mean is moved by the few images that become other ones: the median and the
count of these, over all seeds, stand beside it.
"""

from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev

from cq.run.record import RunRecord
from cq.run.record_file import read

RECORDS = Path(__file__).parents[2] / "results/runs_recipes.jsonl"
ROWS = {"paper": "the paper's", "best": "best", "best_output": "best, no network at reuse calls"}
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
    spread = f" ± {stdev(_of(ours, PSNR)):.1f}" if len(ours) > 1 else ""
    model, interval, bits = key
    return (
        f"| {model}, N = {interval}, W{bits}A8 | {label} | {removed:.2f} ({middle:.2f}) | {mean(_of(ours, ERROR)):.4f} "
        f"({mean(_of(naive, ERROR)):.4f}) | {mean(_of(ours, PSNR)):.1f}{spread} "
        f"({mean(_of(naive, PSNR)):.1f}) | {sum(_of(ours, COUNT)):.0f} "
        f"({sum(_of(naive, COUNT)):.0f}) |"
    )


def table(records: Iterable[RunRecord]) -> list[str]:
    """In Markdown."""
    lines = list(HEAD)
    for key, rows in sorted(cells(records).items(), key=lambda item: (item[0][0], -item[0][2], item[0][1])):
        lines += [line(key, label, rows[name], rows["naive"]) for name, label in ROWS.items() if name in rows]
    return lines


def headline(records: Iterable[RunRecord]) -> list[str]:
    """PSNR of the recipes at W8A8, a line a model and interval; naive's error that `best` removes."""
    lines = ["| PSNR, dB, W8A8 | naive | the paper's | best | removed by best |", "|---|---|---|---|---|"]
    for (model, interval, bits), rows in sorted(cells(records).items()):
        if bits == 8:
            told = {row: mean(_of(runs, PSNR)) for row, runs in rows.items()}
            removed = 1 - mean(_of(rows["best"], ERROR)) / mean(_of(rows["naive"], ERROR))
            numbers = " | ".join(f"{told[row]:.1f}" if row in told else "-" for row in ("naive", "paper", "best"))
            lines.append(f"| `{model}`, N = {interval} | {numbers} | {removed:.0%} |")
    return lines


def main() -> None:
    records = read(RECORDS)
    print("\n".join(table(records)))
    print("\n" + "\n".join(headline(records)))


if __name__ == "__main__":
    main()
