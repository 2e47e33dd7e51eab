"""The ledger: an answered question is not asked again, another one is, and every record can be traced to a commit."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import cq.run.pipeline
from cq.cli.report import committed
from cq.core.artifacts import SampleSet
from cq.core.checksum import digest_of
from cq.run import ledger, origin
from cq.run.components import Components
from cq.run.ledger import RunError, check_committed, config_digest, execute, find, known, write_strip
from cq.run.origin import Source
from cq.run.record import RunRecord
from cq.run.record_file import read
from cq.run.tracking import RunLog
from tests.tiny_runs import composed, quick

DPS = "experiment=table5/cache_dps"


@dataclasses.dataclass(frozen=True)
class Answered:
    """A run that is done: the arguments it was composed from, and its record."""

    arguments: list[str]
    record: RunRecord
    records: Path


@pytest.fixture(scope="module")
def answered(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Answered:
    root = tmp_path_factory.mktemp("answered")
    arguments = quick(tiny_folder, root, DPS)
    return Answered(arguments, execute(*composed(arguments), arguments), root / "records.jsonl")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Components]:
    """The runs that were asked for; none of them is made."""
    asked: list[Components] = []

    def ask(parts: Components, _: RunLog) -> None:
        asked.append(parts)
        raise ValueError("not in this test")

    monkeypatch.setattr(cq.run.pipeline, "run", ask)
    return asked


def copy_records(records: Path, to: Path) -> None:
    for kind in ("protocols", "configs"):
        shutil.copytree(records.parent / kind, to.parent / kind)
    shutil.copy(records, to)


def test_a_record_holds_what_is_needed_to_believe_it(answered: Answered) -> None:
    record = answered.record
    assert (record.status, record.experiment, record.note) == ("ok", "table5/cache_dps", "")
    assert record.choices["schedule"] == "dps"
    assert record.budget == {"num_steps": 10, "cache_interval": 2, "weight_bits": None, "act_bits": None}
    assert record.schedule["num_calls"] == 10
    assert len(record.schedule["refresh_calls"]) == 5
    assert set(record.artifacts) == set(record.seconds) - {"load"} == set(record.made)
    assert None not in record.made.values()
    assert list(record.overrides) == answered.arguments
    store = answered.records.parent / record.store
    assert set(record.folders) == set(record.artifacts)
    assert all((store / folder / "artifact.json").is_file() for folder in record.folders.values())
    assert {"statistics", "schedule", "samples", "samples_full_precision"} <= set(record.artifacts)
    assert (answered.records.parent / record.thumbnails).read_bytes().startswith(b"\x89PNG")
    rounding = {"device": "cpu", "threads": torch.get_num_threads(), "sample.batch_size": 2, "calibrate.batch_size": 2}
    assert record.versions.items() >= rounding.items()
    assert read(answered.records) == [record]


def test_the_same_question_is_answered_from_the_records(answered: Answered, runs: list[Components]) -> None:
    assert execute(*composed(answered.arguments)) == answered.record
    assert runs == []
    assert read(answered.records) == [answered.record]


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "budget.cache_interval=5",
        "budget.num_steps=20",
        "cost=residual",
        "correct@correct.cache=channel_affine",
        "correct@correct.output=ptqd",
        "quantize=minmax",
        "sample.num_images=6",
        "calibrate.num_samples=3",
        "metrics.fidelity.resamples=50",
        "latency.repeats=1",
        "model.guidance=2.0",
        "force=true",
    ],
)
def test_another_question_is_run(answered: Answered, runs: list[Components], override: str, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    copy_records(answered.records, records)
    with pytest.raises(RunError):
        execute(*composed([*answered.arguments, f"paths.records={records}", override]))
    assert len(runs) == 1


def test_other_bits_are_another_question(answered: Answered) -> None:
    ptq = [*answered.arguments, "quantize=ptq"]
    digests = {
        config_digest(composed([*ptq, f"budget.weight_bits={weight}", f"budget.act_bits={act}"])[0])
        for weight, act in ((8, 8), (4, 8), (8, 4))
    }
    assert len(digests) == 3


def test_the_question_is_named_by_all_groups_that_can_change_a_number(answered: Answered) -> None:
    config, _ = composed(answered.arguments)
    document: Any = OmegaConf.to_container(config, resolve=True)
    assert config_digest(config) == digest_of(ledger.question_of(document))[:20]
    assert "precision" not in ledger.question_of(document)["compute"]  # at its default
    elsewhere = {"row", "force", "fail_fast", "objective", "limit", "budget", "paths", "logger"}
    assert document.keys() - set(ledger.IDENTITY) == elsewhere
    others = (
        "sampler=plms", "predict=taylor1", "correct@correct.output=offset_only", "compute.dtype=bfloat16",
        "compute.compile=true", "engine=plain", "engine=compiled", "compute.precision=tf32", "baseline.num_steps=20",
    )  # fmt: skip
    digests = {config_digest(composed([*answered.arguments, override])[0]) for override in others}
    assert len({*digests, config_digest(config)}) == 1 + len(others)


def test_a_limit_of_memory_is_no_part_of_the_question(answered: Answered) -> None:
    config, _ = composed([*answered.arguments, "budget.max_memory=3"])
    assert find(known(answered.records), config, answered.record.model["weights_digest"]) == answered.record


def test_every_committed_record_is_found_by_its_configuration() -> None:
    """All by the groups alone; one a model of a table as a run asks, for files and code as committed count nothing."""
    records = [record for path in committed(ledger.REPOSITORY / "results") for record in read(path)]
    assert records
    for record in records:
        assert digest_of(ledger.question_of(record.config))[:20] == record.config_digest, record.experiment
    for record in {(record.table, record.choices["model"]): record for record in records}.values():
        assert config_digest(OmegaConf.create(dict(record.config))) == record.config_digest, record.experiment


def test_numbers_that_no_component_reads_are_no_part_of_the_question(answered: Answered) -> None:
    """Full precision is one question, whatever the bits and the interval of the grid it stands in."""
    full = [*answered.arguments[:-1], "experiment=table5/full_precision"]
    other = [*full, "budget.weight_bits=4", "budget.cache_interval=5"]
    assert config_digest(composed(full)[0]) == config_digest(composed(other)[0])


@pytest.mark.parametrize("override", ["row.label=other", "row.order=9", "logger=wandb", "paths.data=elsewhere"])
def test_labels_paths_and_logger_are_no_part_of_the_question(
    answered: Answered, runs: list[Components], override: str
) -> None:
    assert execute(*composed([*answered.arguments, override])) == answered.record
    assert runs == []


@pytest.mark.parametrize("place", ["records.jsonl", "runs_table5.jsonl"])
def test_a_row_of_another_table_answers_the_same_question_and_is_written_under_this_name(
    answered: Answered, runs: list[Components], tmp_path: Path, place: str
) -> None:
    """In one file for all tables, and in a file each."""
    copy_records(answered.records, tmp_path / place)
    row = "row={table: mine, name: twin, order: 7, label: a twin, paper: published}"
    here = tmp_path / place.replace("table5", "mine")
    arguments = [*answered.arguments, row, f"paths.records={here}", f"paths.tracking={tmp_path}/wandb"]
    twin = execute(*composed(arguments), arguments)
    assert runs == []
    assert read(here)[-1] == twin
    assert execute(*composed(arguments)) == twin
    assert (twin.experiment, twin.table, twin.row, twin.label) == ("mine/twin", "mine", 7, "a twin")
    assert (twin.paper_row, twin.config["row"]["name"], twin.seconds) == ("published", "twin", {})
    named = {"experiment", "table", "row", "label", "paper_row", "config", "seconds", "overrides"}
    for field in dataclasses.fields(RunRecord):
        assert (getattr(twin, field.name) == getattr(answered.record, field.name)) != (field.name in named), field.name
    with pytest.raises(RunError):
        execute(*composed([*arguments, "force=true"]))
    with pytest.raises(RunError):
        execute(*composed([*arguments, "seed=1"]))


def test_other_weights_are_another_question(answered: Answered) -> None:
    config, _ = composed(answered.arguments)
    weights = answered.record.model["weights_digest"]
    assert find(known(answered.records), config, weights) == answered.record
    assert find(known(answered.records), config, weights[::-1]) is None


def test_a_changed_schedule_file_is_another_question(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "schedule.json"
    arguments = quick(tiny_folder, tmp_path, "schedule=from_file", f"schedule.path={file}")

    def digest(refresh_calls: list[int]) -> str:
        file.write_text(json.dumps({"num_calls": 10, "refresh_calls": refresh_calls}))
        return config_digest(composed(arguments)[0])

    first = digest([0, 5])
    assert digest([0, 4]) != first
    assert digest([0, 5]) == first


def test_a_failed_run_is_recorded_and_run_again(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, choices = composed(quick(tiny_folder, tmp_path, "experiment=table5/full_precision"))

    def broken(*_: object) -> None:
        raise RuntimeError("the sampler broke")

    with monkeypatch.context() as patch:
        patch.setattr(cq.run.pipeline, "run", broken)
        with pytest.raises(RunError, match="full precision: the sampler broke") as caught:
            execute(config, choices)
    assert (caught.value.record.status, caught.value.mendable) == ("failed", False)
    assert caught.value.record.note == "RuntimeError: the sampler broke"
    good = execute(config, choices)
    assert read(tmp_path / "records.jsonl") == [caught.value.record, good]
    assert execute(config, choices) == good
    assert not (tmp_path / "store/samples").exists()  # the images of full precision are those of the baseline


def test_a_forced_run_gives_the_same_digests(answered: Answered, tmp_path: Path) -> None:
    fresh = [f"paths.records={tmp_path}/records.jsonl", f"paths.store={tmp_path}/store"]
    again = execute(*composed([*answered.arguments, *fresh, "force=true"]))
    assert again.images_digest == answered.record.images_digest
    assert {k: v for k, v in again.artifacts.items() if k != "timing"} == {
        k: v for k, v in answered.record.artifacts.items() if k != "timing"
    }


def test_a_strip_replaces_what_a_killed_writer_left(tmp_path: Path) -> None:
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    nothing = torch.zeros(0)
    samples = SampleSet(
        seeds=(0, 1, 2), images_NCHW=images, latents_NCHW=nothing, labels_N=nothing, trace_TNCHW=nothing
    )
    path = tmp_path / "thumbnails/strip.png"
    path.parent.mkdir()
    (path.parent / "strip.png.1.tmp").write_bytes(b"half")
    write_strip(samples, path)
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "strip.png"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clean git repository in the place of ours."""
    root = tmp_path / "repository"
    for folder in ("cq", "conf", "results"):
        (root / folder).mkdir(parents=True)
    (root / "cq/__init__.py").write_text("")
    (root / "cq/module.py").write_text("")
    (root / "conf/config.yaml").write_text("")
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    set_up(root, monkeypatch)
    return root


def set_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "PACKAGE", root / "cq")
    monkeypatch.setattr(ledger, "REPOSITORY", root)


def test_a_clean_tree_may_enter_results(repository: Path) -> None:
    (repository / "notes.md").write_text("changes elsewhere do not count")
    source = Source.now()
    assert source.clean
    assert len(source.commit) == 40
    check_committed(repository / "results/runs.jsonl", source)


@pytest.mark.parametrize("change", ["cq/module.py", "conf/config.yaml", "cq/new.py"])
def test_uncommitted_changes_may_not_enter_results(repository: Path, change: str) -> None:
    (repository / change).write_text("changed")
    source = Source.now()
    assert not source.clean
    check_committed(repository.parent / "records.jsonl", source)
    for records in ("results/runs.jsonl", "results/below/runs.jsonl", "cq/../results/runs.jsonl"):
        with pytest.raises(ValueError, match=r"paths.records=.*uncommitted changes.*Commit first"):
            check_committed(repository / records, source)


def test_code_outside_a_repository_may_not_enter_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up(tmp_path, monkeypatch)
    source = Source.now()
    assert source == Source("", False)
    with pytest.raises(ValueError, match="no git repository"):
        check_committed(tmp_path / "results/runs.jsonl", source)


def test_the_refusal_comes_before_the_run(
    repository: Path, answered: Answered, runs: list[Components], tiny_folder: Path
) -> None:
    (repository / "cq/module.py").write_text("changed")
    arguments = [*answered.arguments, f"paths.records={repository}/results/runs.jsonl"]
    config: DictConfig
    config, choices = composed(arguments)
    with pytest.raises(ValueError, match="uncommitted changes"):
        execute(config, choices)
    assert runs == []
    assert not (repository / "results/runs.jsonl").exists()


def test_a_folder_that_is_called_as_the_project_of_wandb_decides_nothing(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a checkout `cq` is one, whose bytecode changes from run to run: seeds were of other code by it."""
    (tmp_path / "cq").mkdir()
    (tmp_path / "cq/module.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    config, _ = composed(quick(tiny_folder, tmp_path, "logger=wandb"))
    assert config.logger.project == "cq"
    assert ledger._beside(config) == {}
