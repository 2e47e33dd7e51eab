"""The laws of quantizers and of engines, on each tiny model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.calibrate.loops import Loops
from cq.core.acceleration import NO_CORRECTION, NOISE, Acceleration, every_call
from cq.core.artifacts import CacheSchedule, ChannelAffine, QuantParams
from cq.core.contracts import NamesLayers, Quantizer
from cq.core.denoiser import Denoiser
from cq.evaluate.parity import SideBySide
from cq.laws.law import Broken, Make, Untried, World, hold
from cq.models.diffusion import DiffusionModel
from cq.quantize.observers import MinMax
from cq.quantize.ptq import PTQ
from cq.quantize.twin import entry_layers, fake_quantized

STEPS = 4
CLEARLY_DB = 6.0  # half as far
PTQ_8 = PTQ(
    weight_bits=8, act_bits=8, edge_bits=8, softmax_bits=8, weight_observer=MinMax(), act_observer=MinMax(),
    per_call=True, split=True, attention=True, exclude=(), trajectory="deployed", num_samples=2, batch_size=1,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model that is calibrated at every call's real inputs; loops are two batches of one image each."""

    name: str
    model: DiffusionModel

    @property
    def schedule(self) -> CacheSchedule:
        num_calls = self.model.sampler.num_calls(STEPS)
        return CacheSchedule(num_calls=num_calls, refresh_calls=(0, 2), planner="law", interval=2)

    def latents(self, denoiser: Any, acceleration: Acceleration | None = None) -> Tensor:
        """The last states of two images, cached."""
        loops = Loops(model=self.model, num_steps=STEPS, run_seed=0)
        *_, last = loops.one(denoiser, loops.seeds(2), acceleration or Acceleration(schedule=self.schedule))
        return last.x_NCHW

    def calibrated(self, quantizer: Quantizer, shards: Path) -> QuantParams:
        """On two trajectories of one image."""
        trajectories = Loops(model=self.model, num_steps=STEPS, run_seed=0).lockstep(
            Acceleration(schedule=self.schedule), PTQ_8
        )
        denoiser = self.model.denoiser
        return quantizer.calibrate(denoiser, trajectories, num_calls=self.schedule.num_calls, shards=shards)

    def modules(self) -> list[tuple[str, ...]]:
        """Names and types of the network's modules, hooks and attention processors included, and its values."""
        backbone: Any = self.model.denoiser.network.backbone
        return [
            (name, type(module).__name__, type(getattr(module, "processor", None)).__name__,
             f"{len(module._forward_hooks)} {len(module._forward_pre_hooks)}")
            for name, module in backbone.named_modules()
        ]  # fmt: skip


def cases(world: World) -> list[Case]:
    """Every model of the world."""
    return [Case(name, model) for name, model in world.models.items()]


def one_a_family(world: World) -> list[Case]:
    """A U-Net and a transformer are enough to execute."""
    return list({case.model.component.family: case for case in cases(world)}.values())


def chosen(make: Make, bits: int = 8) -> Quantizer:
    """With every width set to `bits`, and calibrated on little."""
    widths = dict.fromkeys(("bits", "edge_bits", "edge_input_bits", "last_weight_bits", "softmax_bits"), bits)
    made: Quantizer = make(**widths, num_samples=2, batch_size=1)
    return made


def the_model_is_left_untouched_and_sixteen_bits_are_close_to_it(make: Make, world: World, far: float = 0.2) -> None:
    """far: the relative error of the last state that sixteen bits may have; clipped ranges have some at any width."""
    for case in cases(world):
        state = {key: value.clone() for key, value in case.model.denoiser.network.backbone.state_dict().items()}
        modules, before = case.modules(), case.latents(case.model.denoiser)
        params = case.calibrated(chosen(make, 16), world.folder)
        after = case.latents(fake_quantized(case.model.denoiser, params))
        told = f"{case.name}: calibration changes the model's"
        hold(case.modules() == modules, f"{told} modules or leaves hooks. Remove what it puts in.")
        now = case.model.denoiser.network.backbone.state_dict()
        hold(all(torch.equal(now[key], state[key]) for key in state), f"{told} weights. Work on a copy.")
        error = float((after - before).norm() / before.norm())
        hold(error < far, f"{case.name}: 16 bits are {error:.2g} of the state away. Look at scales and zero points.")
        if not params.bits:
            hold(error == 0 and not params.tensors, f"{case.name}: names no bits, and is not the identity.")
            continue
        hold(error > 0, f"{case.name}: 16 bits round nothing. Give every layer its scale.")
        said = {row["weight_bits"] for row in params.coverage if not row["reason"]} | set(params.bits.values())
        hold(said == {16}, f"{case.name}: says {said} bits, 16 were asked. Say in coverage what each layer has.")


def calibration_and_twin_are_functions_of_their_arguments(make: Make, world: World) -> None:
    case = cases(world)[0]
    params, again = (case.calibrated(chosen(make), world.folder) for _ in range(2))
    hold(
        again.digest == params.digest,
        "calibrating again gives other numbers. Draw from a generator that a field seeds.",
    )
    twin = fake_quantized(case.model.denoiser, params)
    same = torch.equal(case.latents(twin), case.latents(twin))
    hold(same, "the twin computes otherwise the second time. Keep nothing of a loop.")


def a_correction_of_the_entry_layers_reaches_the_output(make: Make, world: World) -> None:
    """Gain 1 and offset 0 change nothing but rounding; an offset does."""
    for case in one_a_family(world):
        params = case.calibrated(chosen(make), world.folder)
        layers = entry_layers(case.model.denoiser, params)
        hold(bool(layers) == bool(params.bits), f"{case.name}: no layer behind a cached map is quantized. Name some.")
        plain = case.latents(fake_quantized(case.model.denoiser, params))

        def moved(offset: float, case: Case = case, layers: list[str] = layers, params: QuantParams = params) -> Tensor:
            tables = {}
            for layer in layers:
                channels = len(case.model.denoiser.network.backbone.get_submodule(layer).weight)
                rows = [torch.ones(channels), offset * torch.linspace(-1, 1, channels)]  # a norm would undo equal ones
                tables[layer] = torch.stack(rows).expand(case.schedule.num_calls, -1, -1).clone()
            table = ChannelAffine(schedule="", tables=tables, r2={})
            return case.latents(fake_quantized(case.model.denoiser, params, table))

        identity, far = (float((moved(offset) - plain).norm() / plain.norm()) for offset in (0.0, 1.0))
        good = not layers or (identity < 0.01 and far > 3 * identity)
        hold(good, f"{case.name}: a correction of 0 moves the state by {identity:.2g}, one of 1 by {far:.2g}.")


def names_of_layers_are_checked(make: Make, world: World) -> None:
    quantizer: Any = chosen(make)
    if not isinstance(quantizer, NamesLayers):
        raise Untried("names no layers")
    kind: Any = type(quantizer)
    given = {name: value for name, value in vars(quantizer).items() if name != "exclude"}
    for name, component in world.components.items():
        layers = component.layers() or frozenset()
        quantizer.check_layers(layers)
        if not hasattr(quantizer, "exclude"):
            continue
        first, *others = sorted(layers)
        kind(**given, exclude=tuple(others)).check_layers(layers)
        for names, held in ((tuple(others), frozenset({"another"})), ((first, *others), layers)):
            try:
                kind(**given, exclude=names).check_layers(held)
            except ValueError:
                continue
            raise Broken(f"{name}: passes exclude={names[:2]}..., which no layer has or which leaves none. Refuse it.")


QUANTIZER = (
    the_model_is_left_untouched_and_sixteen_bits_are_close_to_it, calibration_and_twin_are_functions_of_their_arguments,
    a_correction_of_the_entry_layers_reaches_the_output, names_of_layers_are_checked,
)  # fmt: skip


def _quantized(case: Case, folder: Path) -> Acceleration:
    num_calls = case.schedule.num_calls
    channels = case.model.component.latent_shape[0]
    table = torch.tensor([1.1, 0.1])[:, None].expand(num_calls, 2, channels).contiguous()
    output = ChannelAffine(schedule="", tables={NOISE: table}, r2={})
    return Acceleration(schedule=case.schedule, params=case.calibrated(PTQ_8, folder), output=output)


# What a compiler makes is equal within rounding, and takes a while; backend=eager only traces.
UNCOMPILED: dict[str, Any] = {"compile": False, "backend": "eager"}


def what_accelerates_nothing_is_the_plain_denoiser(make: Make, world: World) -> None:
    for case in one_a_family(world):
        nothing = Acceleration(schedule=every_call(case.schedule.num_calls))
        lowered = make(**UNCOMPILED).lower(case.model.denoiser, nothing)
        good = isinstance(lowered, Denoiser) and lowered.sites == case.model.denoiser.sites
        hold(good, f"{case.name}: lower returns no Denoiser of the same sites. Return one.")
        same = torch.equal(case.latents(lowered, nothing), case.latents(case.model.denoiser, nothing))
        hold(same, f"{case.name}: computes otherwise where nothing is accelerated. Return the denoiser that was given.")
        hold(make(**UNCOMPILED).real(nothing), f"{case.name}: real is False of the plain network, which may be timed.")


def it_executes_what_it_does_not_refuse_and_leaves_the_denoiser_as_it_is(make: Make, world: World) -> None:
    engine = make(**UNCOMPILED)
    for case in one_a_family(world):
        quantized = _quantized(case, world.folder)
        given, nothing = case.model.denoiser, Acceleration(schedule=every_call(case.schedule.num_calls))
        before = case.latents(given, nothing)
        try:
            engine.check(quantized=True)
        except ValueError as refusal:
            try:
                engine.lower(given, quantized)
            except ValueError:
                continue
            raise Broken(f"check refuses ({refusal}), and lower does not. Let both refuse.") from refusal
        first, again = (case.latents(engine.lower(given, quantized), quantized) for _ in range(2))
        hold(
            torch.equal(first, again),
            f"{case.name}: lowered twice, it computes two things. Keep nothing between calls.",
        )
        differs = not torch.equal(first, case.latents(given, quantized))
        hold(differs, f"{case.name}: quantized computes as the plain network. Execute the bits, or refuse in check.")
        without = replace(quantized, output=nothing.output)
        reached = not torch.equal(first, case.latents(engine.lower(given, without), without))
        hold(reached, f"{case.name}: leaves out the correction of the output. Apply acceleration.output.")
        same = torch.equal(case.latents(given, nothing), before)
        hold(same, f"{case.name}: the denoiser that was given is changed. Lower a copy.")


def it_predicts_as_the_simulation_does(make: Make, world: World) -> None:
    """On equal inputs, cached calls and corrected layers among them. A code that lies between two may flip."""
    engine = make(compile=False)
    for case in one_a_family(world):
        given, made = case.model.denoiser, _quantized(case, world.folder)
        quantized = replace(made, output=NO_CORRECTION, quant=_entries_corrected(case, made.params))
        try:
            engine.check(quantized=True)
        except ValueError as refusal:
            raise Untried("executes nothing quantized here") from refusal
        twin = fake_quantized(given, quantized.params, quantized.quant)
        both = SideBySide(twin, {"engine": engine.lower(given, quantized), "plain": given})
        case.latents(both, quantized)
        near, plain = both.ratios["engine"].db, both.ratios["plain"].db
        hold(
            near > plain + CLEARLY_DB,
            f"{case.name}: its predictions have {near:.0f} dB against the simulation's, and those of full precision "
            f"{plain:.0f}. Compute on the stored grids, corrections of layers included.",
        )


def _entries_corrected(case: Case, params: QuantParams) -> ChannelAffine:
    """Another gain and offset at every call, for the layers that read what is cached."""
    generator, num_calls = torch.Generator().manual_seed(0), case.schedule.num_calls
    tables = {}
    for layer in entry_layers(case.model.denoiser, params):
        channels = len(case.model.denoiser.network.backbone.get_submodule(layer).weight)
        around = torch.tensor([1.0, 0.0])[:, None]
        tables[layer] = around + 0.1 * torch.randn(num_calls, 2, channels, generator=generator)
    return ChannelAffine(schedule="", tables=tables, r2={})


ENGINE = (
    what_accelerates_nothing_is_the_plain_denoiser,
    it_executes_what_it_does_not_refuse_and_leaves_the_denoiser_as_it_is, it_predicts_as_the_simulation_does,
)  # fmt: skip
