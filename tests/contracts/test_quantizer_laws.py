"""The laws of quantizers, for every yaml of the group on a tiny model of every family."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cq.calibrate.loops import Loops
from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule, ChannelAffine, QuantParams
from cq.core.contracts import NamesLayers, Quantizer
from cq.models.diffusion import DiffusionModel
from cq.quantize.twin import entry_layers, fake_quantized
from tests.choices import built, names
from tests.families import WRITERS, component

STEPS = 4
CLIPS = ("percentile",)  # leaves out the largest values at any width
# minutes of learning; their laws are in test_reconstruction_laws.py
LEARNED = ("reconstruct", "reconstruct_paper", "reconstruct_quick", "adaround_layer")
quantizers = pytest.mark.parametrize("name", [name for name in names("quantize") if name not in LEARNED])
families = pytest.mark.parametrize("family", WRITERS)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model that is calibrated at every call's real inputs; loops are two batches of one image each."""

    model: DiffusionModel
    schedule: CacheSchedule
    trajectories: Callable[..., Iterator[int]]

    def state(self) -> dict[str, Tensor]:
        return {k: v.clone() for k, v in self.model.denoiser.network.backbone.state_dict().items()}

    def latents(self, denoiser: Any) -> Tensor:
        loops = Loops(model=self.model, num_steps=STEPS, run_seed=0)
        *_, last = loops.one(denoiser, loops.seeds(2), Acceleration(schedule=self.schedule))
        return last.x_NCHW


@pytest.fixture(scope="module")
def cases(folders: dict[str, Path]) -> dict[str, Case]:
    made = {}
    for family in WRITERS:
        model = component(family, folders[family]).load()
        num_calls = model.sampler.num_calls(STEPS)
        schedule = CacheSchedule(num_calls=num_calls, refresh_calls=(0, 2), planner="test", interval=2)
        loops = Loops(model=model, num_steps=STEPS, run_seed=0)
        made[family] = Case(
            model, schedule, loops.lockstep(Acceleration(schedule=schedule), quantizer("ptq"))
        )  # fmt: skip
    return made


def quantizer(name: str, bits: int = 8) -> Quantizer:
    """With every width set to `bits`."""
    made: Quantizer = built(
        "quantize", name, bits=bits, edge_bits=bits, softmax_bits=bits, num_samples=2, batch_size=1
    )  # fmt: skip
    assert isinstance(made, Quantizer)
    return made


def calibrated(chosen: Quantizer, case: Case) -> QuantParams:
    return chosen.calibrate(
        case.model.denoiser, case.trajectories, num_calls=case.schedule.num_calls, shards=Path("no shard is left")
    )


@quantizers
@families
def test_the_given_model_is_left_untouched_and_sixteen_bits_are_close_to_it(
    name: str, family: str, cases: dict[str, Case]
) -> None:
    case = cases[family]
    state, processors = case.state(), _modules(case)
    before = case.latents(case.model.denoiser)
    chosen = quantizer(name, bits=16)
    params = calibrated(chosen, case)
    twin = fake_quantized(case.model.denoiser, params)
    after = case.latents(twin)
    assert _modules(case) == processors
    for key, tensor in case.state().items():
        assert torch.equal(tensor, state[key]), key
    assert torch.equal(case.latents(case.model.denoiser), before)
    error = float((after - before).norm() / before.norm())
    assert error < (0.2 if name in CLIPS else 1e-3)
    if params.bits:
        assert error > 0  # something was rounded
        assert set(params.bits.values()) == {16}
        assert {row["weight_bits"] for row in params.coverage if not row["reason"]} == {16}
    else:
        assert torch.equal(after, before)  # the identity
        assert params.tensors == {}


@quantizers
def test_calibration_and_twin_are_functions_of_their_arguments(name: str, cases: dict[str, Case]) -> None:
    case, chosen = cases["ldm"], quantizer(name)
    params = calibrated(chosen, case)
    assert calibrated(chosen, case).digest == params.digest
    twins = [fake_quantized(case.model.denoiser, params) for _ in range(2)]
    first = case.latents(twins[0])
    assert torch.equal(case.latents(twins[1]), first)
    assert torch.equal(case.latents(twins[0]), first)  # and a twin keeps nothing of a loop


@quantizers
@families
def test_a_correction_of_the_entry_layers_reaches_the_output(name: str, family: str, cases: dict[str, Case]) -> None:
    """Gain 1 and offset 0 change nothing but rounding; an offset does."""
    case, chosen = cases[family], quantizer(name)
    params = calibrated(chosen, case)
    layers = entry_layers(case.model.denoiser, params)
    if not params.bits:
        assert layers == []
        return
    assert layers
    quantized = {row["name"] for row in params.coverage if not row["reason"]}
    assert set(layers) <= quantized

    def corrected(offset: float) -> Tensor:
        tables = {}
        for layer in layers:
            channels = len(case.model.denoiser.network.backbone.get_submodule(layer).weight)
            rows = [torch.ones(channels), offset * torch.linspace(-1, 1, channels)]  # a norm would undo equal ones
            tables[layer] = torch.stack(rows).expand(case.schedule.num_calls, -1, -1).clone()
        table = ChannelAffine(schedule="", tables=tables, r2={})
        return case.latents(fake_quantized(case.model.denoiser, params, table))

    plain = case.latents(fake_quantized(case.model.denoiser, params))
    identity = float((corrected(0.0) - plain).norm() / plain.norm())
    moved = float((corrected(1.0) - plain).norm() / plain.norm())
    assert identity < 0.01
    assert moved > 3 * identity


@quantizers
@families
def test_a_quantizer_that_names_layers_refuses_none_of_the_models(
    name: str, family: str, folders: dict[str, Path]
) -> None:
    chosen = quantizer(name)
    names_of_model = component(family, folders[family]).layers()
    assert names_of_model
    if isinstance(chosen, NamesLayers):
        chosen.check_layers(names_of_model)
        first, *others = sorted(names_of_model)
        most: Any = dataclasses.replace(chosen, exclude=tuple(others))  # type: ignore[type-var]
        most.check_layers(names_of_model)
        with pytest.raises(ValueError, match="no layer has such a name"):
            most.check_layers(frozenset({"another"}))
        every: Any = dataclasses.replace(chosen, exclude=(first, *others))  # type: ignore[type-var]
        with pytest.raises(ValueError, match=r"quantize\.exclude="):
            every.check_layers(names_of_model)


def _modules(case: Case) -> list[tuple[str, str, str]]:
    """Names and types of the network's modules, hooks and attention processors included."""
    backbone: Any = case.model.denoiser.network.backbone
    return [
        (name, type(module).__name__, f"{type(getattr(module, 'processor', None)).__name__} "
         f"{len(module._forward_hooks)} {len(module._forward_pre_hooks)}")
        for name, module in backbone.named_modules()
    ]  # fmt: skip
