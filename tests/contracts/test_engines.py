"""Our engines: what may be timed, what simulation is, and what a full-precision Acceleration becomes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.core.acceleration import NOISE, Acceleration, every_call
from cq.core.artifacts import CacheSchedule, ChannelAffine
from cq.core.contracts import Engine
from cq.core.denoise import denoise
from cq.core.denoiser import Denoiser
from cq.core.seeding import initial_noise
from cq.engine.kernels import weight_bits
from cq.engine.plain import Plain
from cq.engine.simulate import Simulate
from cq.laws.choices import built, names
from cq.models.diffusion import DiffusionModel
from cq.models.latent import LatentDiffusion
from cq.quantize.twin import fake_quantized
from tests.quantize.trajectories import CACHED, CALLS, PTQ_8, TinyRuns

engines = pytest.mark.parametrize("name", names("engine"))
UNACCELERATED = Acceleration(schedule=every_call(CALLS))


def engine(name: str) -> Engine:
    made: Engine = built("engine", name, compile=False, backend="eager")
    assert isinstance(made, Engine)
    return made


@pytest.fixture(scope="module")
def model(tiny: LatentDiffusion) -> DiffusionModel:
    return tiny.load()


@pytest.fixture(scope="module")
def quantized(model: DiffusionModel) -> Acceleration:
    bits = weight_bits() or 8  # 7 where products saturate
    params = TinyRuns(model=model).calibrated(replace(PTQ_8, weight_bits=bits, edge_bits=bits))
    table = torch.tensor([1.1, 0.1])[:, None].expand(CALLS, 2, 4).contiguous()
    output = ChannelAffine(schedule="", tables={NOISE: table}, r2={})
    return Acceleration(schedule=CACHED, params=params, output=output)


def latents(model: DiffusionModel, denoiser: Denoiser, acceleration: Acceleration) -> Tensor:
    *_, last = denoise(
        denoiser, model.noise_scheduler(CALLS), initial_noise((0, 1), model.component.latent_shape),
        cond=model.condition(torch.tensor([0, 1])), acceleration=acceleration,
    )  # fmt: skip
    return last.x_NCHW


@engines
def test_only_what_is_really_executed_may_be_timed(name: str, quantized: Acceleration) -> None:
    assert engine(name).real(UNACCELERATED)
    assert engine(name).real(quantized) == (name not in ("simulate",))


def test_simulation_is_the_fake_quantized_twin(model: DiffusionModel, quantized: Acceleration) -> None:
    plain = replace(quantized, output=UNACCELERATED.output)
    lowered = Simulate().lower(model.denoiser, plain)
    twin = fake_quantized(model.denoiser, plain.params)
    assert torch.equal(latents(model, lowered, plain), latents(model, twin, plain))


def test_an_acceleration_without_bits_is_lowered_plain_whichever_engine_was_chosen(model: DiffusionModel) -> None:
    cached = Acceleration(schedule=CacheSchedule(num_calls=CALLS, refresh_calls=(0, 3), planner="t", interval=None))
    assert Plain(compile=False).lower(model.denoiser, cached) is model.denoiser
    assert Simulate().lower(model.denoiser, cached) is model.denoiser


def test_the_compiled_engine_executes_what_has_no_bits_and_refuses_what_has(tiny_folder: Path, tmp_path: Path) -> None:
    from cq.run.components import Components
    from cq.run.context import Run
    from tests.tiny_runs import composed, quick

    def run(*chosen: str) -> Run:
        return Run(Components.of(composed(quick(tiny_folder, tmp_path, *chosen))[0]))

    assert run("engine=compiled", "quantize=none").engine_for(UNACCELERATED) == built("engine", "compiled")
    assert run("engine=simulate", "quantize=none").engine_for(UNACCELERATED) == Plain(compile=False)
    with pytest.raises(ValueError, match=r"engine=compiled: runs nothing quantized\. Set quantize=none, or engine="):
        run("engine=compiled", "quantize=minmax")


def test_a_compiler_is_asked_for_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import cpp_builder, exc

    def none() -> str:
        raise exc.InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(ValueError, match=r"finds no C\+\+ compiler\. Install g\+\+, or set engine=plain"):
        built("engine", "compiled").check(quantized=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="where no GPU is")
def test_tf32_is_refused_where_nothing_makes_it(tiny_folder: Path, tmp_path: Path) -> None:
    from cq.run.components import Components
    from tests.tiny_runs import composed, quick

    for value, told in {"tf32": "is for GPUs, and here is none", "high": "must be highest or tf32"}.items():
        with pytest.raises(ValueError, match=f"compute.precision=.?{value}.?: {told}"):
            Components.of(composed(quick(tiny_folder, tmp_path, f"compute.precision={value}"))[0])


def test_a_plain_engine_is_refused_before_anything_is_quantized(tiny_folder: Path, tmp_path: Path) -> None:
    from cq.run.components import Components
    from tests.tiny_runs import composed, quick

    with pytest.raises(ValueError, match=r"engine=plain: runs nothing quantized\. Set quantize=none, or engine="):
        Components.of(composed(quick(tiny_folder, tmp_path, "quantize=minmax", "engine=plain"))[0])
