"""A search as Optuna has it: what is asked, what came back, and which points nothing beats.

Optuna (arXiv:1907.10902) chooses the points; runs answer them. A study in a file goes on where it stopped: its trials
are counted, not those of a call, and what was asked when it was killed is asked again.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer

from cq.core.checksum import digest_of
from cq.run.identity import code_digest
from cq.run.objective import Missing, Objective

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

Answer = tuple[float, ...] | Missing
Ask = Callable[[Sequence[tuple[str, ...]]], Sequence[Answer]]  # overrides of each run to what it returned
SQLITE = "sqlite:///"
IDLE = 50  # points in a row that were asked before: the space is searched through
REMEDY = "pip install 'cq[search]'"


class NoOptunaError(ValueError):
    """The extra is not installed."""


def optuna_module() -> Any:
    """Optuna, quiet. Raises NoOptunaError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        raise NoOptunaError(f"hydra/sweeper=optuna: needs Optuna, which is not installed. {REMEDY}") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is searched. swept: key to its override, such as range(2,21). fixed: what every run says."""

    swept: Mapping[str, Override]
    fixed: tuple[str, ...]

    @staticmethod
    def of(overrides: Sequence[str]) -> "Space":
        """From a command line: a=1,2,3, range(...), interval(...) and choice(...) are searched; later ones count."""
        found: dict[str, Override] = {}
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            found[override.get_key_element()] = override
        return Space(
            swept={key: each for key, each in found.items() if each.is_sweep_override()},
            fixed=tuple(str(each.input_line) for each in found.values() if not each.is_sweep_override()),
        )

    @property
    def distributions(self) -> "dict[str, optuna.distributions.BaseDistribution]":
        """By key, as Optuna has them."""
        return {key: _distribution(override) for key, override in self.swept.items()}

    def overrides(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """The command line of a point."""
        return (*self.fixed, *(f"{key}={value}" for key, value in params.items()))


def _distribution(override: Override) -> Any:
    kinds: Any = optuna_module().distributions
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        whole = {type(value.start), type(value.end)} == {int}
        kind = kinds.IntDistribution if whole else kinds.FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    whole = isinstance(value, RangeSweep) and {type(value.start), type(value.stop), type(value.step)} == {int}
    if whole and not value.shuffle:
        points = range(int(value.start or 0), int(value.stop or 0), int(value.step))
        if not points:
            raise ValueError(f"{override.input_line}: has no value. Give a range with at least one, as range(2,21).")
        return kinds.IntDistribution(min(points), max(points), step=abs(points.step))
    return kinds.CategoricalDistribution(list(override.sweep_iterator(transformer=Transformer.encode)))


@dataclass(frozen=True, kw_only=True)
class Point:
    """One configuration, by what it sets, and its numbers in the order of the objectives."""

    params: Mapping[str, Any]
    overrides: tuple[str, ...]
    values: tuple[float, ...]

    @property
    def words(self) -> str:
        """What is particular about it."""
        return " ".join(f"{key}={value}" for key, value in self.params.items())


class Study:
    """Points asked and answered, in a file or in memory."""

    def __init__(
        self, space: Space, objectives: Sequence[Objective], *, storage: str | None, name: str | None, sampler: Any
    ) -> None:
        optuna = optuna_module()
        self.space, self.objectives, self.states = space, tuple(objectives), optuna.trial.TrialState
        if storage is not None and storage.startswith(SQLITE):
            Path(storage.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
        words = [sorted(space.fixed), sorted(str(each.input_line) for each in space.swept.values())]
        asked = [words, [each.key for each in objectives]]
        code = code_digest()  # an answer of code that was edited since is none
        self.optuna = optuna.create_study(
            storage=storage, study_name=name or digest_of([*asked, *filter(None, [code])])[:12],
            load_if_exists=True, sampler=sampler,
            directions=["minimize" if each.better == "down" else "maximize" for each in objectives],
        )  # fmt: skip
        for trial in self.optuna.get_trials(deepcopy=False, states=(self.states.RUNNING,)):  # of a killed process
            self.optuna.tell(trial.number, state=self.states.FAIL)
            self.optuna.enqueue_trial(trial.params)

    @property
    def points(self) -> list[Point]:
        """Every answered point once, in the order of asking."""
        found: dict[str, Point] = {}
        for trial in self.optuna.get_trials(deepcopy=False, states=(self.states.COMPLETE,)):
            overrides = self.space.overrides(trial.params)
            point = Point(params=trial.params, overrides=overrides, values=tuple(trial.values))
            found.setdefault(" ".join(overrides), point)
        return list(found.values())

    @property
    def refused(self) -> list[str]:
        """The reasons of points that had no answer."""
        trials = self.optuna.get_trials(deepcopy=False, states=(self.states.PRUNED, self.states.FAIL))
        return [str(trial.user_attrs["reason"]) for trial in trials if "reason" in trial.user_attrs]

    def search(self, ask: Ask, *, n_trials: int, n_jobs: int, timeout: float | None) -> None:
        """Ask until `n_trials` different points were asked, all there are, or `timeout` seconds are over."""
        started, idle = time.monotonic(), 0
        known: dict[str, Answer] = {" ".join(point.overrides): point.values for point in self.points}
        known |= {
            " ".join(self.space.overrides(trial.params)): Missing(reason=trial.user_attrs["reason"], refused=True)
            for trial in self.optuna.get_trials(deepcopy=False, states=(self.states.PRUNED,))
        }
        while len(known) < n_trials and idle < IDLE:
            if timeout is not None and time.monotonic() - started > timeout:
                log.info("search: %g seconds are over after %d points", timeout, len(known))
                return
            jobs = min(n_jobs, n_trials - len(known))
            trials = [self.optuna.ask(self.space.distributions) for _ in range(jobs)]
            lines = {trial.number: self.space.overrides(trial.params) for trial in trials}
            new = list(dict.fromkeys(line for line in lines.values() if " ".join(line) not in known))
            answers = dict(zip(map(" ".join, new), ask(new) if new else (), strict=True))
            idle = 0 if new else idle + 1
            known |= answers
            for trial in trials:
                self._tell(trial, known[" ".join(lines[trial.number])])
            for line, answer in answers.items():
                told = answer.reason if isinstance(answer, Missing) else self._named(answer)
                log.info("search %d of %d: %s: %s", len(known), n_trials, self._own(line), told)

    def _tell(self, trial: Any, answer: Answer) -> None:
        if isinstance(answer, Missing):
            trial.set_user_attr("reason", answer.reason)
            self.optuna.tell(trial, state=self.states.PRUNED if answer.refused else self.states.FAIL)
        else:
            self.optuna.tell(trial, values=list(answer))

    def _own(self, line: str) -> str:
        return line.removeprefix(" ".join(self.space.fixed)).strip()

    def _named(self, values: Sequence[float]) -> str:
        return ", ".join(f"{each.key} {value:.4g}" for each, value in zip(self.objectives, values, strict=True))


def front(points: Sequence[Point], objectives: Sequence[Objective]) -> list[Point]:
    """The points that no other one beats: as good in every objective and better in one. By the last objective."""
    signs = [each.sign for each in objectives]

    def worse(point: Point) -> tuple[float, ...]:
        return tuple(sign * value for sign, value in zip(signs, point.values, strict=True))

    def beaten(point: Point) -> bool:
        mine = worse(point)
        return any(
            other != mine and all(theirs <= ours for theirs, ours in zip(other, mine, strict=True))
            for other in map(worse, points)
        )

    kept = {point.values: point for point in reversed(points) if not beaten(point)}  # of equals the first
    return sorted(kept.values(), key=lambda point: worse(point)[::-1])
