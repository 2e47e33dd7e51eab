"""Random configurations, valid and broken, as people and their scripts write them: what becomes of each.

A configuration is good where it is refused in one sentence of ours, or passes every check; a valid one that is run
small is good where it is recorded. `python -m tests.fuzz 400 --runs 80` counts.
"""

import argparse
import io
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from cq.cli.run import main
from cq.run.config import CONF
from cq.run.tracking import NoLogger

MODELS = ("ldm_mini", "ldm_uncond_mini", "dit_mini", "ddpm_mini", "sd_mini")
GROUPS = (
    "sampler", "cache", "predict", "calibrate", "cost", "schedule", "correct@correct.cache", "correct@correct.quant",
    "correct@correct.output", "quantize", "evaluate", "latency", "logger",
)  # fmt: skip
NUMBERS = (
    "budget.num_steps", "budget.sample_steps", "budget.cache_interval", "budget.weight_bits", "budget.act_bits",
    "budget.max_memory", "seed", "row.order", "baseline.num_steps", "sample.num_images", "sample.batch_size",
    "sample.trace", "sample.classes", "calibrate.num_samples", "calibrate.batch_size", "calibrate.max_interval",
    "model.guidance", "model.num_classes", "model.latent_shape", "model.image_shape", "schedule.interval",
    "schedule.exponent", "schedule.num_groups", "schedule.threshold", "quantize.iterations", "quantize.num_samples",
    "quantize.edge_bits", "quantize.weight_observer.power", "latency.repeats", "latency.batch_size", "predict.order",
    "cache.skipped", "cache.boundary", "cost.power", "correct.cache.min_variance", "metrics.fidelity.resamples",
    "metrics.fidelity.batch_size", "metrics.fidelity.psnr_cap_db", "metrics.fidelity.bootstrap_seed",
)  # fmt: skip
TEXTS = (
    "row.name", "row.table", "row.label", "paths.store", "paths.records", "paths.tracking", "paths.data",
    "model.weights", "model.site", "model.prompts", "schedule.path", "sample.labels", "logger.project", "logger.mode",
    "compute.dtype", "quantize.exclude", "metrics.fidelity._target_", "model._target_", "schedule._target_",
    "sampler._target_", "cost._target_", "protocol",
)  # fmt: skip
NASTY = (
    "0", "-1", "1", "2", "3", "1.5", "-0.0", "1e-300", "1e9", "1e400", "nan", "inf", "-inf", "null", "''", "true", "[]",
    "[1,1]", "[1,2,3]", "{}", "{a: 1}", "1000000000000", "-9223372036854775809", "4294967296", "007", "0x10", "1_000",
)  # fmt: skip
WORDS = (
    "''", "' '", "null", "3", "[]", "['*']", "x", "'a/b'", '"a\\nb"', "'~/x'", "/dev/zero", "/dev/null", "/", ".", "..",
    "/proc/self/mem", "zoo:ldm_mini", "zoo:", "zoo:../x", "hub:a/b", "'a b'", "cq.sampler.ddim.DDIM", "cq.cost.l1.L1",
    "cq.schedule.uniform.Uniform", "cq.evaluate.fidelity.Fidelity", "os.system", "cq.", "${budget}", "${nope}", "???",
)  # fmt: skip
STRANGE = (
    "+sampels.num_images=5", "+foo=1", "+budget.foo=1", "+model.foo=1", "+schedule.foo=1", "++seed=x", "~budget",
    "~seed", "~metrics", "~model.site", "model", "=", "budget=3", "metrics=null", "metrics.fidelity=null",
    "correct=null", "+metric@metrics.x=kid_own", "+metric@metrics.y=clip_score_own", "+metric@metrics.z=fid_clean",
    "experiment=nope", "experiment=table5/quant_dps_dec", "experiment=table2/deepcache", "scale=demo",
    "sample=images100", "protocol=parti", "protocol=cifar10_50k", "hydra.run.dir=/proc/x", "paths=results",
    "budget.num_stpes=3", "modle=ldm_mini", "seed=0,1",
)  # fmt: skip
SMALL = (
    "debug=smoke", "budget.num_steps=4", "budget.cache_interval=2", "sample.num_images=2", "sample.batch_size=2",
    "sample.trace=1", "calibrate.num_samples=2", "calibrate.max_interval=4", "metrics.fidelity.resamples=40",
)  # fmt: skip


@dataclass(frozen=True)
class Fate:
    """What became of a configuration: refused, passed, recorded, failed, traceback or slow; and its last line."""

    kind: str
    said: str


def choices(group: str) -> list[str]:
    """The names of a group's yaml files."""
    return sorted(path.stem for path in (CONF / group.partition("@")[0]).glob("*.yaml"))


def configurations(count: int, seed: int) -> Iterator[list[str]]:
    """Overrides: half of them choices that exist, the others with one to three broken or strange values among them."""
    draw = random.Random(seed)
    for number in range(count):
        overrides = [f"model={draw.choice(MODELS)}", *SMALL]
        for group in draw.sample(GROUPS, draw.randint(0, 4)):
            if group not in ("evaluate", "latency", "logger") or number % 2:
                overrides.append(f"{group}={draw.choice(choices(group))}")
        for _ in range(draw.randint(1, 3) if number % 2 else 0):
            kind = draw.random()
            if kind < 0.45:
                overrides.append(f"{draw.choice(NUMBERS)}={draw.choice(NASTY)}")
            elif kind < 0.8:
                overrides.append(f"{draw.choice(TEXTS)}={draw.choice(WORDS)}")
            else:
                overrides.append(draw.choice(STRANGE))
        if any(each.startswith(("quantize=reconstruct", "quantize=adaround")) for each in overrides):
            overrides.append("quantize.iterations=2")
        if "quantize=gptq" in overrides:
            overrides.append("quantize.num_states=4")
        yield overrides


def fate(overrides: list[str], root: Path, *, run: bool) -> Fate:
    """Run the command line in this process, in a folder of its own; without `run` only up to the first stage."""
    paths = [f"paths.store={root}/store", f"paths.records={root}/records.jsonl", f"paths.tracking={root}/wandb"]
    given = [key.partition("=")[0] for key in overrides]
    arguments = [*(path for path in paths if path.partition("=")[0] not in given), *overrides]
    said, status = io.StringIO(), 0
    root_log = logging.getLogger()
    handlers = list(root_log.handlers)
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said), redirect_stdout(io.StringIO()):
        patch.chdir(root)
        patch.setattr(sys, "argv", ["cq", *arguments])
        if not run:
            patch.setattr("cq.run.pipeline.run", _stop)
            patch.setattr("cq.run.memory.within_budget", lambda parts: parts)
            patch.setattr("cq.run.tracking.WandbLogger.run", NoLogger.run)
        try:
            status = main()
        except SystemExit as end:
            status = int(end.code or 0)
        except _PassedError:
            return Fate("passed", "")
        except BaseException as error:
            return Fate("traceback", repr(error))
    for handler in set(root_log.handlers) - set(handlers):
        root_log.removeHandler(handler)
        handler.close()
    lines = said.getvalue().strip().splitlines()
    last = lines[-1] if lines else ""
    if time.monotonic() - started > 60:
        return Fate("slow", last)
    if "Traceback" in said.getvalue():
        return Fate("traceback", said.getvalue())
    if status == 2 and (last.startswith("cq: ") or "Try 'cq --help'" in last or "usage:" in said.getvalue()):
        return Fate("refused", last)
    return Fate("recorded" if status == 0 else "failed", last)


class _PassedError(BaseException):
    """Everything was checked, and the first stage would begin."""


def _stop(*_: object) -> None:
    raise _PassedError


def count(configurations_: int, runs: int, seed: int) -> int:
    """Print what became of them, and every one that is not good; how many these are."""
    found: Counter[str] = Counter()
    bad = 0
    valid: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, overrides in enumerate(configurations(configurations_, seed)):
            root = Path(folder) / str(number)
            root.mkdir()
            what = fate(overrides, root, run=False)
            found[what.kind] += 1
            if what.kind == "passed":
                valid.append(overrides)
            elif what.kind != "refused" and not (what.kind == "recorded" and what.said == ""):
                bad += 1
                print(what.kind, " ".join(overrides), what.said[-1500:], sep="\n  ")
        print(dict(found))
        ran: Counter[str] = Counter()
        for number, overrides in enumerate(valid[:runs]):
            root = Path(folder) / f"run{number}"
            root.mkdir()
            what = fate(overrides, root, run=True)
            ran[what.kind] += 1
            if what.kind != "recorded":
                bad += 1
                print(what.kind, " ".join(overrides), what.said[-1500:], sep="\n  ")
        print(dict(ran))
    return bad


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(min(count(given.count, given.runs, given.seed), 1))
