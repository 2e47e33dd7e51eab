"""The law of samplers: on every stored scheduler a trajectory is the stock pipeline's with that solver, or refused.

`python -m tests.sampler.test_stock_law` prints how many combinations are equal and how many are refused.
"""

import collections
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from cq.core.acceleration import Acceleration, every_call
from cq.core.contracts import Sampler
from cq.core.denoise import denoise
from cq.core.denoiser import DenoiserOutput
from cq.laws.choices import built, names
from cq.sampler.stock import StockSolver
from cq.sampler.stored import CLASSES
from tests.sampler.stored_configs import EULER, STORED

FEW, MANY = (1, 2, 4, 10, 20), (50, 250, 999, 1000)  # DPM-Solver ends otherwise below 15
CLIPPING = ("DDIMScheduler", "DDPMScheduler")
START = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))


def network(x: Tensor, timestep: Any) -> Tensor:
    """Any function of both."""
    return 0.7 * x.flip(-1) + 0.1 * torch.cos(torch.as_tensor(float(timestep)) / 150)


class Linear:
    """It as a denoiser."""

    sites: tuple[str, ...] = ()

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        return DenoiserOutput(network(x_NCHW, timestep), {})


def stock_scheduler(sampler: StockSolver, stored: Mapping[str, Any]) -> Any:
    """What one gets from diffusers who lets the stored class read its own file, and clips nothing that it does not."""
    own = getattr(diffusers, str(stored["_class_name"]))
    solver = getattr(diffusers, sampler.scheduler)
    if own is solver:
        return solver.from_config(stored)
    read = {**stored, **own.from_config(stored).config}
    read.pop("_use_default_values", None)
    if stored["_class_name"] not in CLIPPING:
        read["clip_sample"] = stored.get("clip_sample", False)
    read.pop("variance_type", None)
    of_ours: dict[str, dict[str, Any]] = {
        "PNDMScheduler": {"skip_prk_steps": True}, "DPMSolverMultistepScheduler": {"algorithm_type": "dpmsolver++"},
    }  # fmt: skip
    return solver.from_config(read, **of_ours.get(sampler.scheduler, {}))


def stock_loop(scheduler: Any) -> Tensor:
    """As every stock pipeline has it."""
    x: Tensor = START * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        out = network(scheduler.scale_model_input(x, timestep), timestep)
        x = scheduler.step(out, timestep, x, return_dict=False)[0]
    return x


def ours(sampler: Sampler, stored: Mapping[str, Any], num_steps: int) -> Tensor:
    *_, last = denoise(
        Linear(), sampler.noise_scheduler(stored, num_steps), START, cond=None,
        acceleration=Acceleration(schedule=every_call(sampler.num_calls(num_steps))),
    )  # fmt: skip
    return last.x_NCHW


def refused(sampler: Sampler, stored: Mapping[str, Any], num_steps: int) -> bool:
    """Whether it is, before and in the run alike, in a sentence of ours."""
    try:
        sampler.check(num_steps, stored)
    except ValueError as error:
        told = str(error)
        assert told.startswith(("budget.num_steps=", "sampler=", "the model's stored scheduler has ")), told
        assert told.endswith("."), told
        with pytest.raises(ValueError, match=re.escape(told)):
            sampler.noise_scheduler(stored, num_steps)
        return True
    return False


def verdicts(name: str, steps: tuple[int, ...], *, whole: bool) -> Iterator[str]:
    """Equal or refused, for every stored configuration. whole: step along; else compare what steps are made of."""
    sampler: StockSolver = built("sampler", name)
    for title, stored in STORED.items():
        for num_steps in steps:
            if refused(sampler, stored, num_steps):
                yield "refused"
                continue
            stock = stock_scheduler(sampler, stored)
            if name.startswith("ddim_quadratic"):  # diffusers has no such grid; tests/sampler/test_quadratic.py
                assert ours(sampler, stored, num_steps).isfinite().all() if whole else True
                yield "equal to none"
                continue
            stock.set_timesteps(num_steps)
            where = f"{name} on {title}, {num_steps} steps"
            assert len(stock.timesteps) == sampler.num_calls(num_steps), where
            if whole:
                mine = ours(sampler, stored, num_steps)
                assert mine.isfinite().all(), where
                assert torch.equal(mine, stock_loop(stock)), where
            else:
                made = sampler.noise_scheduler(stored, num_steps)
                for part in ("timesteps", "alphas_cumprod", "final_alpha_cumprod", "sigmas"):
                    if hasattr(stock, part):
                        assert torch.equal(getattr(made, part), getattr(stock, part)), (where, part)
            yield "equal"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers hands numpy a tensor, and deprecates what folders store
        yield


@pytest.mark.parametrize("name", names("sampler"))
def test_every_sampler_on_every_stored_scheduler_is_the_stock_pipeline_or_refused(name: str) -> None:
    found = collections.Counter(verdicts(name, FEW, whole=True)) + collections.Counter(
        verdicts(name, MANY, whole=False)
    )
    assert found["refused"]
    assert len(found) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", names("sampler"))
def test_the_same_in_many_steps(name: str) -> None:
    assert collections.Counter(verdicts(name, MANY, whole=True))["refused"]


@pytest.mark.parametrize("name", [name for name in names("sampler") if "quadratic" not in name])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_a_check_sees_the_grid_that_diffusers_makes_at_every_count(name: str, spacing: str) -> None:
    sampler: StockSolver = built("sampler", name)
    stored = {**STORED["SD 1"], "timestep_spacing": spacing}
    from cq.sampler.stored import Stored

    read, made = Stored.of(stored), stock_scheduler(sampler, stored)
    for num_steps in range(2, 1001):
        made.set_timesteps(num_steps)
        grid = made.timesteps.tolist()
        grid = [grid[0], *grid[2:]] if sampler.num_calls(num_steps) > num_steps else grid  # called twice
        assert grid == pytest.approx(sampler.grid(num_steps, read), abs=1e-3)


def test_the_list_of_classes_is_diffusers_own() -> None:
    for name, spacing in CLASSES.items():
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        assert (parameters["timestep_spacing"].default if "timestep_spacing" in parameters else None) == spacing
        for key, value in {"num_train_timesteps": 1000, "steps_offset": 0, "prediction_type": "epsilon"}.items():
            assert key not in parameters or parameters[key].default == value
        assert not any(p.default is True for key, p in parameters.items() if "sigmas" in key or "zero_snr" in key)


@pytest.mark.parametrize("name", ["ddim", "plms", "dpmpp", "euler"])
def test_a_folder_that_says_nothing_of_clipping_is_not_clipped(name: str) -> None:
    config = built("sampler", name).noise_scheduler({**EULER, "timestep_spacing": "leading"}, 10).config
    assert not config.get("clip_sample", False)


@pytest.mark.parametrize("num_steps", [10, 15, 20, 25, 30, 35, 40, 50])
def test_usual_numbers_of_steps_of_dpm_solver_start_near_enough_to_the_noise(num_steps: int) -> None:
    built("sampler", "dpmpp").check(num_steps, STORED["ldm_mini"])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    total: collections.Counter[str] = collections.Counter()
    for choice in names("sampler"):
        counted = collections.Counter(verdicts(choice, FEW + MANY, whole=True))
        total += counted
        print(f"{choice}: {dict(counted)}")
    print(f"{sum(total.values())} combinations: {dict(total)}")
