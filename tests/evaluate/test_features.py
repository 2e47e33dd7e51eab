import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cq.core.checksum import file_digest
from cq.core.contracts import Drawn
from cq.evaluate.classifier import Classifier
from cq.evaluate.feature_distance import FeatureDistance
from cq.evaluate.features import WEIGHTS_FILE, FeatureCache, FeatureFolder, FeatureNetwork
from cq.models import locate as locate_module
from cq.models.locate import locate

Images = Callable[[int, int], Tensor]


def test_features_do_not_depend_on_the_batch(network: FeatureNetwork, images: Images) -> None:
    whole, parts = (network.extract(images(9, 0), batch_size=size) for size in (9, 2))
    for a, b in zip(whole, parts, strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # float32 convolutions inside


def test_images_are_mapped_to_the_range_of_training(network: FeatureNetwork) -> None:
    ends = torch.tensor([0, 255]).byte().view(2, 1, 1, 1).expand(2, 1, 32, 32)
    direct = network.network(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 32, 32))
    torch.testing.assert_close(network.extract(ends, batch_size=2).pooled_NF, direct.pooled_NF.double())


def test_digest_is_that_of_the_weights_file(network: FeatureNetwork, network_folder: Path) -> None:
    assert network.digest == hashlib.sha256((network_folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def test_features_of_one_set_are_extracted_once(
    network_folder: Path, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache()
    network = cache.network(str(network_folder))
    first = cache.features(images(5, 0), network, batch_size=5)
    monkeypatch.setattr(FeatureNetwork, "extract", lambda *a, **k: pytest.fail("extracted again"))
    assert cache.network(str(network_folder)) is network
    assert cache.features(images(5, 0).clone(), network, batch_size=5) is first


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(2, 1, 32, 32), torch.zeros(1, 32, 32).byte(), torch.zeros(0, 1, 32, 32).byte()],
)
def test_what_is_no_image_is_refused(network: FeatureNetwork, wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 \[N, C, H, W\]"):
        network.extract(wrong, batch_size=2)


def test_colour_images_are_refused(network: FeatureNetwork) -> None:
    with pytest.raises(ValueError, match="takes 1 channel"):
        network.extract(torch.zeros(2, 3, 32, 32).byte(), batch_size=2)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=WEIGHTS_FILE):
        FeatureNetwork.load(str(tmp_path))


Change = Callable[[dict[str, Tensor]], object]
WRONG: dict[str, tuple[Change, str]] = {
    "missing": (lambda state: state.pop("head.bias"), r"lacks 'head.bias'"),
    "extra": (lambda state: state.update(more=torch.ones(1)), r"has 'more', which the network has no place for"),
    "shape": (lambda state: state.update({"head.bias": torch.ones(3)}), r"'head.bias' of shape \[3\] where \[10\]"),
}


def checked(folder: Path) -> None:
    metric = FeatureDistance(features=str(folder), batch_size=2, resamples=40, bootstrap_seed=0)
    metric.check(Drawn(shape=(1, 32, 32), num_images=9, captioned=False))


@pytest.fixture
def copy(network_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(network_folder, tmp_path / "copy"))


@pytest.mark.parametrize("wrong", WRONG)
def test_weights_of_another_network_are_refused_by_the_names_of_their_tensors(wrong: str, copy: Path) -> None:
    change, expected = WRONG[wrong]
    state = load_file(copy / WEIGHTS_FILE)
    change(state)
    save_file(state, copy / WEIGHTS_FILE)
    for refuses in (checked, lambda folder: FeatureNetwork.load(str(folder))):
        with pytest.raises(ValueError, match=rf"features='{copy}': .*{WEIGHTS_FILE}.*{expected}.*Get both again"):
            refuses(copy)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"version https://git-lfs.github.com/spec/v1", "git lfs pull"), (None, "cut")],
)
def test_weights_that_are_not_whole_are_refused_before_sampling(
    content: bytes | None, expected: str, copy: Path
) -> None:
    (copy / WEIGHTS_FILE).write_bytes(content or (copy / WEIGHTS_FILE).read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"features=.*{WEIGHTS_FILE}.*({expected})"):
        checked(copy)


@pytest.mark.parametrize("text", ["{", "[]", '{"width": "wide"}', '{"stride": 0}', '{"depth": 3}'])
def test_a_configuration_that_describes_no_network_is_refused(text: str, copy: Path) -> None:
    (copy / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"features=.*config.json describes no Classifier"):
        checked(copy)


@pytest.mark.parametrize("name", ["head.bias", "low.1.running_var"])
def test_weights_that_are_not_finite_are_refused(name: str, copy: Path) -> None:
    state = load_file(copy / WEIGHTS_FILE)
    state[name][0] = torch.nan
    save_file(state, copy / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=rf"features=.*not finite in '{name}'"):
        FeatureNetwork.load(str(copy))


def test_another_stride_is_another_network_and_another_layout_of_its_configuration_is_not(
    copy: Path, network: FeatureNetwork
) -> None:
    """The weights tell all other settings."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({"width": config["width"]}))
    assert FeatureNetwork.load(str(copy)).digest == network.digest
    (copy / "config.json").write_text(json.dumps({**config, "stride": 1}))
    assert FeatureFolder.of(str(copy)).digest == FeatureNetwork.load(str(copy)).digest != network.digest


@pytest.mark.parametrize(("name", "channels"), [("features", 1), ("scene_features", 3)])
def test_packaged_networks_are_read_as_diffusers_reads_them_and_named_by_their_weights(
    name: str, channels: int
) -> None:
    loaded = FeatureNetwork.load(f"zoo:{name}")
    assert loaded.digest == file_digest(locate(f"zoo:{name}") / WEIGHTS_FILE)
    theirs = Classifier.from_pretrained(locate(f"zoo:{name}")).float().eval()
    noise = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    for mine, other in zip(loaded.network(noise), theirs(noise), strict=True):
        assert mine.equal(other)


def test_zoo_names_and_local_paths_are_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate_module, "WEIGHTS", tmp_path)
    (tmp_path / "some_net").mkdir()
    assert locate("zoo:some_net") == tmp_path / "some_net"
    assert locate(str(tmp_path / "some_net")) == tmp_path / "some_net"


def test_missing_folders_name_their_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate_module, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match=r"'zoo:features'.*The package holds"):
        locate("zoo:features")
    with pytest.raises(ValueError, match=r"'no/such/folder'.*zoo:NAME"):
        locate("no/such/folder")
    for wrong in ("zoo:", "zoo:..", "zoo:a/b", "zoo:../etc"):
        with pytest.raises(ValueError, match="one plain name"):
            locate(wrong)
