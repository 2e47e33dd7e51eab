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


def line(key: Key, label: str, ours: dict[int, RunRecord], naive: dict[int, RunRecord]) -> str:
    """A row against naive, over the seeds that both have."""
    seeds = sorted(set(ours) & set(naive))

    def of(runs: dict[int, RunRecord], score: str) -> list[float]:
        return [runs[seed].scores[score]["value"] for seed in seeds]

    removed, middle = (1 - mean(of(ours, score)) / mean(of(naive, score)) for score in (ERROR, MEDIAN))
    spread = f" ± {stdev(of(ours, PSNR)):.1f}" if len(seeds) > 1 else ""
    model, interval, bits = key
    return (
        f"| {model}, N = {interval}, W{bits}A8 | {label} | {removed:.2f} ({middle:.2f}) | {mean(of(ours, ERROR)):.4f} "
        f"({mean(of(naive, ERROR)):.4f}) | {mean(of(ours, PSNR)):.1f}{spread} "
        f"({mean(of(naive, PSNR)):.1f}) | {sum(of(ours, COUNT)):.0f} "
        f"({sum(of(naive, COUNT)):.0f}) |"
    )


def table(records: Iterable[RunRecord]) -> list[str]:
    """In Markdown."""
    lines = list(HEAD)
    for key, rows in sorted(cells(records).items(), key=lambda item: (item[0][0], -item[0][2], item[0][1])):
        lines += [line(key, label, rows[name], rows["naive"]) for name, label in ROWS.items() if name in rows]
    return lines


def main() -> None:
    print("\n".join(table(read(RECORDS))))


if __name__ == "__main__":
    main()
