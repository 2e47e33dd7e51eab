"""A feature network of random weights, its reference statistics, and sample sets of drawn images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.evaluate.classifier import Classifier
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.reference import ReferenceStatistics

Images = Callable[[int, int], Tensor]
Samples = Callable[[Tensor, Tensor], SampleSet]


@pytest.fixture(scope="session")
def network_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Classifier(width=4, blocks=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def network(network_folder: Path) -> FeatureNetwork:
    return FeatureNetwork.load(str(network_folder))


@pytest.fixture(scope="session")
def images() -> Images:
    """(count, seed) to smooth grey images of random contrast, uint8 [count, 1, 32, 32]."""

    def make(count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(count, 1, 8, 8, generator=generator) * torch.rand(count, 1, 1, 1, generator=generator)
        return (torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear") * 255).round().byte()

    return make


@pytest.fixture(scope="session")
def reference_folder(
    tmp_path_factory: pytest.TempPathFactory, network: FeatureNetwork, images: Images
) -> Path:  # fmt: skip
    folder = tmp_path_factory.mktemp("reference")
    features = network.extract(images(300, 1000), batch_size=100)
    ReferenceStatistics.of(features, data_set="blobs", network=network.digest, subset_size=200, seed=0).save(folder)
    return folder


@pytest.fixture
def samples() -> Samples:
    """(images, latents) to a sample set of seeds 0..N-1 whose trace is [zeros + 1, latents] of the first two."""

    def make(images_NCHW: Tensor, latents_NCHW: Tensor) -> SampleSet:
        return SampleSet(
            seeds=tuple(range(len(images_NCHW))),
            images_NCHW=images_NCHW,
            latents_NCHW=latents_NCHW,
            labels_N=torch.arange(len(images_NCHW)) % 10,
            trace_TNCHW=torch.stack([torch.ones_like(latents_NCHW[:2]), latents_NCHW[:2]]),
        )

    return make
