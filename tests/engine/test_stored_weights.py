"""Weights as they are deployed, against the checkpoint that they come from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cq.core.acceleration import Acceleration
from cq.core.artifacts import ChannelAffine, QuantParams
from cq.core.contracts import Engine
from cq.engine.int8 import Int8
from cq.engine.kernels import weight_bits
from cq.engine.simulate import Simulate
from cq.engine.stored_weights import FILE, StoredWeights, coded, pack, save_weights, unpack, without_codes
from cq.models.cutting import denoiser_of
from cq.quantize.layers import QuantWeight
from cq.quantize.twin import entry_layers, fake_quantized
from tests.quantize.trajectories import PTQ_8, TinyRuns


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("shape", [(1,), (3, 5), (4, 3, 3, 3)])
def test_codes_are_unpacked_as_they_were_packed(bits: int, shape: tuple[int, ...]) -> None:
    codes = torch.randint(0, 2**bits, shape)
    packed = pack(codes, bits)
    assert packed.nbytes == (codes.numel() + 1) // 2 if bits <= 4 else codes.numel()
    assert torch.equal(unpack(packed, bits, codes.shape).int(), codes.int())


ENGINES: list[Engine] = [Simulate(), *[Int8()] * bool(weight_bits())]


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: type(engine).__name__)
def test_an_engine_draws_the_same_from_the_file_as_from_the_checkpoint(
    engine: Engine, runs: TinyRuns, params: QuantParams, tmp_path: Path
) -> None:
    denoiser = runs.model.denoiser
    assert save_weights(tmp_path, denoiser.network.backbone, params) == (tmp_path / FILE).stat().st_size
    stored = StoredWeights.of(tmp_path)
    stored.check(params)
    backbone, held = stored.load(), stored.joined(params)
    table = torch.rand(runs.schedule.num_calls, 2, 8) + 0.5
    quant = ChannelAffine(schedule="", tables={entry_layers(denoiser, params)[0]: table}, r2={})
    floats = {name for name, tensor in backbone.state_dict().items() if not tensor.is_meta}
    assert floats == set(denoiser.network.backbone.state_dict()) - set(coded(params))
    again = replace(
        denoiser_of(backbone, site=denoiser.sites[0], guidance=denoiser.guidance), null_first=denoiser.null_first
    )
    made = [
        engine.lower(each, Acceleration(schedule=runs.schedule, params=of, quant=quant))
        for each, of in ((denoiser, params), (again, held))
    ]
    assert torch.equal(*(runs.latents(each) for each in made))


def test_four_bits_and_learned_codes_take_half_a_byte_each(runs: TinyRuns, tmp_path: Path) -> None:
    params = runs.calibrated(replace(PTQ_8, weight_bits=4, num_samples=1))
    backbone = runs.model.denoiser.network.backbone
    row = list(coded(params).values())[5]
    twin = fake_quantized(runs.model.denoiser, params)
    weight = twin.network.backbone.get_submodule(row["name"]).weights[0]
    assert isinstance(weight, QuantWeight)
    learned = torch.randint(0, 16, weight.value.shape, dtype=torch.uint8)
    params = replace(params, tensors={**params.tensors, f"{row['name']}.weight0/codes": learned})
    save_weights(tmp_path, backbone, params)
    stored, beside = StoredWeights.of(tmp_path), without_codes(params)
    stored.check(params)
    again = stored.joined(beside, every=False)
    assert torch.equal(again.tensors[f"{row['name']}.weight0/codes"], learned)
    assert again.digest == params.digest
    assert again.digest != beside.digest
    state, rows = backbone.state_dict(), coded(params)
    packed = sum(state[each].numel() * (0.5 if rows[each]["weight_bits"] == 4 else 1) for each in rows)
    others = sum(tensor.nbytes for each, tensor in state.items() if each not in rows)
    size = sum(tensor.nbytes for tensor in load_file(tmp_path / FILE).values())
    assert packed < size <= packed + others  # of equal biases one is held


def test_other_parameters_than_those_it_was_saved_with_are_refused(
    runs: TinyRuns, params: QuantParams, tmp_path: Path
) -> None:
    save_weights(tmp_path, runs.model.denoiser.network.backbone, params)
    name = next(name for name in params.tensors if name.endswith("weight0/scale"))
    other = replace(params, tensors={**params.tensors, name: params.tensors[name] * 2})
    with pytest.raises(ValueError, match=r"was saved with other parameters.*Give those"):
        StoredWeights.of(tmp_path).check(other)
