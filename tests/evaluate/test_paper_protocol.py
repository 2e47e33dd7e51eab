"""Every protocol composes with its own sampling and metrics; what does not agree with it is refused by key."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor

from cq.core.checksum import file_digest
from cq.evaluate import adm
from cq.evaluate.classifier import ImageFeatures
from cq.evaluate.paper_protocol import PaperProtocol
from cq.laws.choices import component_node
from cq.run.building import build, component_named
from cq.run.config import CONF
from cq.run.ledger import config_digest, execute
from cq.run.preflight import check_protocol
from tests.families import component
from tests.tiny_runs import composed

NAMES = sorted(path.stem for path in (CONF / "protocol").glob("*.yaml") if path.stem != "none")

# what the paper says (images, conditions, steps, guidance); None where it does not
PAPER: Mapping[str, tuple[int, int, int | None, float | None]] = {
    "cifar10_50k": (50_000, 0, 100, None), "lsun_bedroom_50k": (50_000, 0, 100, None),
    "lsun_church_50k": (50_000, 0, 100, None), "imagenet256_50k": (50_000, 1000, 250, 1.5),
    "imagenet256_10k": (10_000, 1000, None, 1.5), "coco5k_256": (5000, 5000, 50, 7.5),
    "coco5k_300crop": (5000, 5000, 50, 7.5), "parti": (1632, 1632, 50, 7.5),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Model:
    """What a check looks at of a model."""

    image_shape: tuple[int, int, int]
    guidance: float | None
    num_classes: int
    lines: tuple[str, ...] = ()
    prompts: str = "prompts/parti"
    release: None = None

    def read_prompts(self, purpose: str) -> tuple[str, ...]:
        return self.lines


def fitting(protocol: PaperProtocol, **fields: Any) -> Any:
    model = Model(protocol.image_shape, protocol.guidance, protocol.num_classes)
    return dataclasses.replace(model, **fields)


def check(config: DictConfig, model: Any) -> PaperProtocol:
    """As `Components.of` does, with a model of its own."""
    protocol: PaperProtocol = build(config.protocol, "protocol")
    sampler = build(config.baseline.sampler, "baseline.sampler")
    sample = build(config.sample, "sample")
    check_protocol(protocol, model=model, sample=sample, sampler=sampler, num_steps=config.baseline.num_steps)
    for name, node in config.metrics.items():
        protocol.check_metric(f"metrics.{name}", build(node, f"metrics.{name}"))
    return protocol


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of data: every reference is there, all one small file."""
    path = tmp_path_factory.mktemp("data")
    (path / "adm").mkdir()
    for name in NAMES:
        reference = composed([f"protocol={name}"])[0].protocol.reference
        if reference is not None:
            np.savez(path / "adm" / Path(reference).name, arr_0=np.zeros((2, 8, 8, 3), dtype=np.uint8))
    return path


@pytest.fixture
def data(folder: Path) -> str:
    return f"paths.data={folder}"


def test_every_row_of_the_paper_has_its_protocol() -> None:
    assert set(NAMES) == set(PAPER)


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_sets_up_sampling_and_metrics_that_agree_with_it_and_the_paper(name: str, data: str) -> None:
    config, choices = composed([f"protocol={name}", data])
    model = fitting(build(config.protocol, "protocol"))
    protocol = check(config, model)
    assert protocol.name == name
    images, conditions, steps, guidance = PAPER[name]
    assert (protocol.num_images, protocol.num_classes, protocol.guidance) == (images, conditions, guidance)
    assert protocol.num_steps == (steps or protocol.num_steps)
    assert (protocol.eta, protocol.labels) == (0.0, "balanced")
    assert config.budget.num_steps == protocol.num_steps
    assert choices["sampler"] == {"PLMS": "plms", "QuadraticDDIM": "ddim_quadratic", "DDIM": "ddim"}[protocol.sampler]
    assert (protocol.sampler == "QuadraticDDIM") == (name == "cifar10_50k")
    assert (protocol.sampler == "PLMS") == (protocol.prompts is not None)
    assert ("adm" in config.metrics) == (protocol.reference is not None)
    assert ("clip_scores" in config.metrics) == bool(protocol.backbones)


@pytest.mark.parametrize("name", NAMES)
def test_a_protocol_lists_every_field_of_its_class(name: str) -> None:
    listed = component_node("protocol", name)
    fields = dataclasses.fields(PaperProtocol)
    assert {str(key) for key in listed} == {"_target_", *(field.name for field in fields)}
    assert all(field.default is field.default_factory is dataclasses.MISSING for field in fields)


def test_what_a_score_states_names_no_place_on_this_machine(tmp_path: Path) -> None:
    config, _ = composed(["protocol=coco5k_256", f"paths.data={tmp_path}"])
    protocol: PaperProtocol = build(config.protocol, "protocol")
    assert str(tmp_path) not in str(protocol.stated())
    assert protocol.stated()["paper_protocol"]["resize"] == 256
    elsewhere = build(composed(["protocol=coco5k_256", "paths.data=elsewhere"])[0].protocol, "protocol")
    assert elsewhere.stated() == protocol.stated()


OVERRIDES = {
    "sample.num_images": ("sample.num_images=700", "sample.num_images=700: protocol=imagenet256_50k says 50000"),
    "labels": ("sample.labels=drawn", "sample.labels='drawn': protocol=imagenet256_50k says 'balanced'"),
    "steps": ("budget.num_steps=50", "baseline.num_steps=50: protocol=imagenet256_50k says 250"),
    "solver": ("sampler=plms", "baseline.sampler='PLMS': protocol=imagenet256_50k says 'DDIM'"),
    "eta": ("protocol.eta=1.0", "protocol.eta=1.0: this program draws with 0.0"),
    "pixels": ("protocol.pixels=truncated", "protocol.pixels='truncated': this program draws with 'round to nearest"),
    "reference": (
        "metrics.adm.reference=other.npz", "metrics.adm.reference='other.npz': protocol=imagenet256_50k has '.*VIRTUAL",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OVERRIDES)
def test_a_number_that_does_not_agree_is_refused_with_its_key(case: str, data: str) -> None:
    override, told = OVERRIDES[case]
    config, _ = composed(["protocol=imagenet256_50k", data, override])
    with pytest.raises(ValueError, match=told):
        check(config, Model((3, 256, 256), 1.5, 1000))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"guidance": 3.0}, "model.guidance=3.0: protocol=imagenet256_50k says 1.5"),
        ({"num_classes": 10}, "model.num_classes=10: protocol"),
        ({"image_shape": (1, 32, 32)}, r"model.image_shape=\(1, 32, 32\): protocol"),
    ],
)
def test_another_model_is_refused(fields: dict[str, Any], told: str, data: str) -> None:
    config, _ = composed(["protocol=imagenet256_50k", data])
    with pytest.raises(ValueError, match=told):
        check(config, fitting(build(config.protocol, "protocol"), **fields))


def test_fewer_steps_against_the_baseline_of_the_protocol_are_a_row_of_it(data: str) -> None:
    config, _ = composed(["protocol=imagenet256_50k", data, "budget.num_steps=50", "baseline.num_steps=250"])
    assert check(config, Model((3, 256, 256), 1.5, 1000)).num_steps == 250
    assert config.sample.num_steps == 50


def test_a_missing_or_another_reference_is_refused_before_anything_is_drawn(folder: Path, data: str) -> None:
    model = Model((3, 256, 256), 1.5, 1000)
    away, _ = composed(["protocol=imagenet256_50k", "paths.data=nowhere"])
    with pytest.raises(ValueError, match=r"VIRTUAL_imagenet256_labeled.npz': there is no such file.*https://openai"):
        check(away, model)
    pinned, _ = composed(["protocol=imagenet256_50k", data, f"protocol.reference_sha256={'f' * 64}"])
    with pytest.raises(ValueError, match=r"protocol.reference='.*its SHA-256 is .* and f+ is asked for"):
        check(pinned, model)
    digest = file_digest(folder / "adm/VIRTUAL_imagenet256_labeled.npz")
    right, _ = composed(["protocol=imagenet256_50k", data, f"protocol.reference_sha256={digest}"])
    check(right, model)


def test_other_prompts_are_refused(data: str) -> None:
    lines = tuple(f"prompt {i}" for i in range(1632))
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    config, _ = composed(["protocol=parti", data, f"protocol.prompts_sha256={digest}"])
    protocol: PaperProtocol = build(config.protocol, "protocol")
    check(config, fitting(protocol, lines=lines))
    with pytest.raises(ValueError, match=r"^model\.prompts='prompts/parti': SHA-256 of its evaluation prompts is"):
        check(config, fitting(protocol, lines=lines[::-1]))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["protocol=parti"], "draws from prompts, and this model takes none"),
        (["protocol=imagenet256_50k", "debug=smoke"], "metrics.adm: protocol=imagenet256_50k sets it up"),
    ],
)
def test_what_cannot_take_the_numbers_of_a_protocol_is_refused(arguments: list[str], told: str) -> None:
    config, _ = composed(arguments)
    protocol = build(config.protocol, "protocol")
    kind = component_named(config.model._target_, "model")
    with pytest.raises(ValueError, match=told):
        protocol.check_choices(model=kind, metrics=config.metrics)


def test_no_protocol_leaves_the_names_of_runs_as_they_were_and_another_changes_them() -> None:
    without, _ = composed([])
    assert config_digest(without) != config_digest(composed(["protocol.pixels=other", "protocol=parti"])[0])
    plain = without.copy()
    plain.protocol = {"_target_": "cq.evaluate.paper_protocol.NoProtocol"}
    assert config_digest(plain) == config_digest(without)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"num_images": 1500}, "cannot be balanced over 1000"),
        ({"reference_set": None}, "say in words"),
        ({"resize": 200, "crop": 256}, "protocol.crop=256"),
        ({"num_images": 0}, "at least 1"),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused(fields: dict[str, Any], told: str) -> None:
    protocol: PaperProtocol = build(composed(["protocol=imagenet256_50k"])[0].protocol, "protocol")
    with pytest.raises(ValueError, match=told):
        dataclasses.replace(protocol, **fields)


def test_a_run_under_a_protocol_says_so_in_every_score(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a tiny model, the numbers brought down to it; the Inception network is stood in for."""
    monkeypatch.setattr(adm, "TFInception", Drawn)
    monkeypatch.setattr(adm, "find_weights", lambda path, metric: tmp_path)
    (tmp_path / "adm").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "adm/cifar10_train.npz", arr_0=images)
    paths = [f"paths.{name}={tmp_path}/{name}" for name in ("store", "records", "tracking")] + [
        f"paths.data={tmp_path}"
    ]
    config, choices = composed(
        ["protocol=cifar10_50k", "protocol.num_images=4", "protocol.image_shape=[3,16,16]", "protocol.num_steps=10",
         "metrics.adm.scores=[precision,recall,kid,inception_score]", "metrics.fidelity.resamples=40",
         "sample.batch_size=2", "sample.trace=2", "latency=none", "logger=none", *paths]
    )  # fmt: skip
    model = component("ddpm", tiny_folders["ddpm"])
    node: dict[Any, Any] = {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}  # type: ignore[arg-type]
    config.model = {"_target_": "cq.models.pixel.PixelDiffusion", **node}
    record = execute(config, choices)
    assert record.status == "ok"
    assert record.note == ""
    assert {"precision_adm", "recall_adm", "kid_adm", "inception_score_adm", "psnr_fp_db"} <= set(record.scores)
    stated = [score["protocol"]["paper_protocol"] for score in record.scores.values()]
    assert all((said["name"], said["num_images"], said["num_steps"]) == ("cifar10_50k", 4, 10) for said in stated)
    config.sample.num_images = 5
    with pytest.raises(ValueError, match=r"sample.num_images=5: protocol=cifar10_50k says 4"):
        execute(config, choices)


class Drawn:
    """Stands in for the network: fixed random projections of the pixels."""

    digest = "projections"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        generator = torch.Generator().manual_seed(5)
        self.projections = [torch.randn(768, dim, generator=generator) / 20 for dim in (6, 5, 4)]

    def extract(self, images_NCHW: Tensor, *, batch_size: int) -> ImageFeatures:
        flat_NF = images_NCHW.float().flatten(1) / 127.5 - 1
        return ImageFeatures(*(flat_NF @ projection for projection in self.projections))
