"""`hydra/sweeper=optuna`: Hydra's sweeper over today's Optuna, under the names of the official plugin.

That one (hydra-optuna-sweeper 1.3) is bound to Optuna 2, whose studies in a file do not open with SQLAlchemy 2, and
tells a refused run from a bad one in no way.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, open_dict

from cq.core.seeding import SEARCH_SEEDS
from cq.run.components import Components
from cq.run.objective import Missing
from cq.search.fresh import Judged, judge, lines_of
from cq.search.study import Answer, Space, Study, front, optuna_module

log = logging.getLogger(__name__)
OPTUNA = "hydra_plugins.cq.OptunaSweeper"  # as conf/hydra/sweeper/optuna.yaml names it


class OptunaSweeper(Sweeper):
    """Searches what the command line leaves open for the best of what `objective` names.

    Trials draw on a seed that is set aside for searching. Points that nothing beats, and `controls`, which are
    command lines to compare with, then run again on `fresh_seeds`; a picture and a yaml say what both found.
    """

    def __init__(
        self, *, sampler: DictConfig, storage: str | None, study_name: str | None, n_trials: int, n_jobs: int,
        timeout: float | None, params: DictConfig, controls: ListConfig, fresh_seeds: ListConfig,
    ) -> None:  # fmt: skip
        self.sampler, self.storage, self.study_name = sampler, storage, study_name
        self.n_trials, self.n_jobs, self.timeout = n_trials, n_jobs, timeout
        self.controls, self.fresh_seeds = list(controls), list(fresh_seeds)
        self.asked = 0

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        assert self.config is not None  # Hydra calls `setup` before
        study = opened(self.config, arguments)
        study.search(self._ask, n_trials=self.n_trials, n_jobs=self.n_jobs, timeout=self.timeout)
        best = front(study.points, study.objectives)
        judged = judge(best, self.controls, study.space, seeds=self.fresh_seeds, ask=self._ask)
        for line in lines_of(judged, study.objectives):
            log.info("%s", line)
        files = write_search(study, judged, Path(self.config.hydra.sweep.dir))
        log.info("%d points, %d refused or failed; wrote %s", len(study.points), len(study.refused), ", ".join(files))

    def _ask(self, lines: Sequence[tuple[str, ...]]) -> list[Answer]:
        """One job a line. What a job raised in another process is its reason."""
        answers: list[Answer] = []
        assert self.launcher is not None
        for job in self.launcher.launch([list(line) for line in lines], initial_job_idx=self.asked):
            try:
                found = job.return_value
            except Exception as error:
                found = Missing(reason=str(error), refused=False)
            answers.append(found)
        self.asked += len(lines)
        return answers


def opened(config: DictConfig, arguments: Sequence[str]) -> Study:
    """The study of a configuration that has `hydra.sweeper`, and of the words that say what is left open.

    Raises ValueError, before anything runs, for what cannot be searched.
    """
    optuna_module()
    sweeper = config.hydra.sweeper
    preset = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    space = _on_a_search_seed(Space.of([*preset, *arguments]))
    asked = config.copy()
    with open_dict(asked):
        del asked["hydra"]
    objectives = Components.of(asked).objectives(asked.objective)
    if not objectives:
        raise ValueError("objective=[]: a search needs a number to aim at, as objective=[psnr_fp_db,bops_share].")
    if not space.swept:
        raise ValueError("nothing is left open: give a key several values, as schedule=uniform,dps.")
    return Study(
        space, objectives, storage=sweeper.storage, name=sweeper.study_name, sampler=instantiate(sweeper.sampler)
    )


def write_search(study: Study, judged: Sequence[Judged], out: Path) -> list[str]:
    """A yaml of what was found, under the official plugin's name, and a picture where there are axes for one."""
    from cq.search.draw import draw_front

    out.mkdir(parents=True, exist_ok=True)
    results = out / "optimization_results.yaml"
    document = {
        "objectives": {each.key: each.better for each in study.objectives}, "points": len(study.points),
        "refused": study.refused, "solutions": [each.as_yaml() for each in judged],
    }  # fmt: skip
    results.write_text(yaml.safe_dump(document, sort_keys=False))
    drawn = len(study.objectives) > 1 and study.points
    files = [results, *([draw_front(study.points, judged, study.objectives, out / "front.png")] if drawn else [])]
    return [str(path) for path in files]


def _on_a_search_seed(space: Space) -> Space:
    """With one, where none is given. Raises ValueError for one that a run may be judged on."""
    given = [each.removeprefix("seed=") for each in space.fixed if each.startswith("seed=")]
    if "seed" in space.swept or any(not seed.isdigit() or int(seed) not in SEARCH_SEEDS for seed in given):
        raise ValueError(
            f"seed={given[0] if given else 'several'}: what is chosen on images is not judged on them. Search on one "
            f"of {SEARCH_SEEDS.start}..{SEARCH_SEEDS.stop - 1}, or leave it out; hydra.sweeper.fresh_seeds judges."
        )
    return space if given else Space(swept=space.swept, fixed=(*space.fixed, f"seed={SEARCH_SEEDS.start}"))


def register_sweeper() -> None:
    """Tell Hydra of it, which takes plugins from the package `hydra_plugins` alone: this module gets a name there."""
    plugins = Plugins.instance()  # which imports that package, where anything is in it
    home: Any = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    home.cq, OptunaSweeper.__module__ = sys.modules[__name__], OPTUNA.rpartition(".")[0]
    plugins.register(OptunaSweeper)
