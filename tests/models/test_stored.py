"""What is read off a model's folder against what the loaded network says."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cq.models.sites import cuts_of
from cq.models.stored import stored_layers, subfolder_config
from cq.models.unet import main_channels
from cq.quantize.policy import layer_policies
from tests.families import KIND, WRITERS, component


@pytest.mark.parametrize("family", WRITERS)
def test_names_and_numbers_are_those_of_the_loaded_network(family: str, tmp_path: Path) -> None:
    WRITERS[family](tmp_path)
    model = component(family, tmp_path)
    network = model.load().denoiser.network
    policies = layer_policies(
        network, weight_bits=8, act_bits=8, edge_bits=8, softmax_bits=8, split=True, attention=True, exclude=()
    )
    names = model.layers()
    assert names is not None
    assert {policy.name for policy in policies} <= names
    assert all("embed" in name for name in names - {policy.name for policy in policies})
    assert model.blocks == network.blocks
    if KIND[family] == "unet":
        assert cuts_of(subfolder_config(model.weights, "unet")) == tuple(main_channels(network.backbone))


def test_uneven_up_blocks_are_counted_from_the_other_end() -> None:
    config = {"up_block_types": ["a", "b"], "layers_per_block": [2, 1]}
    assert cuts_of(config) == (
        "up_blocks.0.resnets.0", "up_blocks.0.resnets.1",
        "up_blocks.1.resnets.0", "up_blocks.1.resnets.1", "up_blocks.1.resnets.2",
    )  # fmt: skip


def test_attentions_of_old_files_are_known_under_their_new_names(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    olds = [f"mid_block.attentions.0.{name}.weight" for name in ("query", "key", "value", "proj_attn")]
    save_file({name: torch.zeros(2, 2) for name in olds}, tmp_path / "unet/diffusion_pytorch_model.safetensors")
    names = stored_layers(str(tmp_path), "unet")
    assert names is not None
    new = {f"mid_block.attentions.0.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")}
    assert new | {"mid_block.attentions.0"} <= names


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 40, (2).to_bytes(8, "little") + b"[]"])
def test_weights_that_cannot_be_read_name_nothing(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    assert stored_layers(str(tmp_path), "unet") is None  # stored in another format
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").write_bytes(content)
    assert stored_layers(str(tmp_path), "unet") is None


def test_a_part_without_a_configuration_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.weights=.*config\.json cannot be read.*diffusers' layout"):
        subfolder_config(str(tmp_path), "unet")
