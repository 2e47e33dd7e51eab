"""Each recipe takes two steps at a small size and exports what the stock pipeline of diffusers opens."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMPipeline, DDPMPipeline, DiTPipeline, StableDiffusionPipeline, UNet2DModel
from torch import nn

from experiments.zoo.recipes.clip import ClipRecipe
from experiments.zoo.recipes.ddpm_mini import PixelDiffusionRecipe
from experiments.zoo.recipes.precision import mixed_precision, with_float32_norms
from experiments.zoo.recipes.sd_mini import StableDiffusionRecipe
from experiments.zoo.scenes import caption, combinations, held_out
from experiments.zoo.tokens import caption_tokens, null_tokens
from experiments.zoo.train import TRAINING_ONLY, recipes
from experiments.zoo.trainer import Recipe, fit
from tests.zoo.tiny_zoo import ddpm, dit, garment_stage, ldm_uncond, scene_stage, sd, train

LIMIT = 8 * 2**20  # bytes of a shipped file
pytestmark = pytest.mark.usefixtures("garments")


def trained(recipe: Recipe, folder: Path) -> Path:
    """The exported folder, in which nothing may name the machine."""
    home = train(recipe, folder)
    for path in home.rglob("*.json"):
        assert str(folder) not in path.read_text(), path.name
        assert "_name_or_path" not in path.read_text(), path.name
    return home


@pytest.fixture(scope="module")
def sd_mini(garments: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[StableDiffusionRecipe, Path]:
    """The recipe, and the folder that it exported."""
    folder = tmp_path_factory.mktemp("sd_mini")
    torch.manual_seed(0)
    recipe = sd(folder)
    return recipe, trained(recipe, folder)


@pytest.mark.parametrize("stage", [garment_stage, scene_stage])
@pytest.mark.parametrize("bf16", [True, False])
def test_a_first_stage_trains_and_exports(tmp_path: Path, stage: object, bf16: bool) -> None:
    recipe = replace(stage(tmp_path), bf16=bf16)  # type: ignore[operator]
    vae = AutoencoderKL.from_pretrained(trained(recipe, tmp_path)).eval()
    images = torch.zeros(2, recipe.channels, 32, 32)
    latents = vae.encode(images).latent_dist.mean
    assert latents.shape == (2, 4, 8, 8)
    assert vae.decode(latents).sample.shape == images.shape


def test_sd_mini_opens_as_a_stable_diffusion_pipeline(sd_mini: tuple[StableDiffusionRecipe, Path]) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(sd_mini[1])
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None
    prompts = [caption(combinations()[k]) for k in (0, 100)]
    seeds = [torch.Generator().manual_seed(i) for i in range(2)]
    images = pipeline(prompts, num_inference_steps=3, guidance_scale=2.0, generator=seeds, output_type="pt").images
    assert images.shape == (2, 3, 32, 32)
    scheduler = pipeline.scheduler.config
    assert (scheduler.beta_start, scheduler.beta_end, scheduler.beta_schedule) == (0.00085, 0.012, "scaled_linear")
    assert (scheduler.skip_prk_steps, scheduler.steps_offset) == (True, 1)


def test_the_last_up_block_of_sd_mini_attends_after_each_of_its_three_resnets(
    sd_mini: tuple[StableDiffusionRecipe, Path],
) -> None:
    unet = sd_mini[0].model()
    names = {name for name, _ in unet.named_modules()}
    assert {"up_blocks.2.resnets.2", "up_blocks.2.attentions.2"} <= names
    assert not any(name.startswith("down_blocks.2.attentions") for name in names)


def test_sd_mini_is_trained_on_what_its_pipeline_will_feed_it(sd_mini: tuple[StableDiffusionRecipe, Path]) -> None:
    recipe, home = sd_mini
    pipeline = StableDiffusionPipeline.from_pretrained(home)
    given, null = pipeline.encode_prompt(caption(combinations()[7]), "cpu", 1, True)
    # float32 rounding: the pipeline encodes one caption at a time
    torch.testing.assert_close(recipe.contexts()[7], given[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(recipe.contexts()[-1], null[0], atol=1e-5, rtol=1e-5)
    assert len(recipe.contexts()) == len(caption_tokens()) + len(null_tokens())


def test_ddpm_mini_opens_as_ddpm_and_as_ddim_pipeline(tmp_path: Path) -> None:
    recipe = ddpm(tmp_path)
    home = trained(recipe, tmp_path)
    for kind in (DDPMPipeline, DDIMPipeline):
        pipeline = kind.from_pretrained(home)
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
        assert images.shape == (2, 32, 32, 1)
        assert pipeline.scheduler.config.beta_schedule == "linear"
    unet = pipeline.unet
    attends = [name for name, module in unet.named_modules() if type(module).__name__ == "Attention"]
    # two in the down path and three in the up path at 16x16, one in the middle
    assert (
        sorted(name.rsplit(".", 2)[0] for name in attends)
        == ["down_blocks.1"] * 2 + ["mid_block"] + ["up_blocks.2"] * 3
    )


def test_ldm_uncond_mini_exports_unet_vae_and_scheduler(tmp_path: Path) -> None:
    home = trained(ldm_uncond(tmp_path), tmp_path)
    unet = UNet2DModel.from_pretrained(home, subfolder="unet")
    assert unet(torch.zeros(1, 4, 8, 8), torch.tensor(0)).sample.shape == (1, 4, 8, 8)
    levels = [*unet.down_blocks, *unet.up_blocks]
    assert all(block.attentions is not None and len(block.attentions) for block in levels)
    assert sorted(path.name for path in home.iterdir()) == ["scheduler", "unet", "vae"]


def test_dit_mini_opens_as_a_dit_pipeline(tmp_path: Path) -> None:
    pipeline = DiTPipeline.from_pretrained(trained(dit(tmp_path), tmp_path))
    pipeline.set_progress_bar_config(disable=True)
    classes = pipeline.get_label_ids(["sneaker", "bag"])
    assert classes == [7, 8]
    assert pipeline(classes, num_inference_steps=2, guidance_scale=1.5, output_type="np").images.shape == (2, 32, 32, 1)


def test_encoded_scenes_are_kept_and_read_again(sd_mini: tuple[StableDiffusionRecipe, Path], tmp_path: Path) -> None:
    recipe = replace(sd_mini[0], latents=tmp_path / "latents")
    first = recipe.data()
    kept = list(tmp_path.glob("latents_*.safetensors"))
    assert len(kept) == 1
    written = kept[0].stat().st_mtime_ns
    again = recipe.data()
    assert kept[0].stat().st_mtime_ns == written
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    recipe = PixelDiffusionRecipe(root=tmp_path, channels=4, norm_groups=2, num_steps=4, batch_size=8)
    fit(recipe, work=tmp_path / "once", zoo=tmp_path / "a")

    class KilledError(Exception):
        pass

    class UntilThird(PixelDiffusionRecipe):
        def loss(self, model: nn.Module, batch: object, generator: torch.Generator) -> torch.Tensor:
            steps.append(1)
            if len(steps) == 3:
                raise KilledError
            return super().loss(model, batch, generator)  # type: ignore[arg-type]

        __repr__ = PixelDiffusionRecipe.__repr__

    steps: list[int] = []
    UntilThird.__qualname__ = PixelDiffusionRecipe.__qualname__
    killed = UntilThird(root=tmp_path, channels=4, norm_groups=2, num_steps=4, batch_size=8)
    with pytest.raises(KilledError):
        fit(killed, work=tmp_path / "twice", zoo=tmp_path / "b", checkpoint_seconds=0)
    fit(recipe, work=tmp_path / "twice", zoo=tmp_path / "b")
    one, other = (
        (tmp_path / folder / "ddpm_mini/unet/diffusion_pytorch_model.safetensors").read_bytes() for folder in "ab"
    )
    assert one == other


def test_float32_norms_compute_the_same_and_change_no_weight_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))
    names, images = list(model.state_dict()), torch.randn(2, 3, 8, 8)
    before = model(images)
    assert torch.equal(with_float32_norms(model)(images), before)
    assert list(model.state_dict()) == names
    with mixed_precision(True):
        assert model(images).dtype == torch.float32
        assert model[0](images).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "name", ["clip_judge", "ddpm_mini", "ldm_uncond_mini", "dit_mini", "scene_judge", "scene_features"]
)
def test_no_shipped_file_is_larger_than_the_limit(name: str, tmp_path: Path) -> None:
    recipe = recipes(tmp_path, tmp_path)[name]
    assert name not in TRAINING_ONLY
    assert 2 * sum(p.numel() for p in recipe.model().parameters()) < LIMIT - 100_000  # the header, and float32 buffers


def test_sd_mini_is_small_enough_to_ship(tmp_path: Path) -> None:
    text = recipes(tmp_path, tmp_path)["clip_text"]
    assert isinstance(text, ClipRecipe)
    short = replace(text, num_steps=1, batch_size=10)
    found = recipes(tmp_path, tmp_path)["sd_mini"]
    assert isinstance(found, StableDiffusionRecipe)
    recipe = replace(found, text=train(short, tmp_path))
    assert 2 * sum(p.numel() for p in recipe.model().parameters()) < LIMIT - 100_000
    assert 4 * sum(p.numel() for p in recipe.text_encoder().parameters()) < LIMIT - 100_000


def test_the_index_of_a_pipeline_names_every_part(sd_mini: tuple[StableDiffusionRecipe, Path]) -> None:
    index = json.loads((sd_mini[1] / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert index["text_encoder"] == ["transformers", "CLIPTextModel"]
    assert index["safety_checker"] == [None, None]


def test_sd_mini_brings_its_prompts_and_none_of_them_twice(sd_mini: tuple[StableDiffusionRecipe, Path]) -> None:
    _, home = sd_mini
    asked, others = ((home / f"{name}.txt").read_text().splitlines() for name in ("evaluation", "calibration"))
    assert asked == [caption(c) for c in combinations() if held_out(c)]
    assert sorted([*asked, *others]) == sorted(caption(c) for c in combinations())
