"""Fill a table: `python -m cq.table table5 [overrides]` runs every experiment in conf/experiment/table5, then reports.

Overrides are Hydra's; comma lists span a grid, as in `budget.cache_interval=5,10,20 seed=0,1,2`. Runs that are
recorded already are not run again, so the same command goes on after an interruption.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from cq.__main__ import CONF

log = logging.getLogger("cq.table")


@dataclass(frozen=True)
class Job:
    """One composed configuration and the names of its choices."""

    config: DictConfig
    choices: dict[str, str]


def jobs_of(table: str, overrides: Sequence[str]) -> list[Job]:
    """Every experiment of the table times the grid of the overrides; equal questions once."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    from cq.ledger import config_digest, experiment_of

    folder = CONF / "experiment" / table
    files = sorted(folder.glob("*.yaml"))
    if not files:
        known = sorted(p.name for p in (CONF / "experiment").iterdir() if p.is_dir())
        raise ValueError(
            f"table={table!r}: there is no folder conf/experiment/{table}. Known tables: {', '.join(known)}."
        )
    jobs: dict[tuple[str, str], Job] = {}
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for grid in BasicSweeper.split_arguments(parsed, None)[0]:
            for file in files:
                chosen = [f"experiment={table}/{file.stem}", *grid]
                config = compose("config", overrides=chosen, return_hydra_config=True)
                choices = {str(k): str(v) for k, v in config.hydra.runtime.choices.items()}
                with open_dict(config):
                    del config["hydra"]
                job = Job(config, choices)
                jobs.setdefault((experiment_of(config), config_digest(config)), job)
    return sorted(jobs.values(), key=lambda job: (job.config.seed, job.config.row.order))


def announce(jobs: Sequence[Job]) -> None:
    """Log how many runs are to do and about how long they take, from timed calls of the first one's model."""
    from cq.ledger import find
    from cq.pipeline import Components
    from cq.plan import SHARED, estimate_seconds, time_calls

    parts = [Components.of(job.config) for job in jobs]
    todo = [
        (job, part)
        for job, part in zip(jobs, parts, strict=True)
        if job.config.force or find(Path(job.config.paths.records), job.config, part.model.weights_digest()) is None
    ]
    log.info("%d runs, %d of them recorded already", len(jobs), len(jobs) - len(todo))
    if not todo:
        return
    calls = time_calls(todo[0][1])
    total = 0.0
    shared: set[tuple[str, int, int]] = set()
    for job, part in todo:
        interval = OmegaConf.to_container(job.config.schedule, resolve=True).get("interval")  # type: ignore[union-attr]
        stages = estimate_seconds(part, calls, interval=interval, quantized=part.quantizer.num_samples > 0)
        for stage, seconds in stages.items():
            key = (stage, part.sample.num_steps, part.run_seed)
            total += 0 if stage in SHARED and key in shared else seconds
            if seconds:
                shared.add(key)
    log.info(
        "a full call takes %.1f ms an image, a cached one %.1f ms: about %.0f minutes for everything",
        calls.full * 1e3, calls.cached * 1e3, max(1, total / 60),
    )  # fmt: skip


def fill(table: str, overrides: Sequence[str], out: Path) -> str:
    """Run what is missing, render the table into `out` and return its Markdown."""
    from cq.config import build
    from cq.ledger import execute
    from cq.report.render import render_table

    jobs = jobs_of(table, overrides)
    announce(jobs)
    records = []
    for number, job in enumerate(jobs, start=1):
        log.info("run %d of %d: %s, seed %d", number, len(jobs), job.config.row.label, job.config.seed)
        records.append(execute(job.config, job.choices))
    config = jobs[0].config
    path = Path(config.paths.records)
    rendered = render_table(table, records, Path("results/paper.csv"), out, thumbnails=path.parent)
    files = {file.stem: file for file in rendered.files}
    build(config.logger, "logger").log_table(table, records, files, Path(config.paths.tracking))
    return rendered.markdown


def main() -> None:
    """Console entry; `out=FOLDER` among the arguments names where the report goes (default runs/report)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    arguments = sys.argv[1:]
    if not arguments or arguments[0].startswith("-"):
        raise SystemExit(f"usage: {__doc__}")
    out = Path("runs/report")
    overrides = []
    for argument in arguments[1:]:
        if argument.startswith("out="):
            out = Path(argument.removeprefix("out="))
        else:
            overrides.append(argument)
    try:
        sys.stdout.write(fill(arguments[0], overrides, out) + "\n")
    except ValueError as error:
        raise SystemExit(f"cq.table: {error}") from error


if __name__ == "__main__":
    main()
