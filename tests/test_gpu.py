"""What needs a CUDA device: `pytest tests/test_gpu.py -m gpu`. Everything else here is tested on CPUs.

Bars: a GPU adds up in another order, so equal means within rounding; where one device is compared with itself, bits.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule
from cq.core.denoise import denoise
from cq.core.precision import multiply
from cq.core.processes import device
from cq.core.seeding import initial_noise
from cq.engine.card import verdict
from cq.engine.compiled import Compiled
from cq.engine.int8 import Int8
from cq.models.diffusion import DiffusionModel
from cq.models.trial import tried
from cq.quantize.twin import fake_quantized
from cq.run.components import Components
from cq.run.pipeline import run
from cq.sampler.ddim import DDIM
from tests.adapt.tiny_pipelines import Tiny
from tests.families import component
from tests.quantize.trajectories import PTQ_8, TinyRuns
from tests.tiny_runs import composed, quick

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # of compilers and drivers
]
GPU = torch.device("cuda")
STEPS = 6
FAMILIES = ("ldm", "sd", "dit", "pixart")
NEAR, COMPILED_NEAR = 1e-3, 1e-3  # of the norm, in float32


@pytest.fixture(autouse=True)
def _highest() -> None:
    multiply("highest")


def loaded(family: str, folders: dict[str, Path], where: torch.device) -> DiffusionModel:
    return component(family, folders[family]).load().on(where, torch.float32)


def cached(model: DiffusionModel) -> Acceleration:
    """Two refreshes, whatever the solver's calls are."""
    calls = model.sampler.num_calls(STEPS)
    return Acceleration(schedule=CacheSchedule(num_calls=calls, refresh_calls=(0, 3), planner="t", interval=None))


def latents(model: DiffusionModel, denoiser: Any = None) -> Tensor:
    """Of two images, on the CPU; cached."""
    labels = torch.tensor([0, 1]) % max(1, model.component.num_classes)
    *_, last = denoise(
        denoiser or model.denoiser, model.noise_scheduler(STEPS),
        initial_noise((0, 1), model.component.latent_shape).to(model.device),
        cond=model.condition(labels.to(model.device)), acceleration=cached(model),
    )  # fmt: skip
    return last.x_NCHW.cpu()


def off(found: Tensor, wanted: Tensor) -> float:
    assert found.isfinite().all()
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cached_trajectory_is_that_of_the_cpu(family: str, tiny_folders: dict[str, Path]) -> None:
    on_gpu, on_cpu = (latents(loaded(family, tiny_folders, where)) for where in (GPU, torch.device("cpu")))
    assert off(on_gpu, on_cpu) < NEAR


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_given_back_give_the_same_bits(family: str, dtype: torch.dtype, tiny_folders: dict[str, Path]) -> None:
    model = component(family, tiny_folders[family]).load().on(GPU, dtype)
    tried(model, ((0, model.denoiser.sites),), num_steps=10)


@pytest.mark.parametrize("family", ["ldm", "dit"])
def test_compiled_calls_are_the_eager_ones_and_keep_maps_apart(family: str, tiny_folders: dict[str, Path]) -> None:
    model = loaded(family, tiny_folders, GPU)
    fast: Any = Compiled(backend="inductor", graphs=True, freezing=False).lower(model.denoiser, cached(model))
    (site,) = fast.sites
    labels = torch.tensor([0, 1], device=GPU) % max(1, model.component.num_classes)
    cond, kept = model.condition(labels), []
    with torch.no_grad():
        for round_ in range(4):  # compiles, records, and replays twice
            x_NCHW = torch.randn(2, *model.component.latent_shape, device=GPU)
            options: dict[str, Any] = {"call": 0, "timestep": torch.tensor(900 - 100 * round_), "cond": cond}
            ours, theirs = fast(x_NCHW, reuse={}, **options), model.denoiser(x_NCHW, reuse={}, **options)
            again = fast(x_NCHW, reuse=ours.features, **options)
            kept.append((ours, theirs, again))
    for ours, theirs, again in kept:  # after all replays: none has written over what another returned
        assert off(ours.eps_NCHW, theirs.eps_NCHW) < COMPILED_NEAR
        assert off(again.eps_NCHW, theirs.eps_NCHW) < COMPILED_NEAR
        assert off(ours.features[site], theirs.features[site]) < COMPILED_NEAR
    assert off(latents(model, fast), latents(model)) < COMPILED_NEAR


def test_simulated_bits_are_those_of_the_cpu_but_for_what_rounds_elsewhere(tiny_folders: dict[str, Path]) -> None:
    on_cpu, on_gpu = (loaded("ldm", tiny_folders, torch.device(where)) for where in ("cpu", "cuda"))
    params = TinyRuns(model=on_cpu, schedule=cached(on_cpu).schedule).calibrated(PTQ_8)
    theirs, ours = (latents(each, fake_quantized(each.denoiser, params)) for each in (on_cpu, on_gpu))
    assert off(ours, theirs) < 0.05


def test_tf32_is_a_choice_and_goes_away_again() -> None:
    a, b = (torch.randn(512, 512, device=GPU) for _ in range(2))
    exact = a.double() @ b.double()

    def distance() -> float:
        return float(((a @ b) - exact).norm() / exact.norm())

    assert distance() < 2e-6
    multiply("tf32")
    assert 2e-5 < distance() < 2e-3
    multiply("highest")
    assert distance() < 2e-6


def test_a_run_of_all_stages(tiny_folder: Path, tmp_path: Path) -> None:
    """Calibration, DPS, both corrections, bits, images, scores."""
    bits = ("experiment=table5/quant_dps_dec", "quantize=minmax", "quantize.num_samples=2", "quantize.batch_size=2")
    outcome = run(Components.of(composed(quick(tiny_folder, tmp_path / "bits", *bits, "budget.num_steps=4"))[0]))
    assert outcome is not None
    assert outcome.samples.latents_NCHW.isfinite().all()
    assert outcome.device == "cuda"
    assert outcome.rounding["device"] == torch.cuda.get_device_name()


def test_the_best_recipe_of_all_stages(tiny_folder: Path, tmp_path: Path) -> None:
    """The adjoint, the search on trials, rounding in closed form and the closed loop: all where the network is."""
    small = (
        "recipe=best", "quantize.num_states=4", "quantize.base.num_samples=2", "quantize.base.batch_size=2",
        "correct.output.num_samples=4", "correct.output.batch_size=2",
    )  # fmt: skip
    outcome = run(Components.of(composed(quick(tiny_folder, tmp_path, *small))[0]))
    assert outcome is not None
    assert outcome.device == "cuda"
    assert outcome.scores["psnr_fp_db"]["value"] > 45


def test_integers_are_refused_with_what_they_would_bring_here() -> None:
    assert device().type == "cuda"
    found = verdict(GPU)
    assert float(re.search(r"take ([\d.]+) of the time", found)[1]) > 0  # type: ignore[index]
    with pytest.raises(ValueError, match=r"engine=int8: runs on CPUs; on .* int8 products take .* Set quantize=none"):
        Int8().check(quantized=True)


def test_a_stock_pipeline_is_accelerated_and_left_as_it_was(tiny_folders: dict[str, Path]) -> None:
    tiny = Tiny.of("dit", tiny_folders["dit"], DDIM())
    made = tiny.acceleration()
    with made.apply(tiny.pipe):
        on_cpu = tiny.stock()
    tiny.pipe.to(GPU)
    plain = tiny.stock()
    with made.apply(tiny.pipe):
        drawn = tiny.stock()
    assert off(drawn.cpu(), on_cpu) < 1e-3
    assert not torch.equal(drawn, plain)
    assert torch.equal(tiny.stock(), plain)
