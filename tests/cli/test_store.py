"""`cq store`: every artefact with who needs it; nothing that a record needs goes unasked; images as files, exactly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

import cq
from cq.cli.store import main
from cq.core.artifacts import SampleSet
from cq.core.inventory import entries
from cq.core.store import Store, locked
from cq.engine.stored_weights import StoredWeights
from cq.run.ledger import execute
from cq.run.record import RunRecord
from cq.run.record_file import read, reseal
from tests.core.test_store import Map, maker
from tests.tiny_runs import composed, quick

Tell = Callable[..., str]
RUNS = (["schedule=none"], ["schedule=uniform"])


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    root = tmp_path_factory.mktemp("two_runs")
    for words in RUNS:
        config, choices = composed(quick(tiny_folder, root, *words))
        execute(config, choices, words)
    return root


@pytest.fixture
def root(two_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of both runs, with an artefact that no record needs and a leftover."""
    copy = tmp_path / "there"
    shutil.copytree(two_runs, copy)
    monkeypatch.chdir(tmp_path)
    Store(copy / "store").get("statistics", {"of": "a run that failed"}, Map, maker([]))
    (copy / "store/samples" / f"{'a' * 20}.partial").mkdir()
    return copy


@pytest.fixture
def tell(root: Path, capsys: pytest.CaptureFixture[str]) -> Tell:
    def told(*words: object, status: int = 0) -> str:
        assert main([*map(str, words), "--store", str(root / "store")]) == status
        out = capsys.readouterr()
        return out.out if status == 0 else out.err

    return told


def folders(root: Path) -> set[str]:
    return {entry.folder for entry in entries(root / "store")}


def needed(root: Path) -> set[str]:
    return {str(folder) for record in read(root / "records.jsonl") for folder in record.folders.values()}


def forget_folders(root: Path) -> None:
    """Records as they were before they named their folders."""
    path = root / "records.jsonl"
    lines = []
    for line in path.read_text().splitlines():
        document = json.loads(line)
        lines.append(json.dumps({k: v for k, v in document.items() if k not in ("overrides", "store", "folders")}))
    path.write_text("\n".join(lines) + "\n")
    reseal(path)


@pytest.mark.parametrize("old", [False, True])
def test_artefacts_are_listed_with_the_runs_that_need_them(root: Path, tell: Tell, old: bool) -> None:
    if old:
        forget_folders(root)
    told = tell("list", "all")
    rows = {line.split()[0]: line for line in told.splitlines()}
    assert set(rows) >= {folder for folder in folders(root) if "partial" not in folder}
    full = next(row for folder, row in rows.items() if folder.startswith("samples_full_precision/"))
    cached = next(row for folder, row in rows.items() if folder.startswith("samples/"))
    assert "runs 1 (runs/run, " in full
    assert "run 2 (runs/run, " in cached
    assert "no record needs it" in next(row for name, row in rows.items() if name.startswith("statistics/"))
    assert f"{len(folders(root)) - 2} of them are needed by the 2 runs" in told
    assert "left by killed runs" in told
    assert "  schedule/" not in tell("list", "samples")
    assert "--store" not in tell("list", "nothing", status=2)


def test_a_prune_says_first_and_takes_only_what_no_record_needs(root: Path, tell: Tell) -> None:
    before = folders(root)
    told = tell("prune")
    assert "no record needs: 1," in told
    assert "left by killed runs, which would go on from it: 1," in told
    assert "Nothing was; --yes does it." in told
    assert folders(root) == before
    assert "2 of " in tell("prune", "--yes")
    assert folders(root) == needed(root)
    assert "0 of " in tell("prune", "--yes")


def test_a_record_file_of_any_name_is_known_by_its_count(root: Path, tell: Tell) -> None:
    for end in ("", ".count"):
        (root / f"records.jsonl{end}").rename(root / f"mine.jsonl{end}")
    (root / "of_another_program.jsonl").write_text("{}\n")
    assert "no record needs: 1," in tell("prune")


def test_a_prune_by_old_records_takes_nothing_that_they_may_need(root: Path, tell: Tell) -> None:
    forget_folders(root)
    keep = folders(root) & needed_before(root)
    tell("prune", "--yes")
    assert folders(root) >= keep


def needed_before(root: Path) -> set[str]:
    kept = {(stage, digest) for record in read(root / "records.jsonl") for stage, digest in record.artifacts.items()}
    return {entry.folder for entry in entries(root / "store") if (entry.stage, entry.digest) in kept}


def test_what_records_need_goes_only_by_the_name_of_its_stage(root: Path, tell: Tell) -> None:
    told = tell("prune", "--needed", "samples")
    assert "needed by records, which keep their scores: 1," in told
    assert "run 2 (runs/run" in told
    tell("prune", "--needed", "samples", "--yes")
    assert {folder.partition("/")[0] for folder in needed(root) - folders(root)} == {"samples"}
    assert "are not in" in tell("export", "2", root / "out", status=2)
    assert "there is no such stage here" in tell("prune", "--needed", "sample", status=2)


def test_what_is_made_now_or_young_or_in_use_stays(root: Path, tell: Tell) -> None:
    before = folders(root)
    with locked(root / "store/samples" / f"{'a' * 20}.lock"):
        assert "being made now, and left alone: 1" in tell("prune")
    assert "0 of " in tell("prune", "--older-than", 1, "--yes")
    store = Store(root / "store")
    store.get("schedule", {"now": 1}, Map, maker([]))
    assert "a run is using it" in tell("prune", "--yes", status=2)
    assert folders(root) > before
    del store


def test_without_records_nothing_is_pruned(root: Path, tell: Tell) -> None:
    kept = root / "elsewhere"
    kept.mkdir()
    for name in ("records.jsonl", "records.jsonl.count", "protocols", "configs"):
        (root / name).rename(kept / name.replace("records", "mine"))
    assert "there is no record file here" in tell("prune", "--yes", status=2)
    assert "no record needs: 1," in tell("prune", "--records", kept / "mine.jsonl")
    (kept / "mine.jsonl").write_text("{}\n")
    assert "mine.jsonl" in tell("prune", "--yes", "--records", kept / "mine.jsonl", status=2)


def test_one_run_and_one_artefact_are_shown(root: Path, tell: Tell) -> None:
    first, second = read(root / "records.jsonl")
    told = tell("show", second.images_digest[:10])
    assert "run 2 of" in told
    assert "asked    schedule=uniform" in told
    assert all(folder in told for folder in second.folders.values())
    assert tell("show", "schedule=none") == tell("show", 1)
    folder = second.folders["samples"]
    shown = tell("show", folder.rpartition("/")[2][:8])
    assert f"content  {second.artifacts['samples']}" in shown
    assert "made of  num_steps: 10" in shown
    assert "file     tensors.safetensors, " in shown
    assert "run 2 (" in shown
    assert "names 2 runs" in tell("show", first.experiment, status=2)
    assert "names none of the 2 runs" in tell("show", "dps", status=2)


def exported(root: Path, record: RunRecord, out: Path, stage: str) -> None:
    images = SampleSet.load(root / "store" / record.folders[stage]).images_NCHW
    for number, image_CHW in enumerate(images):
        pixels = np.asarray(Image.open(out / f"{number:05d}.png"))
        assert np.array_equal(pixels.reshape(*image_CHW.shape[1:], -1), image_CHW.permute(1, 2, 0).numpy())
    size = images.shape[2]
    grid = np.asarray(Image.open(out / "grid.png"))
    assert grid.shape[:2] == (2 * size, 2 * size)  # of four
    assert np.array_equal(grid[size:, :size].reshape(size, size, -1), images[2].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("old", [False, True])
def test_images_are_exported_exactly_and_say_where_they_are_from(root: Path, tell: Tell, old: bool) -> None:
    records = read(root / "records.jsonl")
    if old:
        forget_folders(root)
    for number, stage in ((1, "samples_full_precision"), (2, "samples")):
        out = root / f"out{number}"
        assert f"{out}: 4 images of run {number} (" in tell("export", number, out)
        exported(root, records[number - 1], out, stage)
        origin = json.loads((out / "origin.json").read_text())
        assert (origin["record_number"], origin["commit"]) == (number, records[number - 1].commit)
        assert origin["images_digest"] == records[number - 1].images_digest
        assert origin["protocol"] == records[number - 1].config["protocol"]
        assert [image["file"] for image in origin["images"]] == [f"{i:05d}.png" for i in range(4)]


def test_an_export_is_whole_or_not_at_all(root: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "full").mkdir()
    (root / "full/mine").write_text("")
    assert "is no empty folder" in tell("export", 2, root / "full", status=2)
    (root / "empty").mkdir()
    tell("export", 2, root / "empty")
    saved = Image.Image.save

    def full(image: Image.Image, path: Path) -> None:
        if path.name == "00002.png":
            raise OSError(28, "No space left on device", str(path))
        saved(image, path)

    monkeypatch.setattr(Image.Image, "save", full)
    assert "No space left" in tell("export", 2, root / "new", status=2)
    assert sorted(path.name for path in root.iterdir() if path.suffix == ".tmp" or path.name == "new") == []


def test_other_images_than_the_records_are_refused(root: Path, tell: Tell) -> None:
    path = root / "records.jsonl"
    first, second = read(path)
    path.write_text(path.read_text().replace(second.images_digest, first.images_digest))
    reseal(path)
    assert "and the record those of" in tell("export", 2, root / "out", status=2)
    assert "No" not in tell("export", 1, root / "out")


def test_a_store_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["list"], ["show", "1"], ["prune", "--yes"], ["export", "1", "out"]):
        assert main([*words, "--store", str(tmp_path / "none")]) == 2
        assert "there is no such folder" in capsys.readouterr().err


def test_a_runs_acceleration_is_bundled_with_the_weights_of_its_network(
    root: Path, tell: Tell, tiny_folder: Path
) -> None:
    record = read(root / "records.jsonl")[1]
    told = tell("bundle", 2, root / "plain")
    assert f"{root / 'plain'}: the Acceleration of run 2 (" in told
    made = cq.load(root / "plain")
    assert made.digest == cq.load(root / "store" / record.folders["acceleration"]).digest
    tell("bundle", 2, root / "whole", "--weights")
    assert cq.load(root / "whole").digest == made.digest
    ours = StoredWeights.of(root / "whole").load().state_dict()
    theirs = UNet2DConditionModel.from_pretrained(tiny_folder / "unet").state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    (root / "mine").mkdir()
    (root / "mine/file").write_text("")
    assert "and no Acceleration" in tell("bundle", 2, root / "mine", status=2)
    shutil.rmtree(root / "store" / record.folders["acceleration"])
    assert "the Acceleration of run 2" in (said := tell("bundle", 2, root / "new", status=2))
    assert "is not in" in said
