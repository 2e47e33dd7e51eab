"""16-bit networks: states, statistics and corrections stay in float32 or better, and the laws of caching hold."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from cq.calibrate.loops import Loops
from cq.calibrate.trajectory import collect_statistics
from cq.core.artifacts import ChannelAffine
from cq.core.combine import combine
from cq.models.diffusion import DiffusionModel
from cq.run.components import Components
from cq.run.pipeline import run
from tests.families import component
from tests.tiny_runs import composed, quick

CPU = torch.device("cpu")
HALVES = [torch.bfloat16, torch.float16]


def loaded(family: str, folders: dict[str, Path], dtype: torch.dtype) -> DiffusionModel:
    return component(family, folders[family]).load().on(CPU, dtype)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("family", ["ldm", "dit"])
@torch.no_grad()
def test_a_call_that_gets_its_own_features_is_bit_identical(
    family: str, dtype: torch.dtype, tiny_folders: dict[str, Path]
) -> None:
    model = loaded(family, tiny_folders, dtype)
    x_NCHW, timestep = torch.randn(2, 4, 8, 8), torch.tensor(500)
    cond = model.condition(torch.tensor([1, 2]))
    first = model.denoiser(x_NCHW, call=0, timestep=timestep, cond=cond, reuse={})
    again = model.denoiser(x_NCHW, call=0, timestep=timestep, cond=cond, reuse=first.features)
    assert first.eps_NCHW.dtype == torch.float32
    assert torch.equal(first.eps_NCHW, again.eps_NCHW)
    assert next(model.denoiser.network.backbone.parameters()).dtype == dtype
    plain = loaded(family, tiny_folders, torch.float32)
    exact = plain.denoiser(x_NCHW, call=0, timestep=timestep, cond=cond, reuse={}).eps_NCHW
    assert_close(first.eps_NCHW, exact, rtol=0, atol=0.05 * float(exact.abs().max()))
    assert not torch.equal(first.eps_NCHW, exact)


def test_statistics_of_16_bit_maps_are_summed_in_float64(tiny_folders: dict[str, Path]) -> None:
    model = loaded("ldm", tiny_folders, torch.bfloat16)
    loops = Loops(model=model, num_steps=4, run_seed=0)
    maps = [step.output.features for step in loops.full(model.denoiser, 2, 2)[0]]
    found = collect_statistics(
        loops.full(model.denoiser, 2, 2), phases=((0, model.denoiser.sites),),
        noise_scheduler=model.noise_scheduler(4), window=2,
    )  # fmt: skip
    (site,) = model.denoiser.sites
    assert maps[0][site].dtype == torch.bfloat16
    late, early = maps[3][site].double(), maps[1][site].double()
    assert found.cross_TDC[site].dtype == torch.float64
    assert_close(found.cross_TDC[site][3, 2], (late * early).sum((0, 2, 3)), rtol=1e-12, atol=1e-9)
    assert_close(found.l1_TD[3, 2], (late - early).abs().sum(), rtol=1e-6, atol=0)  # in bfloat16 it would be 1e-2


def test_a_16_bit_map_is_corrected_and_forecast_in_float32() -> None:
    x = (100 + torch.arange(8.0)).view(1, 1, 8, 1).bfloat16()
    table = torch.tensor([[[1.001], [0.3]]])
    correction = ChannelAffine(schedule="", tables={"a": table}, r2={})
    assert torch.equal(correction.apply(x, name="a", call=0), (x.float() * 1.001 + 0.3).bfloat16())
    assert torch.equal(combine((1.7, -0.7), [x, x + 1]), (1.7 * x.float() - 0.7 * (x + 1).float()).bfloat16())


def test_a_quantized_run_in_bfloat16_is_the_float32_run_but_for_rounding(tiny_folder: Path, tmp_path: Path) -> None:
    chosen = ("experiment=table5/quant_dps_dec", "quantize=minmax", "quantize.num_samples=2", "quantize.batch_size=2")

    def latents(dtype: str) -> tuple[torch.Tensor, str]:
        arguments = quick(tiny_folder, tmp_path / dtype, *chosen, f"compute.dtype={dtype}", "budget.num_steps=4")
        outcome = run(Components.of(composed(arguments)[0]))
        assert outcome is not None
        assert outcome.samples.latents_NCHW.dtype == torch.float32
        return outcome.baseline.latents_NCHW, outcome.digests["samples"]

    (half, half_digest), (exact, exact_digest) = latents("bfloat16"), latents("float32")
    assert half_digest != exact_digest
    assert float((half - exact).norm() / exact.norm()) < 0.1


def test_rounding_is_learned_in_float32_and_deployed_in_bfloat16(tiny_folder: Path, tmp_path: Path) -> None:
    chosen = (
        "quantize=reconstruct", "quantize.base.num_samples=2", "quantize.base.batch_size=2", "quantize.iterations=3",
        "quantize.num_states=4", "quantize.batch_rows=4", "schedule=uniform", "compute.dtype=bfloat16",
    )  # fmt: skip
    outcome = run(Components.of(composed(quick(tiny_folder, tmp_path, *chosen, "budget.num_steps=4"))[0]))
    assert outcome is not None
    assert any(name.endswith("/codes") for name in outcome.acceleration.params.tensors)
    assert outcome.samples.latents_NCHW.isfinite().all()


def test_other_number_types_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"compute\.dtype='int8': must be float32, bfloat16 or float16"):
        Components.of(composed(quick(tiny_folder, tmp_path, "compute.dtype=int8"))[0])
