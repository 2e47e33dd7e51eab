from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.evaluate.classifier import Classifier
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.gaussian import moments
from cq.evaluate.reference import ReferenceStatistics, load_reference
from experiments.zoo.recipes import reference as recipe

Images = Callable[[int, int], Tensor]


def test_statistics_are_the_moments_of_all_images_and_features_of_some(
    network: FeatureNetwork, reference_folder: Path, images: Images
) -> None:
    found = load_reference(str(reference_folder), network)
    features = network.extract(images(300, 1000), batch_size=100)
    torch.testing.assert_close((found.mu_F, found.sigma_FF), moments(features.pooled_NF), rtol=0, atol=0)
    torch.testing.assert_close(
        (found.spatial_mu_S, found.spatial_sigma_SS), moments(features.spatial_NF), rtol=0, atol=0
    )
    assert found.count == 300
    rows = {tuple(row) for row in features.pooled_NF.half().tolist()}
    subset = {tuple(row) for row in found.subset_MF.tolist()}
    assert len(subset) == 200
    assert subset < rows


def test_statistics_of_another_network_are_refused(reference_folder: Path, network: FeatureNetwork) -> None:
    other = replace(network, digest="f" * 64)
    with pytest.raises(ValueError, match=rf"{network.digest[:12]}.*ffffffffffff.*experiments.zoo.train reference"):
        load_reference(str(reference_folder), other)


def test_more_stored_images_than_there_are_is_refused(network: FeatureNetwork, images: Images) -> None:
    features = network.extract(images(20, 0), batch_size=20)
    with pytest.raises(ValueError, match="subset_size=21"):
        ReferenceStatistics.of(features, data_set="x", network=network.digest, subset_size=21, seed=0)


def test_the_zoo_builds_its_reference_beside_its_network(
    tmp_path: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "features").mkdir()
    Classifier(width=4, blocks=1).save_pretrained(tmp_path / "features")
    monkeypatch.setattr(recipe, "fashion_mnist", lambda split, root: (images(50, 0), torch.zeros(50)))
    figures = recipe.OwnReference(root=tmp_path, subset_size=30).build(tmp_path)
    assert figures == {"images": 50.0}
    network = FeatureNetwork.load(str(tmp_path / "features"))
    assert load_reference(str(tmp_path / "reference"), network).count == 50
