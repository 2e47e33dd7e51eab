"""Nothing stale comes back: what was edited is another question, and force=true computes every stage again."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

import cq.run.pipeline
from cq.run.ledger import RunError, execute, find, known
from cq.run.record import RunRecord
from cq.run.record_file import read
from tests.families import component
from tests.tiny_runs import composed, quick

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def edited(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each step of tests/stale_runs.py."""
    tree = tmp_path_factory.mktemp("tree")
    left_out = shutil.ignore_patterns("__pycache__", "weights")
    for name in ("cq", "conf", "tests"):
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, tree / name, ignore=left_out)
    who = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tree), *who, *arguments], check=True, capture_output=True)
    # No bytecode: Python takes a file edited within one second to the same size for the file it had compiled.
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.stale_runs", str(tiny_folder), str(tmp_path_factory.mktemp("runs"))],
        cwd=tree, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return {step.pop("step"): step for step in json.loads(done.stdout.splitlines()[-1])}


def test_an_edited_component_is_another_question(edited: dict[str, Any]) -> None:
    assert [step["records"] for step in edited.values()] == [1, 1, 2, 2, 3, 4, 5]
    assert edited["first"]["refreshes"] == [0, 2, 4, 6, 8]
    assert edited["edited"]["refreshes"] == [0, 5]
    assert edited["edited"]["images"] != edited["first"]["images"]
    assert edited["edited"]["found"] == ["samples_full_precision"]  # which no schedule decides
    assert edited["edited back"]["made"] == edited["edited back"]["found"] == []  # its record is there
    assert edited["edited and forced"]["refreshes"] == [0, 3, 6, 9]


def test_force_computes_every_stage_again(edited: dict[str, Any]) -> None:
    assert edited["forced"]["images"] == edited["first"]["images"]
    for step in ("forced", "edited and forced"):
        assert edited[step]["found"] == []
        assert edited[step]["made"] == edited["first"]["made"]


def test_code_of_the_loop_that_is_not_committed_is_another_question(edited: dict[str, Any]) -> None:
    assert edited["the loop edited"]["found"] == []
    assert edited["the loop edited"]["made"] == edited["first"]["made"]


def text_run(folder: Path, prompts: Path, root: Path, *overrides: str) -> tuple[DictConfig, dict[str, str]]:
    config, choices = composed(quick(folder, root, "schedule=uniform", *overrides))
    model = component("sd", folder)
    node = {name: getattr(model, name) for name in ("site", "guidance", "latent_shape", "image_shape", "release")}
    target = f"{type(model).__module__}.{type(model).__qualname__}"
    config.model = {"_target_": target, **node, "weights": str(folder), "prompts": str(prompts)}
    return config, choices


@pytest.mark.parametrize("force", ["force=false", "force=true"])
def test_edited_prompts_are_another_question(tiny_folders: dict[str, Path], tmp_path: Path, force: str) -> None:
    def run() -> RunRecord:
        return execute(*text_run(tiny_folders["sd"], prompts, tmp_path, force))

    prompts = tmp_path / "prompts"
    prompts.mkdir()
    for name in ("evaluation.txt", "calibration.txt"):
        shutil.copy(tiny_folders["sd"] / name, prompts)
    before = run()
    text = (prompts / "evaluation.txt").read_text()
    (prompts / "evaluation.txt").write_text(text.replace("a cat", "a bat"))
    after = run()
    assert after.config_digest != before.config_digest
    assert after.images_digest != before.images_digest
    assert after.artifacts["samples_full_precision"] != before.artifacts["samples_full_precision"]
    (prompts / "evaluation.txt").write_text(text)
    again = run()
    assert again.images_digest == before.images_digest
    assert (again == before) == (force == "force=false")


@pytest.mark.parametrize("force", ["force=false", "force=true"])
def test_an_edited_feature_network_is_another_question(tiny_folder: Path, tmp_path: Path, force: str) -> None:
    from cq.evaluate.classifier import Classifier

    def run(seed: int) -> RunRecord:
        torch.manual_seed(seed)
        Classifier(width=4, blocks=1).save_pretrained(tmp_path / "features")
        metric = "feature_distance_own"
        chosen = (f"+metric@metrics.{metric}={metric}", f"metrics.{metric}.features={tmp_path}/features")
        return execute(*composed(quick(tiny_folder, tmp_path, "schedule=uniform", *chosen, force)))

    before, after = run(1), run(2)
    assert after.config_digest != before.config_digest
    assert after.images_digest == before.images_digest  # which no judge decides
    values = [record.scores["feature_distance_own_fp"]["value"] for record in (before, after)]
    assert values[0] != values[1]
    assert (run(2) == after) == (force == "force=false")


def test_a_forced_run_that_fails_hides_no_good_one(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, choices = composed(quick(tiny_folder, tmp_path, "schedule=uniform"))
    good = execute(config, choices)

    def broken(*_: object) -> None:
        raise RuntimeError("the sampler broke")

    with monkeypatch.context() as patch:
        patch.setattr(cq.run.pipeline, "_outcome", broken)
        with pytest.raises(RunError):
            execute(*composed(quick(tiny_folder, tmp_path, "schedule=uniform", "force=true")))
    records = tmp_path / "records.jsonl"
    assert [record.status for record in read(records)] == ["ok", "failed"]
    assert known(records) == [good]
    assert find(known(records), config, good.model["weights_digest"]) == good
    assert execute(config, choices) == good
