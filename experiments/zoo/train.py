"""Rebuild a part of the zoo from scratch: `python -m experiments.zoo.train <part>`.

Parts, in the order in which they need one another: features, judge, perceptual, first_stage, ldm_mini; then dit_mini,
ldm_uncond_mini (on the first stage that ships with ldm_mini) and ddpm_mini.
For sd_mini: scene_features, scene_judge, scene_perceptual, scene_first_stage, clip_text, clip_judge, sd_mini.
Built, not trained: test_images, test_scenes, reference (needs features), scene_reference (needs scene_features),
reference_MODE with a mode of cq.evaluate.inception (needs Inception weights).
"""

import argparse
import logging
from pathlib import Path
from typing import Protocol

from cq.evaluate.inception_features import URLS
from cq.models.locate import WEIGHTS
from experiments.zoo.recipes.classifiers import ClassifierRecipe
from experiments.zoo.recipes.clip import ClipRecipe
from experiments.zoo.recipes.ddpm_mini import PixelDiffusionRecipe
from experiments.zoo.recipes.dit_mini import DiTRecipe
from experiments.zoo.recipes.first_stage import FirstStageRecipe, SceneFirstStageRecipe
from experiments.zoo.recipes.ldm_mini import LatentDiffusionRecipe
from experiments.zoo.recipes.ldm_uncond_mini import UnconditionalLatentRecipe
from experiments.zoo.recipes.reference import InceptionReference, OwnReference, SceneReference, TestImages, TestScenes
from experiments.zoo.recipes.scene_classifiers import SceneClassifierRecipe
from experiments.zoo.recipes.sd_mini import StableDiffusionRecipe
from experiments.zoo.trainer import Recipe, fit

log = logging.getLogger(__name__)


class Builder(Protocol):
    """A part that is computed from others, not trained."""

    @property
    def name(self) -> str: ...

    def build(self, zoo: Path) -> dict[str, float]:
        """Write the part into `zoo`, from the parts already there, and return the figures to log."""


def recipes(root: Path, work: Path) -> dict[str, Recipe]:
    """Every part by name. `work` also holds the networks that are needed in training only."""
    parts: list[Recipe] = [
        ClassifierRecipe(name="features", width=32, blocks=1, stride=2, seed=1, num_steps=3000, root=root),
        ClassifierRecipe(name="judge", width=32, blocks=2, stride=2, seed=2, num_steps=3000, root=root),
        ClassifierRecipe(name="perceptual", width=16, blocks=1, stride=1, seed=3, num_steps=1400, root=root),
        FirstStageRecipe(root=root, perceptual=work / "perceptual"),
        LatentDiffusionRecipe(root=root, first_stage=work / "first_stage", latents=work / "latents"),
        DiTRecipe(root=root, first_stage=WEIGHTS / "ldm_mini/vae", latents=work / "latents"),
        UnconditionalLatentRecipe(root=root, first_stage=WEIGHTS / "ldm_mini/vae", latents=work / "latents"),
        PixelDiffusionRecipe(root=root),
        SceneClassifierRecipe(
            name="scene_features", width=32, blocks=1, stride=2, seed=4, num_steps=4000, share="all", root=root
        ),
        SceneClassifierRecipe(
            name="scene_judge", width=32, blocks=2, stride=2, seed=5, num_steps=6000, share="all", root=root
        ),
        SceneClassifierRecipe(
            name="scene_perceptual", width=16, blocks=1, stride=1, seed=6, num_steps=1400, share="trained", root=root
        ),
        SceneFirstStageRecipe(root=root, perceptual=work / "scene_perceptual"),
        ClipRecipe(
            name="clip_text", seed=51, share="trained", patch=8, image_width=128, image_layers=4, text_width=128,
            text_layers=3, num_steps=6000, root=root,
        ),
        ClipRecipe(
            name="clip_judge", seed=52, share="all", patch=4, image_width=128, image_layers=4, text_width=96,
            text_layers=2, num_steps=5000, root=root,
        ),
        StableDiffusionRecipe(
            root=root, first_stage=work / "scene_first_stage", text=work / "clip_text", latents=work / "scene_latents"
        ),
    ]  # fmt: skip
    return {part.name: part for part in parts}


def builders(root: Path, device: str) -> dict[str, Builder]:
    """Every part that is built; the Inception ones read and write `root`/inception."""
    parts: list[Builder] = [kind(root=root) for kind in (OwnReference, SceneReference, TestImages, TestScenes)]
    for mode, url in URLS.items():
        weights = root / "inception" / url.rpartition("/")[2]
        parts.append(InceptionReference(root=root, mode=mode, weights=weights, device=device))
    return {part.name: part for part in parts}


# first stages and the text tower ship inside the models that use them
TRAINING_ONLY = ("perceptual", "first_stage", "scene_perceptual", "scene_first_stage", "clip_text")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.zoo.train", description=__doc__)
    parser.add_argument("part", nargs="+", help="one or more of the parts above")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data set")
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder that receives the trained part")
    parser.add_argument("--device", default="cpu", help="where Inception runs; trainings run on the CPU")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    trained = recipes(arguments.data, arguments.work)
    built = builders(arguments.data, arguments.device)
    for part in arguments.part:
        if part not in {**trained, **built}:
            parser.error(f"part={part!r} is not in the zoo. Choose from: {' '.join([*trained, *built])}.")
    for part in arguments.part:
        if part in built:
            figures = built[part].build(arguments.out)
            log.info("%s: done, %s", part, ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
        else:
            out = arguments.work if part in TRAINING_ONLY else arguments.out
            fit(trained[part], work=arguments.work, zoo=out)


if __name__ == "__main__":
    main()
