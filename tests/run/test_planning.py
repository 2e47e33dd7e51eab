"""Planners that compute before they plan, on the tiny model: what their stages make, and what survives a kill."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cq.run.components import Components
from cq.run.context import Run
from cq.run.identity import described
from cq.run.stages.schedule import Schedule
from cq.run.stages.sketches import Sketches
from cq.run.stages.trials import Trials
from tests.tiny_runs import composed, quick

CALLS = 6
GUARDED = (
    "schedule=guarded", "correct@correct.cache=channel_affine", f"budget.num_steps={CALLS}",
    "schedule.num_choosing=3", "schedule.num_confirming=2", "schedule.moves=1",
    "schedule.candidates.adjoint.trajectories=3", "schedule.candidates.adjoint.projections=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("planning")
    return Run(Components.of(composed(quick(tiny_folder, root, *GUARDED))[0]))


def test_trials_go_on_after_a_kill_and_the_plan_is_the_same(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, tried = Trials._errors, list[tuple[object, ...]]()

    def killed(self: Trials, refresh_calls: tuple[int, ...], first: int, count: int) -> dict[str, torch.Tensor]:
        if len(tried) == 2:
            tried.append(())  # so that the next attempt is not
            raise KeyboardInterrupt
        tried.append((refresh_calls, first))
        return found(self, refresh_calls, first, count)

    monkeypatch.setattr(Trials, "_errors", killed)
    with pytest.raises(KeyboardInterrupt):
        Schedule(run).make(run.unaccelerated, tmp_path)
    resumed = Schedule(run).make(run.unaccelerated, tmp_path)
    assert len(tried) == len(set(tried))  # no trial twice
    assert resumed == Schedule(run).make(run.unaccelerated, tmp_path)  # from the shards
    assert len(tried) == len(set(tried))
    assert len(resumed.refresh_calls) == CALLS // 2


def test_a_trial_is_the_error_of_the_deployed_sampler(run: Run, tmp_path: Path) -> None:
    stage = Schedule(run)
    trials = Trials(run=run, shards=tmp_path, deployed=lambda calls: stage._deployed(run.unaccelerated, calls))
    assert trials(tuple(range(CALLS)), first=0, count=3).max() == 0  # every call full
    few, more = (trials(calls, first=0, count=3) for calls in ((0, 3), (0, 1, 3, 5)))
    assert (few > more).all()
    torch.testing.assert_close(trials((0, 3), first=1, count=2), few[1:])
    assert stage._deployed(run.unaccelerated, (0, 3)).cache.tables  # with the correction


def test_sketches_are_of_every_near_pair_in_batches(run: Run, tmp_path: Path) -> None:
    """Quick runs calibrate two images at a time: three trajectories are two batches, in this order."""
    found = Sketches(run).make(run.unaccelerated, tmp_path)
    assert found.sketch_TDK.shape == (CALLS, CALLS, 3 * 2)
    exists_TD = torch.arange(CALLS)[:, None] >= torch.arange(CALLS)[None]
    exists_TD[:, 0] = False
    assert ((found.sketch_TDK != 0).all(2) == exists_TD).all()
    assert len(list(tmp_path.glob("sketches_*.safetensors"))) == 2


def test_a_component_by_name_counts_and_is_refused_under_its_own_key(
    run: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    assert described(run.parts.planner)["candidates"]["adjoint"]["trajectories"] == 3
    arguments = quick(tiny_folder, tmp_path, *GUARDED, "schedule.candidates.adjoint.projections=0")
    with pytest.raises(ValueError, match=r"schedule\.candidates\.adjoint\.projections=0: must be at least 1"):
        Components.of(composed(arguments)[0])


def test_a_trial_is_corrected_where_the_run_is(tiny_folder: Path, tmp_path: Path) -> None:
    """As the run's own correction would be, were it fitted on these images."""
    led = (*GUARDED, "correct@correct.output=closed_loop", "correct.output.batch_size=2")
    run = Run(Components.of(composed(quick(tiny_folder, tmp_path, *led))[0]))
    stage = Schedule(run)
    trials = Trials(run=run, shards=tmp_path, deployed=lambda calls: stage._deployed(run.unaccelerated, calls))
    (tmp_path / "plain").mkdir()
    plain = replace(trials, shards=tmp_path / "plain")
    assert trials(tuple(range(CALLS)), first=0, count=3).max() == 0
    corrected = trials((0, 3), first=0, count=3)
    assert "output" in stage.key(run.unaccelerated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trials, "along", None)
        assert (corrected < plain((0, 3), first=0, count=3)).all()
