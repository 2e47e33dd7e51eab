"""Samplers: calls a trajectory, timesteps, and what is refused."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cq.run.preflight import check_sampler
from cq.sampler.ddim import DDIM
from cq.sampler.dpmpp import DPMpp
from cq.sampler.euler import Euler
from cq.sampler.plms import PLMS
from cq.sampler.stock import StockSolver
from experiments.zoo.recipes.diffusion import ldm_noise_scheduler
from tests.families import component
from tests.sampler.stored_configs import STORED

SAMPLERS: dict[str, StockSolver] = {"ddim": DDIM(), "plms": PLMS(), "dpmpp": DPMpp(), "euler": Euler()}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("num_steps", [10, 50])
def test_a_trajectory_makes_the_calls_that_were_declared(name: str, num_steps: int) -> None:
    sampler = SAMPLERS[name]
    sampler.check(num_steps)
    scheduler = sampler.noise_scheduler(ldm_noise_scheduler().config, num_steps)
    assert len(scheduler.timesteps) == sampler.num_calls(num_steps)
    assert (scheduler.timesteps.diff() <= 0).all()
    x = torch.randn(2, 4, 8, 8)
    for timestep in scheduler.timesteps:
        scheduler.scale_model_input(x, timestep)
        x = scheduler.step(torch.zeros_like(x), timestep, x).prev_sample
    assert x.isfinite().all()


def test_plms_calls_its_second_step_twice() -> None:
    timesteps = PLMS().noise_scheduler(ldm_noise_scheduler().config, 50).timesteps
    assert len(timesteps) == 51
    assert timesteps[1] == timesteps[2]
    assert timesteps[0] > timesteps[1] > timesteps[3]


@pytest.mark.parametrize(
    ("name", "num_steps"), [("ddim", 300), ("ddim", 1), ("plms", 1), ("plms", 300), ("dpmpp", 250), ("euler", 1000)]
)
def test_a_step_count_that_the_sampler_cannot_take_is_refused(name: str, num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"budget.num_steps={num_steps}: "):
        SAMPLERS[name].check(num_steps)


@dataclass(frozen=True)
class OfBefore:
    """A sampler from when they did not ask what is stored."""

    def check(self, num_steps: int) -> None: ...

    def num_calls(self, num_steps: int) -> int:
        return num_steps

    def noise_scheduler(self, config: object, num_steps: int) -> None: ...


def test_a_sampler_of_the_old_contract_is_told_the_new_one() -> None:
    sampler: Any = OfBefore()
    with pytest.raises(ValueError, match=r"sampler=OfBefore: has no check\(num_steps, stored\)"):
        check_sampler(sampler, 10, SimpleNamespace(noise=STORED["SD 1"]), "budget.num_steps")


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_remedy_works_when_it_is_followed(name: str) -> None:
    for stored in STORED.values():
        for num_steps in (1, 7, 300, 999, 1000):
            try:
                SAMPLERS[name].check(num_steps, stored)
            except ValueError as error:
                for offered in re.findall(r"\d+", str(error).partition("Choose from ")[2]):
                    SAMPLERS[name].check(int(offered), stored)


def test_the_stored_configuration_of_stable_diffusion_is_read_as_its_pipeline_reads_it(tmp_path: Path) -> None:
    """The stock pipeline sets the offset to 1 and clipping off, whatever is stored; XL's and PixArt's do not."""
    stored = {**STORED["DDIM that says nothing"], "clip_sample": True, "steps_offset": 0}
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(stored))
    read = {name: component(name, tmp_path).noise for name in ("sd", "sdxl", "pixart", "dit")}
    assert {name: (noise["steps_offset"], noise["clip_sample"]) for name, noise in read.items()} == {
        "sd": (1, False), "sdxl": (0, True), "pixart": (0, True), "dit": (0, True),
    }  # fmt: skip
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"beta_start": 0.1}))
    with pytest.raises(ValueError, match="has no _class_name"):
        _ = component("dit", tmp_path).noise
