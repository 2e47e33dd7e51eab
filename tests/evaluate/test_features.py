import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.evaluate.features import WEIGHTS_FILE, FeatureCache, FeatureNetwork
from cq.zoo import locate as locate_module
from cq.zoo.locate import locate

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


def test_zoo_names_and_local_paths_are_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate_module, "WEIGHTS", tmp_path)
    (tmp_path / "some_net").mkdir()
    assert locate("zoo:some_net") == tmp_path / "some_net"
    assert locate(str(tmp_path / "some_net")) == tmp_path / "some_net"


def test_missing_folders_name_their_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locate_module, "WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match=r"'zoo:features'.*python -m cq.zoo.train features"):
        locate("zoo:features")
    with pytest.raises(ValueError, match=r"'no/such/folder'.*zoo:NAME"):
        locate("no/such/folder")
    for wrong in ("zoo:", "zoo:..", "zoo:a/b", "zoo:../etc"):
        with pytest.raises(ValueError, match="one plain name"):
            locate(wrong)
