"""Scoring images made elsewhere: a small stand-in for the Inception network, real files, the real command."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cq.cli import score
from cq.evaluate import adm, tf_inception
from cq.evaluate.classifier import ImageFeatures
from cq.evaluate.protocol import EvaluationContext, Score

SMALL = (
    "protocol=cifar10_50k", "protocol.num_images=40", "metrics.adm.scores=[inception_score,precision,recall,kid]",
)  # fmt: skip


class Projections:
    """Stands in for the network, whose weights cannot be had offline."""

    digest = "projections"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        self.projections = [torch.randn(3072, dim, generator=generator) / 20 for dim in (9, 8, 7)]

    def extract(self, images_NCHW: Tensor, *, batch_size: int) -> ImageFeatures:
        flat_NF = images_NCHW.float().flatten(1) / 127.5 - 1
        return ImageFeatures(*(flat_NF @ projection for projection in self.projections))


@pytest.fixture(autouse=True)
def _network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (adm, tf_inception):
        monkeypatch.setattr(module, "TFInception", Projections)
        monkeypatch.setattr(module, "find_weights", lambda path, metric: tmp_path)
    monkeypatch.setattr(adm, "POOLED_DIMS", 9)
    monkeypatch.setattr(adm, "SPATIAL_DIMS", 8)


def write(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir()
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:05d}.png")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    return score.main([*map(str, arguments)])


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Made by the command, where the protocol looks for it."""
    path = tmp_path / "adm/cifar10_train.npz"
    data = write(tmp_path / "train", 50, 1)
    monkeypatch.setattr(score, "KEPT", 20)
    assert run(monkeypatch, data, "--reference", path, f"paths.data={tmp_path}", *SMALL) == 0
    return path


def test_a_reference_batch_holds_all_moments_and_some_images(reference: Path) -> None:
    with np.load(reference) as stored:
        assert stored["arr_0"].shape == (20, 32, 32, 3)
        assert stored["mu"].shape == (9,)
        assert stored["sigma_s"].shape == (8, 8)
        images = np.stack([np.asarray(Image.open(path)) for path in sorted((reference.parents[1] / "train").iterdir())])
        found = Projections().extract(torch.from_numpy(images).permute(0, 3, 1, 2), batch_size=50)
        np.testing.assert_allclose(stored["mu"], found.pooled_NF.double().mean(0), rtol=1e-5)
        np.testing.assert_allclose(stored["sigma"], np.cov(found.pooled_NF.double().T), rtol=1e-5)


def test_a_folder_and_its_npz_get_the_same_scores_with_their_protocol(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "mine", 40, 2)
    assert run(monkeypatch, folder, f"paths.data={tmp_path}", *SMALL) == 0
    scores = json.loads((tmp_path / "mine.cifar10_50k.json").read_text())
    assert set(scores) == {f"{kind}_adm" for kind in ("inception_score", "precision", "recall", "kid")}
    assert scores["kid_adm"]["protocol"]["paper_protocol"]["name"] == "cifar10_50k"
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
    np.savez(tmp_path / "batch.npz", arr_0=images)
    assert run(monkeypatch, tmp_path / "batch.npz", f"paths.data={tmp_path}", *SMALL) == 0
    again = json.loads((tmp_path / "batch.npz.cifar10_50k.json").read_text())
    assert {key: found["value"] for key, found in again.items()} == {k: found["value"] for k, found in scores.items()}


def test_what_is_not_the_protocol_is_refused_by_name(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "mine", 40, 2)
    (folder / "00017.png").unlink()
    arguments = (folder, f"paths.data={tmp_path}", *SMALL)
    assert run(monkeypatch, *arguments) == 2
    assert "protocol=cifar10_50k has 40 images, and 1 are missing: 17" in capsys.readouterr().err
    (folder / "00017.png").write_bytes((folder / "00003.png").read_bytes())
    assert run(monkeypatch, *arguments) == 2
    assert "00017.png: is pixel for pixel" in capsys.readouterr().err
    small = tmp_path / "small"
    small.mkdir()
    for i in range(40):
        Image.fromarray(np.full((16, 16, 3), i, dtype=np.uint8)).save(small / f"{i}.png")
    assert run(monkeypatch, small, *arguments[1:]) == 2
    assert "has [40, 3, 32, 32]" in capsys.readouterr().err
    reference.write_bytes(reference.read_bytes() + b"x")
    assert run(monkeypatch, *arguments, f"protocol.reference_sha256={'0' * 64}") == 2
    assert f"and {'0' * 64} is asked for" in capsys.readouterr().err
    reference.unlink()
    assert run(monkeypatch, *arguments) == 2
    assert "there is no such file" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_where_nothing_is_scored_an_earlier_result_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metrics that compare with full-precision images have none to compare with; with no metric images are checked."""
    folder = write(tmp_path / "mine", 3, 2)
    earlier = tmp_path / "mine.none.json"
    earlier.write_text("earlier")
    assert run(monkeypatch, folder, "evaluate=fidelity") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"cq-score: {folder}: nothing was scored, and nothing is written. metrics.fidelity: it comp")
    assert run(monkeypatch, folder, "evaluate=none") == 0
    assert earlier.read_text() == "earlier"


def test_other_scores_of_the_same_images_are_kept_beside_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "mine", 12, 0)
    out = tmp_path / "mine.none.json"
    words = ("evaluate=none", "+metric@metrics.it=inception_score_own", "metrics.it.features=zoo:scene_features")
    assert run(monkeypatch, folder, *words) == 0
    (own,) = scored = json.loads(out.read_text())
    out.write_text(json.dumps({"another": {"value": 1.0}, own: {"value": 2.0}}))
    assert run(monkeypatch, folder, *words) == 0
    assert json.loads(out.read_text()) == {"another": {"value": 1.0}, **scored}
    os.utime(next(folder.iterdir()), ns=(0, out.stat().st_mtime_ns + 10**9))
    assert run(monkeypatch, folder, *words) == 0
    assert json.loads(out.read_text()) == scored
    assert "of images that have changed since" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["+sampels.num_images=5"], "there is no key 'sampels'. Did you mean 'sample'?"),
        (["metrics=null"], "metrics=None: names no component. Choose one by evaluate=..."),
        (["evaluate=none", "protocol=parti"], "metrics.clip_scores: protocol=parti sets it up, and another evaluate"),
    ],
)
def test_a_configuration_is_refused_as_that_of_a_run(
    overrides: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, tmp_path, *overrides) == 2
    said = capsys.readouterr().err
    assert said.startswith("cq-score: ")
    assert said.count("\n") == 1
    assert told in said


def test_what_scores_do_not_depend_on_is_said(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write(tmp_path / "mine", 40, 2)
    idle = ("budget.num_steps=3", "model=dit_xl2_256", "sample.batch_size=2", "seed=1", "+correct.cache.x=1")
    assert run(monkeypatch, folder, f"paths.data={tmp_path}", *SMALL, *idle) == 0
    said = [record.getMessage() for record in caplog.records if "nothing reads it" in record.getMessage()]
    assert [each.partition(":")[0] for each in said] == [each.lstrip("+") for each in idle]
    assert said[0].endswith("for this command reads metrics and protocol.")


def test_in_a_folder_that_is_gone_it_ends_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run(monkeypatch, "mine", "evaluate=none") == 2
    assert capsys.readouterr().err.startswith("cq-score: the working folder is gone. Change to one that is there")


@pytest.mark.parametrize("name", ["cut", "empty", "npy"])
def test_a_file_that_is_no_npz_ends_in_a_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    path = tmp_path / f"{name}.npz"
    np.savez(path, images)
    if name == "npy":
        with path.open("wb") as file:
            np.save(file, images)
    else:
        path.write_bytes(path.read_bytes()[: 5000 if name == "cut" else 0])
    assert run(monkeypatch, path, "evaluate=none") == 2
    assert capsys.readouterr().err.startswith(f"cq-score: {path}: is ")


def with_prompts(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    lines = [f"scene {i}" for i in range(count)]
    (folder / "evaluation.txt").write_bytes("\ufeff{}\r\n".format("\r\n\r\n".join(lines)).encode())
    return lines


def test_an_image_is_scored_with_the_prompt_of_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """sample_2 comes before sample_10; of more images than prompts each prompt has its turn again."""
    seen: list[EvaluationContext] = []

    def look(_: adm.AdmEvaluation, context: EvaluationContext) -> dict[str, Any]:
        seen.append(context)
        return {"seen": Score(value=0.0, low=None, high=None, better="up", protocol={})}

    monkeypatch.setattr(adm.AdmEvaluation, "compute", look)
    lines = with_prompts(tmp_path / "prompts", 6)
    (tmp_path / "adm").mkdir()
    np.savez(tmp_path / "adm/cifar10_train.npz", arr_0=np.zeros((2, 32, 32, 3), dtype=np.uint8))
    folder = write(tmp_path / "drawn", 12, 0)
    for i, path in enumerate(sorted(folder.iterdir())):
        pixels = np.asarray(Image.open(path)).copy()
        pixels[0, 0] = i
        path.unlink()
        Image.fromarray(pixels).save(folder / f"sample_{i}.png")
    protocol = (
        "protocol=cifar10_50k", "protocol.num_images=12", "protocol.num_classes=6", "protocol.labels=balanced",
        f"protocol.prompts={tmp_path / 'prompts'}", f"paths.data={tmp_path}",
        "metrics.adm.scores=[inception_score]",
    )  # fmt: skip
    assert run(monkeypatch, folder, *protocol) == 0
    assert seen[0].samples.images_NCHW[:, 0, 0, 0].tolist() == list(range(12))
    assert list(seen[0].captions) == lines * 2
    (folder / "sample_3.png").rename(folder / "another_3.png")
    assert run(monkeypatch, folder, *protocol) == 2
    assert "do not number them. Name each by the number of its prompt" in capsys.readouterr().err
    assert run(monkeypatch, folder, *protocol, f"protocol.prompts_sha256={'0' * 64}") == 2
    assert f"protocol.prompts='{tmp_path / 'prompts'}': SHA-256 of its" in capsys.readouterr().err
    assert run(monkeypatch, folder, *protocol, "protocol.num_classes=4") == 2
    assert "holds 6 evaluation prompts, and protocol=cifar10_50k has 4" in capsys.readouterr().err
    (tmp_path / "prompts/evaluation.txt").write_text("scene 0\nNone\n")
    assert run(monkeypatch, folder, *protocol) == 2
    assert "evaluation.txt: line 2 is 'None'" in capsys.readouterr().err
