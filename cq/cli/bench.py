"""Time and memory of engines side by side: `cq bench SCENARIO ... [--plan]`, of conf/bench.

Writes OUT/bench.csv (a row a scenario, way, interval, threads and cap), OUT/SCENARIO.png, OUT/bench.html and the raw
times under OUT/raw. What is there is not measured again, so a stopped command goes on. Keep the machine idle meanwhile.
"""

import argparse
import csv
import logging
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from cq.bench.scenario import CAPS, FOLDER, names, read_scenario
from cq.cli.commands import ended
from cq.cli.help import first_comment
from cq.core.store import write_atomically


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Exit status: see `cq.cli.commands.ended`."""
    known = "\n".join(f"  {name:16}  {first_comment(FOLDER / f'{name}.yaml')}" for name in names())
    parser = argparse.ArgumentParser(
        prog="cq-bench", description=__doc__, epilog=f"scenarios:\n{known}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("scenarios", nargs="+", metavar="SCENARIO")
    parser.add_argument(
        "--out", type=Path, default=Path("results/bench"), metavar="FOLDER", help="default: results/bench"
    )
    parser.add_argument("--store", type=Path, default=Path("runs/store"), metavar="FOLDER", help="default: runs/store")
    parser.add_argument("--plan", action="store_true", help="say what is missing and what it will take; start nothing")
    parser.add_argument("--again", action="store_true", help="measure what is there, too")
    parser.add_argument("--threads", type=int, nargs="+", default=[], metavar="N", help="only these")
    parser.add_argument("--cap", nargs="+", default=[], choices=CAPS, help="only these instruction sets")
    parser.add_argument("--no-weigh", action="store_true", help="times only: no memory, no bytes, no counts")
    given = parser.parse_args(arguments)
    return ended("cq-bench", lambda: _bench(given))


def _bench(given: Any) -> None:
    from cq.bench.estimate import seconds_of
    from cq.bench.jobs import found, jobs_of, measured

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    asked = [
        job
        for name in dict.fromkeys(given.scenarios)
        for job in jobs_of(
            name, read_scenario(name), threads=given.threads, caps=given.cap, weigh=not given.no_weigh
        )
    ]  # fmt: skip
    jobs = [job for job in asked if given.again or found(job, given.out) is None]
    seconds = seconds_of(jobs)
    for job in jobs:
        sys.stdout.write(f"{job.file.removesuffix('.json'):44} about {seconds[job.file] / 60:5.1f} min\n")
    sys.stdout.write(
        f"{len(jobs)} measurements of {len(asked)} are missing: about {sum(seconds.values()) / 60:.0f} minutes.\n"
    )
    sys.stdout.flush()
    if given.plan:
        return
    try:
        measured(jobs, given.out, store=given.store, seconds=seconds)
    finally:
        _write(given.out)


def _write(out: Path) -> None:
    from cq.bench.rows import all_rows, documents
    from cq.report.bench_figure import speedup_figure
    from cq.report.bench_page import bench_page
    from cq.report.looks import save_png, style

    rows = all_rows(out)
    if not rows:
        return
    with StringIO(newline="") as text:
        table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                        for row in rows)  # fmt: skip
        write_atomically(out / "bench.csv", text.getvalue().encode())
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    with style():
        for name in scenarios:
            save_png(speedup_figure([row for row in rows if row["scenario"] == name]), out / f"{name}.png")
    both = [documents(out, name) for name in scenarios]
    page = bench_page(
        rows, [each for timed, _ in both for each in timed], [each for _, w in both for each in w.values()]
    )
    write_atomically(out / "bench.html", page.encode())
    sys.stdout.write(f"{out}/bench.csv, bench.html and a figure a scenario\n")


if __name__ == "__main__":
    sys.exit(main())
