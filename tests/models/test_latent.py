"""What a latent diffusion model is conditioned on, with and without guidance, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cq.models.latent import LatentDiffusion, LatentModel
from cq.models.unet import UNetCut
from tests.tiny import tiny_church_unet, tiny_vae, write_tiny_ldm


def test_without_guidance_the_labels_alone_condition_and_the_batch_is_not_doubled(tiny: LatentDiffusion) -> None:
    guided, plain = tiny.load(), replace(tiny, guidance=None).load()
    labels = torch.tensor([3, 7])
    both, alone = guided.condition(labels), plain.condition(labels)
    assert both is not None
    assert alone is not None
    assert torch.equal(alone, both[2:])
    x = torch.randn(2, 4, 8, 8)
    out = plain.denoiser(x, call=0, timestep=torch.tensor(10), cond=alone, reuse={})
    assert isinstance(plain, LatentModel)
    assert isinstance(plain.denoiser.network, UNetCut)
    expected = plain.denoiser.network.backbone(x, torch.tensor(10), encoder_hidden_states=alone).sample
    assert torch.equal(out.eps_NCHW, expected)


def test_an_unconditional_model_has_nothing_to_be_guided_by(tmp_path: Path) -> None:
    tiny_church_unet().save_pretrained(tmp_path / "unet")
    tiny_vae(1).save_pretrained(tmp_path / "vae")
    write_tiny_ldm(tmp_path / "other")
    (tmp_path / "other/scheduler").rename(tmp_path / "scheduler")
    model = LatentDiffusion(
        weights=str(tmp_path), site="up_blocks.1.resnets.2", guidance=None, num_classes=0, latent_shape=(4, 8, 8),
        image_shape=(1, 32, 32), release=None,
    )  # fmt: skip
    model.check()
    loaded = model.load()
    assert loaded.condition(torch.tensor([-1])) is None
    out = loaded.denoiser(torch.randn(1, 4, 8, 8), call=0, timestep=torch.tensor(10), cond=None, reuse={})
    assert out.eps_NCHW.isfinite().all()
    with pytest.raises(ValueError, match=r"model\.guidance=1\.5: an unconditional model.*guidance=null"):
        replace(model, guidance=1.5).check()
