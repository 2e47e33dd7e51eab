"""Every part of the zoo at a few thousand parameters, trained for two steps on made-up garments."""

from collections.abc import Callable
from pathlib import Path

from cq.evaluate.classifier import Classifier
from experiments.zoo.recipes.classifiers import ClassifierRecipe
from experiments.zoo.recipes.clip import ClipRecipe
from experiments.zoo.recipes.ddpm_mini import PixelDiffusionRecipe
from experiments.zoo.recipes.dit_mini import DiTRecipe
from experiments.zoo.recipes.first_stage import FirstStageRecipe, SceneFirstStageRecipe
from experiments.zoo.recipes.ldm_uncond_mini import UnconditionalLatentRecipe
from experiments.zoo.recipes.reference import OwnReference, SceneReference
from experiments.zoo.recipes.scene_classifiers import SceneClassifierRecipe
from experiments.zoo.recipes.sd_mini import StableDiffusionRecipe
from experiments.zoo.trainer import Recipe, fit


def train(recipe: Recipe, folder: Path) -> Path:
    """The folder that the recipe exports."""
    fit(recipe, work=folder / "work", zoo=folder)
    return folder / recipe.name


def garment_stage(folder: Path) -> FirstStageRecipe:
    Classifier(width=4).save_pretrained(folder / "perceptual")
    return FirstStageRecipe(
        root=folder, perceptual=folder / "perceptual", widths=(8, 8, 8), num_steps=2, batch_size=8
    )  # fmt: skip


def scene_stage(folder: Path) -> SceneFirstStageRecipe:
    Classifier(width=4, in_channels=3).save_pretrained(folder / "perceptual")
    return SceneFirstStageRecipe(
        root=folder, perceptual=folder / "perceptual", widths=(8, 8, 8), num_steps=2, batch_size=8, count=50
    )  # fmt: skip


def clip(folder: Path, name: str = "clip_judge", seed: int = 1) -> ClipRecipe:
    return ClipRecipe(
        root=folder, name=name, seed=seed, share="all", patch=16, image_width=32, image_layers=1, text_width=64,
        text_layers=2, num_steps=2, batch_size=20,
    )  # fmt: skip


def sd(folder: Path) -> StableDiffusionRecipe:
    return StableDiffusionRecipe(
        root=folder, first_stage=train(scene_stage(folder), folder), text=train(clip(folder, "clip_text"), folder),
        latents=folder / "latents", channels=8, norm_groups=4, num_steps=2, batch_size=8, count=50,
    )  # fmt: skip


def ddpm(folder: Path) -> PixelDiffusionRecipe:
    return PixelDiffusionRecipe(root=folder, channels=4, norm_groups=2, num_steps=2, batch_size=8)


def ldm_uncond(folder: Path) -> UnconditionalLatentRecipe:
    return UnconditionalLatentRecipe(
        root=folder, first_stage=train(garment_stage(folder), folder), latents=folder / "latents", channels=8,
        head_channels=4, norm_groups=4, num_steps=2, batch_size=8,
    )  # fmt: skip


def dit(folder: Path) -> DiTRecipe:
    return DiTRecipe(
        root=folder, first_stage=train(garment_stage(folder), folder), latents=folder / "latents", num_steps=2,
        batch_size=4,
    )  # fmt: skip


MODELS: dict[str, Callable[[Path], Recipe]] = {
    "dit_mini": dit,
    "sd_mini": sd,
    "ddpm_mini": ddpm,
    "ldm_uncond_mini": ldm_uncond,
}


def judges(folder: Path) -> None:
    """All networks and statistics that the bars judge with."""
    for name in ("features", "judge"):
        train(
            ClassifierRecipe(
                name=name, width=8, blocks=1, stride=2, seed=1, num_steps=2, root=folder, batch_size=20
            ),
            folder,
        )  # fmt: skip
    for name in ("scene_features", "scene_judge"):
        train(
            SceneClassifierRecipe(
                name=name, width=8, blocks=1, stride=2, seed=1, num_steps=2, share="all", root=folder, batch_size=20
            ),
            folder,
        )  # fmt: skip
    train(clip(folder), folder)
    OwnReference(root=folder, subset_size=50).build(folder)
    SceneReference(root=folder, subset_size=50, count=120).build(folder)
