"""Rebuild a part of the zoo from scratch: `python -m cq.zoo.train <part>`.

Parts, in the order in which they need one another: features, judge, perceptual, first_stage, ldm_mini.
"""

import argparse
import logging
from pathlib import Path

from cq.zoo.recipes.classifiers import ClassifierRecipe
from cq.zoo.recipes.first_stage import FirstStageRecipe
from cq.zoo.recipes.ldm_mini import LatentDiffusionRecipe
from cq.zoo.trainer import Recipe, fit

ZOO = Path(__file__).parent / "weights"


def recipes(root: Path, work: Path) -> dict[str, Recipe]:
    """Every part by name. `work` also holds the networks that are needed in training only."""
    parts: list[Recipe] = [
        ClassifierRecipe(name="features", width=32, blocks=1, stride=2, seed=1, num_steps=5600, root=root),
        ClassifierRecipe(name="judge", width=32, blocks=2, stride=2, seed=2, num_steps=5600, root=root),
        ClassifierRecipe(name="perceptual", width=16, blocks=1, stride=1, seed=3, num_steps=1400, root=root),
        FirstStageRecipe(root=root, perceptual=work / "perceptual"),
        LatentDiffusionRecipe(root=root, first_stage=work / "first_stage"),
    ]
    return {part.name: part for part in parts}


TRAINING_ONLY = ("perceptual", "first_stage")  # the first stage ships inside each model that uses it


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cq.zoo.train", description=__doc__)
    parser.add_argument("part", nargs="+", help="one or more of: features judge perceptual first_stage ldm_mini")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the data set")
    parser.add_argument("--work", type=Path, default=Path("runs/zoo"), help="folder of checkpoints")
    parser.add_argument("--out", type=Path, default=ZOO, help="folder that receives the trained part")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    known = recipes(arguments.data, arguments.work)
    for part in arguments.part:
        if part not in known:
            parser.error(f"part={part!r} is not in the zoo. Choose from: {' '.join(known)}.")
    for part in arguments.part:
        out = arguments.work if part in TRAINING_ONLY else arguments.out
        fit(known[part], work=arguments.work, zoo=out)


if __name__ == "__main__":
    main()
