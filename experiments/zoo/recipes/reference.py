"""Reference statistics, of the Fashion-MNIST training images and of scenes: built, not trained."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cq.evaluate.features import FeatureNetwork
from cq.evaluate.inception import write_inception_reference
from cq.evaluate.inception_features import Mode, inception_features
from cq.evaluate.reference import ReferenceStatistics
from experiments.zoo.data import fashion_mnist
from experiments.zoo.scenes import evaluation_scenes

DATA_SET = "Fashion-MNIST train, 32x32 (28x28 with two black border pixels)"


@dataclass(frozen=True, kw_only=True)
class OwnReference:
    """Statistics in the features of our own network, for every `*_own` metric."""

    root: Path
    name: str = "reference"
    features: str = "features"
    data_set: str = DATA_SET
    subset_size: int = 2000
    seed: int = 31
    batch_size: int = 500

    def images(self) -> Tensor:
        """uint8 [n, C, 32, 32]: the data set."""
        return fashion_mnist("train", self.root)[0]

    def build(self, zoo: Path) -> dict[str, float]:
        """Write `reference/` beside `features/`, the network it is made with. Raises ValueError without that."""
        network = FeatureNetwork.load(str(zoo / self.features))
        statistics = ReferenceStatistics.of(
            network.extract(self.images(), batch_size=self.batch_size),
            data_set=self.data_set,
            network=network.digest,
            subset_size=self.subset_size,
            seed=self.seed,
        )
        folder = zoo / self.name
        folder.mkdir(parents=True, exist_ok=True)
        statistics.save(folder)
        return {"images": float(statistics.count)}


@dataclass(frozen=True, kw_only=True)
class SceneReference(OwnReference):
    """The same of `evaluation_scenes`, in the features of scene_features: what sd_mini's images are compared with."""

    name: str = "scene_reference"
    features: str = "scene_features"
    data_set: str = "scenes of the held-out captions with Fashion-MNIST t10k garments, 32x32"
    count: int = 12_000

    def images(self) -> Tensor:
        return evaluation_scenes(self.root, count=self.count, seed=self.seed).images_NCHW


@dataclass(frozen=True, kw_only=True)
class TestImages:
    """Real images that no model was trained on, for metrics in the features of a network that others trained.

    So many that a covariance of 1,280 features is whole.
    """

    root: Path
    name: str = "test_images"
    count: int = 1_300

    def images(self) -> Tensor:
        """uint8 [count, C, 32, 32]."""
        return fashion_mnist("t10k", self.root)[0][: self.count]

    def build(self, zoo: Path) -> dict[str, float]:
        """Write them into one column, which is smaller than a file each."""
        from PIL import Image

        column_HWC = self.images().permute(0, 2, 3, 1).flatten(0, 1).numpy()
        folder = zoo / self.name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(column_HWC.squeeze(2) if column_HWC.shape[2] == 1 else column_HWC).save(
            folder / "images.png", optimize=True
        )
        return {"images": float(self.count)}


@dataclass(frozen=True, kw_only=True)
class TestScenes(TestImages):
    """The same of scenes, for sd_mini: each held-out caption equally often, or once more."""

    name: str = "test_scenes"
    count: int = 400
    seed: int = 31

    def images(self) -> Tensor:
        return evaluation_scenes(self.root, count=self.count, seed=self.seed).images_NCHW


@dataclass(frozen=True, kw_only=True)
class InceptionReference:
    """Statistics in Inception features, for `fid_clean` and `fid_torchmetrics`; too large to ship (32 MiB)."""

    root: Path
    mode: Mode
    weights: Path
    device: str
    batch_size: int = 50

    @property
    def name(self) -> str:
        return f"reference_{self.mode}"

    def build(self, zoo: Path) -> dict[str, float]:
        """Write the npz beside the weights, whatever `zoo` is. Raises MetricUnavailable without the weights."""
        images_NCHW, _ = fashion_mnist("train", self.root)
        features_NF = inception_features(
            images_NCHW, mode=self.mode, weights=self.weights, batch_size=self.batch_size, device=self.device
        )
        path = self.weights.parent / f"fashion_mnist_train_{self.mode}.npz"
        write_inception_reference(path, features_NF, mode=self.mode, weights=self.weights)
        return {"images": float(len(features_NF))}
