"""The fastest configuration within a quality, or the best one at a cost: `cq tune quality=40 model=ldm_mini`.

    cq tune quality=40 ...                  least seconds_share (measured) with psnr_fp_db of 40 or more
    cq tune cost=0.1 ...                    best psnr_fp_db in a tenth of full precision's time (measured)
    cq tune cost=0.1 by=bops_share ...      in a tenth of its BOPs (counted): quantized ones, too
    metric=..., by=...                      any other score or cost; out=FOLDER: where the report goes (runs/tune)

All else are overrides as `cq -m` takes them. A measured cost is searched in conf/search/time.yaml, a counted one in
conf/search/joint.yaml, unless search=... says otherwise. What is chosen runs again on fresh seeds, beside as many
network calls in full and the uniform schedule. It says the command that asks for it alone, and writes it with those
others as the table `tuned` into FOLDER: `cq cq.allow=./FOLDER experiment=tuned/chosen`, and `cq-table tuned` for all.
Needs the extra `search`; the same command goes on.
"""

import logging
import os
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cq.cli.commands import FAILED, REFUSED, ended, helped
from cq.core.store import check_writable
from cq.run.compose import composed_with_hydra, composing
from cq.run.objective import COUNTED, MEASURED
from cq.run.own import allowing, said
from cq.search.fresh import judge, lines_of
from cq.search.study import Space
from cq.search.sweeper import opened, write_search
from cq.search.tune import Goal, Runs, alone, choose, controls_of, table_of, verdict

GOALS = ("quality", "cost")
TABLE = "tuned"
COSTS = (*COUNTED, *MEASURED)
OWN = {"metric": "psnr_fp_db", "by": "seconds_share", "out": "runs/tune"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Exit status: see `cq.cli.commands.ended`; 1 where no configuration reaches the goal."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if helped(given, __doc__):
        return 0
    if not given or given[0].startswith("-"):
        sys.stderr.write(f"usage: {__doc__}")
        return REFUSED
    return ended("cq tune", lambda: _tune(allowing(given)))


def _tune(words: list[str]) -> int:
    mine = [word for word in words if _is_own(*word.partition("=")[::2])]
    own = dict(word.split("=", 1) for word in mine)
    words = [word for word in words if word not in mine]
    asked = [key for key in GOALS if key in own]
    if len(asked) != 1:
        raise ValueError("say one of quality=NUMBER, held at the least cost, and cost=NUMBER, at the best quality.")
    settings, target = {**OWN, **own}, _number(asked[0], own[asked[0]])
    if settings["metric"] in COSTS or settings["by"] not in COSTS:
        raise ValueError(
            f"metric={settings['metric']} by={settings['by']}: metric is a score, as {OWN['metric']}, and by is a "
            f"cost, one of {', '.join(COSTS)}."
        )
    out = Path(settings["out"])
    check_writable(out, "out")
    preset = (
        []
        if any(word.startswith("search=") for word in words)
        else [f"search={'time' if settings['by'] in MEASURED else 'joint'}"]
    )
    words = [*preset, *words, f"objective=[{settings['metric']},{settings['by']}]"]
    with composing():
        config = composed_with_hydra(Space.of(words).fixed)
    study = opened(config, [word for word in words if not word.startswith("hydra")])
    goal = Goal(kind="quality" if asked[0] == "quality" else "cost", target=target,
                quality=study.objectives[0], cost=study.objectives[1])  # fmt: skip
    runs, sweeper = Runs({}), config.hydra.sweeper
    ask = runs.asking([each.key for each in study.objectives])
    study.search(ask, n_trials=sweeper.n_trials, n_jobs=1, timeout=sweeper.timeout)
    chosen = choose(study.points, goal, runs.record)
    controls = controls_of(chosen, goal, config.baseline.num_steps) if chosen else []
    judged = judge([chosen] if chosen else [], controls, study.space, seeds=list(sweeper.fresh_seeds), ask=ask)
    files = write_search(study, judged, out)
    if chosen is None:
        sys.stdout.write(f"{goal.words}: none of {len(study.points)} configurations; {', '.join(files)}\n")
        return FAILED
    record = runs.record(chosen.overrides)
    line = shlex.join(["cq", *said(), *alone(chosen.overrides)])
    folder = Path(config.paths.records).parent / record.store / record.folders.get("acceleration", "")
    found, worth = lines_of(judged, study.objectives), verdict(judged, goal)
    told = {"asked": goal.words, "meaning": goal.meaning, "command": line, "acceleration": str(folder),
            "found": found, "verdict": worth}  # fmt: skip
    table, beside = table_of(judged, goal)
    again = []
    if table["rows"]:
        words = [*said(), f"cq.allow={out if os.sep in str(out) else f'{os.curdir}{os.sep}{out}'}", *beside]
        again = [shlex.join(["cq", f"experiment={TABLE}/chosen", *words]), shlex.join(["cq-table", TABLE, *words])]
        files += [_written(out / "table" / f"{TABLE}.yaml", table)]
    files += [_written(out / "tuned.yaml", told | {"again": again})]
    lines = [goal.words, goal.meaning, *found, worth, line, *again, f"Acceleration: {folder}"]
    lines += [f"wrote {file}" for file in files]
    sys.stdout.write("\n".join([*lines, ""]))
    return 0


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{key}={text}: is no number. Say one, as {key}=30.") from error


def _written(path: Path, document: Mapping[str, Any]) -> str:
    path.parent.mkdir(exist_ok=True)
    text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=10_000)
    path.write_text(text, encoding="utf-8")
    return str(path)


def _is_own(key: str, value: str) -> bool:
    """Whether a word is for this command: cost=0.1 is, and cost=l1 is a choice of a group."""
    return key in OWN or (key in GOALS and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value) is not None)


if __name__ == "__main__":
    sys.exit(main())
