"""The laws of rounding that looks at outputs, for every family: units, their data, and that nothing gets worse."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cq.calibrate.loops import Loops
from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule, QuantParams
from cq.core.denoiser import CutNetwork
from cq.models.diffusion import DiffusionModel
from cq.models.dit import DiTCut
from cq.models.unet import UNetCut
from cq.quantize.gptq import GPTQ
from cq.quantize.learn import Workbench
from cq.quantize.ptq import PTQ
from cq.quantize.states import States, sampled_states
from cq.quantize.twin import fake_quantized
from cq.quantize.units import Collection, UnitData, block_units, layer_units
from tests.families import WRITERS, component
from tests.quantize.reconstructions import RECONSTRUCT
from tests.quantize.trajectories import PTQ_8
from tests.tiny import tiny_church_unet, tiny_conditional_unet, tiny_pixel_unet, tiny_text_unet, tiny_transformer

STEPS = 5
BASE = replace(PTQ_8, weight_bits=4)
NETWORKS: dict[str, Any] = {
    "ldm": lambda: UNetCut(tiny_conditional_unet()),
    "ddpm": lambda: UNetCut(tiny_pixel_unet()),
    "church": lambda: UNetCut(tiny_church_unet()),
    "sd": lambda: UNetCut(tiny_text_unet()),
    "dit": lambda: DiTCut(tiny_transformer()),
}


@pytest.fixture(scope="module", params=list(WRITERS))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> "Family":
    name = str(request.param)
    folder = tmp_path_factory.mktemp(name)
    WRITERS[name](folder)
    return Family(component(name, folder).load())


class Family:
    """A model of the family, a schedule with cached calls, and a calibrated base."""

    def __init__(self, model: DiffusionModel) -> None:
        self.model = model
        self.num_calls = model.sampler.num_calls(STEPS)
        self.schedule = CacheSchedule(num_calls=self.num_calls, refresh_calls=(0, 3), planner="test", interval=3)
        loops = Loops(model=model, num_steps=STEPS, run_seed=0)
        self.trajectories = loops.lockstep(Acceleration(schedule=self.schedule), replace(PTQ_8, num_samples=2))
        self._params: QuantParams | None = None

    def calibrated(self, quantizer: Any, shards: Path) -> QuantParams:
        params: QuantParams = quantizer.calibrate(
            self.model.denoiser, self.trajectories, num_calls=self.num_calls, shards=shards
        )
        return params

    @property
    def params(self) -> QuantParams:
        self._params = self._params or self.calibrated(BASE, Path("no-folder"))
        return self._params

    def states(self) -> list[States]:
        copies = 1 if self.model.denoiser.guidance is None else 2
        return sampled_states(
            self.model.denoiser, self.trajectories, num_states=2 * self.num_calls, refresh_share=0.5, copies=copies,
            seed=0,
        )  # fmt: skip

    def bench(self, quantizer: PTQ = BASE) -> tuple[Any, Workbench]:
        denoiser = self.model.denoiser
        twin = fake_quantized(denoiser, self.params)
        return twin, Workbench.of(twin.network.backbone, denoiser.network.backbone, self.params.tensors)

    def collection(self, **options: Any) -> tuple[Workbench, Collection]:
        twin, bench = self.bench()
        network = self.model.denoiser.network
        units = block_units(network, layers_of(network))
        arguments: dict[str, Any] = {"batch_size": 3, "targets": "full", "wait": True, **options}
        return bench, Collection(
            units, self.states(), quantized=twin.network, plain=network, calls=bench.calls, **arguments
        )

    def collected(self, unit: str, **options: Any) -> UnitData:
        with self.collection(**options)[1] as collection:
            return collection.of(unit)


def layers_of(network: CutNetwork) -> list[str]:
    modules = network.backbone.named_modules()
    return [name for name, module in modules if isinstance(module, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_is_in_exactly_one_unit(name: str) -> None:
    network: CutNetwork = NETWORKS[name]()
    layers = layers_of(network)
    units = block_units(network, layers)
    assert sorted(layer for inside in units.values() for layer in inside) == sorted(layers)
    assert list(units) == network.units()
    inside = [unit for unit in units if any(unit.startswith(f"{other}.") for other in units)]
    assert inside == []


def test_a_layer_in_no_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"time_proj.* in no unit of this network"):
        block_units(UNetCut(tiny_pixel_unet()), ["conv_in", "time_proj"])


def test_units_are_in_the_order_in_which_they_run(family: Family) -> None:
    network = family.model.denoiser.network
    states = family.states()[0]
    layers = layers_of(network)
    order = list(layer_units(network, layers, states))
    assert sorted(order) == sorted(layers)
    units = block_units(network, layers)
    owner = {layer: unit for unit, inside in units.items() for layer in inside}
    assert list(dict.fromkeys(owner[layer] for layer in order)) == list(units)


def test_states_are_those_of_the_deployed_trajectory(family: Family) -> None:
    """Run again in batches of many calls, they give what the denoiser gave call by call."""
    groups = family.states()
    denoiser = family.model.denoiser
    assert sum(map(len, groups)) == 2 * family.num_calls  # two images
    for group in groups:
        assert all((call in family.schedule.refresh_calls) == (not group.maps) for call in group.calls_P.tolist())
        seen: list[torch.Tensor] = []
        last = denoiser.network.backbone.get_submodule(denoiser.network.units()[-1])
        handle = last.register_forward_hook(lambda *args, seen=seen: seen.append(args[2]))
        group.run(denoiser.network, full=False)
        for one in group.batches(1):
            one.run(denoiser.network, full=False)
        handle.remove()
        together, *alone_too = seen
        for index, out in enumerate(alone_too):
            rows = together[index :: len(group)]
            assert_close(rows, out, rtol=1e-3, atol=1e-4)  # kernels of other batch sizes round otherwise


def test_a_unit_that_is_skipped_on_cached_calls_learns_from_refresh_calls_alone(family: Family) -> None:
    network = family.model.denoiser.network
    copies = 1 if family.model.denoiser.guidance is None else 2
    refresh = set(family.schedule.refresh_calls)
    deep = "transformer_blocks.2" if isinstance(network, DiTCut) else "mid_block.resnets.0"
    data = family.collected(deep)
    assert set(data.calls_R.tolist()) == refresh
    assert len(data) == copies * 2 * len(refresh)
    for unit in (network.units()[0], network.units()[-1]):
        data = family.collected(unit)
        assert len(data) == copies * 2 * family.num_calls
        assert set(data.calls_R.tolist()) == set(range(family.num_calls))


def test_targets_behind_the_cache_are_the_full_networks_or_the_cached_paths(family: Family) -> None:
    network = family.model.denoiser.network
    first, last = network.units()[0], network.units()[-1]
    full, cached = (family.collected(last, targets=targets) for targets in ("full", "cached"))
    refresh = torch.isin(full.calls_R, torch.tensor(family.schedule.refresh_calls))
    assert torch.equal(full.target[refresh], cached.target[refresh])
    assert (full.target[~refresh] - cached.target[~refresh]).flatten(1).abs().amax(1).gt(0).all()
    assert all(torch.equal(full.inputs[name], cached.inputs[name]) for name in full.inputs)
    assert torch.equal(*(family.collected(first, targets=targets).target for targets in ("full", "cached")))


@pytest.mark.parametrize("targets", ["full", "cached"])
def test_passes_that_wait_find_what_passes_from_the_start_find(family: Family, targets: str) -> None:
    """Bit for bit, although a unit's weights change once its data were taken; and the grad mode is left alone."""
    units = family.model.denoiser.network.units()
    units = units[: len(units) // 2]  # a user may stop anywhere
    found: list[list[UnitData]] = []
    for wait, changed in ((True, True), (False, True), (False, False)):
        bench, collection = family.collection(wait=wait, targets=targets, batch_size=6)
        data = []
        with collection:
            for unit in units:
                data.append(collection.of(unit))
                bench.error(unit, data[-1], batch_rows=4)  # runs the unit outside of any pass
                assert torch.is_grad_enabled()
                if changed:
                    bench.install(
                        unit, {f"{name}/codes": torch.zeros_like(part) for name, _, _, part in bench.weights(unit)}
                    )
        assert torch.is_grad_enabled()
        found.append(data)
    waiting, restarted, unchanged = found
    assert all(same(*pair) for pair in zip(waiting, restarted, strict=True))
    assert not same(waiting[-1], unchanged[-1])


def same(one: UnitData, other: UnitData) -> bool:
    return (
        one.constants == other.constants
        and set(one.inputs) == set(other.inputs)
        and all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
        and torch.equal(one.target, other.target)
        and torch.equal(one.calls_R, other.calls_R)
    )


def test_no_unit_ends_worse_than_nearest_and_the_twin_is_rebuilt_from_the_artefact(
    family: Family, tmp_path: Path
) -> None:
    denoiser = family.model.denoiser
    quantizer = replace(RECONSTRUCT, base=BASE, iterations=4, num_states=6, learned_scales="shared")
    params = family.calibrated(quantizer, tmp_path)
    rows = [row for row in params.coverage if "unit" in row]
    assert {row["name"] for row in rows} == set(layers_of(denoiser.network))
    assert all(row["error_learned"] <= row["error_nearest"] for row in rows)
    assert {row["unit"] for row in rows} == set(denoiser.network.units())
    learned = {row["unit"] for row in rows if row["error_learned"] < row["error_nearest"]}
    assert len(learned) > len(denoiser.network.units()) / 2
    for row in rows:
        names = [name for name in params.tensors if name.startswith(f"{row['name']}.weight") and "codes" in name]
        assert bool(names) == (row["unit"] in learned)
    (tmp_path / "artifact").mkdir()
    params.save(tmp_path / "artifact")
    loaded = QuantParams.load(tmp_path / "artifact")
    states = family.states()[-1]
    outputs = []
    for version in (params, loaded):
        twin = fake_quantized(denoiser, version)
        state = next(states.batches(1))
        cond = None if state.cond is None else state.cond[0]
        reuse = {site: held[0] for site, held in state.maps.items()}
        with torch.no_grad():
            out = twin(state.x_PCHW, call=int(state.calls_P), timestep=state.timesteps_P[0], cond=cond, reuse=reuse)
        outputs.append(out.eps_NCHW)
    assert torch.equal(*outputs)


def test_compensated_layers_are_as_near_to_full_precisions_as_they_say_and_never_worse_than_nearest(
    family: Family, tmp_path: Path
) -> None:
    """In the network as it is deployed, each layer fed by those that were rounded before it: seen at every layer."""
    denoiser = family.model.denoiser
    quantizer = GPTQ(
        base=BASE, asymmetric=True, ridge=0.05, damping=0.01, targets="full", num_states=2 * family.num_calls,
        refresh_share=0.5, wait=None, seed=0,
    )  # fmt: skip
    (tmp_path / "base").mkdir()
    family.params.save(tmp_path / "base")
    params = family.calibrated(quantizer, tmp_path)
    rows = {row["name"]: row for row in params.coverage if "unit" in row}
    assert rows.keys() == set(layers_of(denoiser.network))
    better = [name for name, row in rows.items() if row["error_learned"] < row["error_nearest"]]
    assert len(better) > 0.9 * len(rows)
    twin = fake_quantized(denoiser, params)
    bench = Workbench.of(twin.network.backbone, denoiser.network.backbone, params.tensors)
    totals, counts = dict.fromkeys(rows, 0.0), dict.fromkeys(rows, 0)
    for group in family.states():
        wanted, found = ({name: torch.zeros(0) for name in rows} for _ in "12")
        with bench.calls.at(group.calls_R), outputs(twin.network, found), outputs(denoiser.network, wanted):
            group.run(twin.network, full=False)
            group.run(denoiser.network, full=True)
        for name, out in found.items():
            totals[name] += float((out - wanted[name]).double().square().sum()) if len(out) else 0.0
            counts[name] += out.numel()
    for name, row in rows.items():
        assert row["error_learned"] <= row["error_nearest"]
        assert totals[name] / counts[name] == pytest.approx(row["error_learned"], rel=0.01), name


@contextmanager
def outputs(network: CutNetwork, kept: dict[str, torch.Tensor]) -> Iterator[None]:
    """Keep what the layers that `kept` names return."""
    handles = [
        network.backbone.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: kept.__setitem__(name, out)
        )
        for name in kept
    ]
    yield
    for handle in handles:
        handle.remove()
