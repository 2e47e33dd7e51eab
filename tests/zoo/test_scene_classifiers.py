"""The networks that look at scenes."""

from pathlib import Path

import torch

from cq.evaluate.classifier import Classifier
from cq.evaluate.features import FeatureNetwork
from experiments.zoo.recipes.scene_classifiers import SceneClassifierRecipe, agreement, by_attribute
from experiments.zoo.scenes import ATTRIBUTES, scenes
from experiments.zoo.trainer import fit


def recipe() -> SceneClassifierRecipe:
    return SceneClassifierRecipe(
        name="scene_judge",
        width=4,
        blocks=1,
        stride=2,
        seed=1,
        num_steps=2,
        share="all",
        root=Path("not needed"),
        batch_size=20,
    )


def test_a_scene_network_trains_exports_and_is_a_feature_network_for_colour(garments: None, tmp_path: Path) -> None:
    figures = fit(recipe(), work=tmp_path / "work", zoo=tmp_path)
    assert set(figures) == {f"held_out_{name}_accuracy" for name in ATTRIBUTES}
    shown = scenes("t10k", tmp_path, indices=range(40), seed=1, share="held_out")
    found = FeatureNetwork.load(str(tmp_path / "scene_judge")).extract(shown.images_NCHW, batch_size=40)
    assert found.pooled_NF.shape == (40, 16)
    assert [part.shape[1] for part in by_attribute(found.logits_NK)] == list(ATTRIBUTES.values())


def test_agreement_is_by_attribute_and_by_image(garments: None) -> None:
    """A network that says item 0 of whatever it sees."""
    shown = scenes("t10k", Path("not needed"), indices=[0, 0, 1], seed=1, share="held_out")

    class Stubborn(Classifier):
        def forward(self, images_NCHW: torch.Tensor) -> object:  # type: ignore[override]
            found = super().forward(images_NCHW)
            return found._replace(logits_NK=torch.zeros_like(found.logits_NK).index_fill(1, torch.tensor([0]), 1.0))

    network = Stubborn(width=4, in_channels=3, num_classes=sum(ATTRIBUTES.values())).eval()
    right = agreement(network, shown.images_NCHW, shown.which_N)
    assert right.shape == (3, 4)
    assert right[:, 0].tolist() == [True, True, False]  # the third scene has item 1
