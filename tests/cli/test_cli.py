"""The command line: what cannot work is refused at once, in one line that says what to do, and changes nothing."""

import json
import logging
import os
import resource
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from cq.cli.run import expand_globs, main
from cq.run.record_file import read
from tests.refusals import DPS, OF_A_TRANSFORMER, OF_TWO_PARTS, PTQ
from tests.tiny_runs import quick

SD = ("model=sd_mini", "model.weights=zoo:sd_mini")

# arguments, then what the message must hold: key and value, the rule, the remedy
REFUSED = {
    "unknown key": (["budget.num_step=3"], ["budget.num_step=3", "no key", "Did you mean 'num_steps'", "weight_bits"]),
    "unknown key of a component": (["schedule.intervall=3", DPS], ["schedule.intervall=3", "Did you mean 'interval'"]),
    "appended key": (["+schedule.intervall=3", DPS], ["schedule.intervall", "unknown", "takes interval, num_groups"]),
    "unknown group": (["modle=ldm_mini"], ["modle=ldm_mini", "no key", "Did you mean 'model'"]),
    "unknown group of rows": (["experimnt=table5/quant"], ["no key 'experimnt'", "Did you mean 'experiment'"]),
    "unknown model": (["model=ldm_mani"], ["model=ldm_mani", "no such choice", "Did you mean 'ldm_mini'"]),
    "a group that is null": (["model=null"], ["a group is set to something that is no choice", "GROUP=NAME"]),
    "a path with signs": (["model.weights=a=(b)"], ["model.weights=a=(b)", "cannot be read", "into quotes twice"]),
    "another sampler by its name": (["baseline.sampler=plms"], ["baseline.sampler=plms", "+sampler@baseline.sampler="]),
    "an exponent of huge powers": (["schedule=power", "schedule.exponent=0.001"], ["schedule.exponent=0.001"]),
    "unknown experiment": (["experiment=table5/dps"], ["experiment=table5/dps", "Choose from: ", "table5/quant_dps"]),
    "wrong type of a number": (["budget.num_steps=abc"], ["budget.num_steps=abc", "Integer", "Give a value"]),
    "wrong type in a component": (["sample.num_images=abc"], ["sample.num_images='abc'", "must be int", "Give a"]),
    "fraction for an integer": (["sample.num_images=2.5"], ["sample.num_images=2.5", "must be int"]),
    "number for a switch": (["quantize.per_call=3", PTQ], ["quantize.per_call=3", "must be bool"]),
    "unreadable argument": (["sample.classes=[12"], ["sample.classes=[12", "cannot be read", "quote"]),
    "N larger than T": (
        ["budget.cache_interval=11", "schedule=uniform"],
        ["budget.cache_interval=11", "1..budget.num_steps=10", "Lower"],
    ),
    "no steps": (["budget.num_steps=0"], ["budget.num_steps=0", "at least 1"]),
    "steps that do not start in the noise": (
        ["budget.num_steps=300"],
        ["budget.num_steps=300", "starts at timestep 898", "Choose from"],
    ),
    "too many groups": (
        ["schedule.num_groups=11", DPS],
        ["schedule.num_groups=11", "10 calls do not split", "Set schedule.num_groups between 3 and 10"],
    ),
    "too few groups": (["schedule.num_groups=2", DPS], ["schedule.num_groups=2", "between 3 and 10"]),
    "no number of groups": (["schedule.min_group=9", DPS], ["schedule.num_groups=5", "lower schedule.min_group"]),
    "1 bit": (["budget.weight_bits=1", PTQ], ["budget.weight_bits=1", "2..16", "quantize=none"]),
    "17 bits": (["budget.act_bits=17", PTQ], ["budget.act_bits=17", "2..16", "quantize=none"]),
    "17 bits, set directly": (["quantize.edge_bits=17", PTQ], ["quantize.edge_bits=17", "2..16"]),
    "observer out of range": (
        ["quantize.act_observer.power=0", PTQ],
        ["quantize.act_observer.power=0", "positive", "2.4 is usual"],
    ),
    "missing weights": (["model.weights=/nowhere"], ["model.weights='/nowhere'", "no folder", "zoo:NAME"]),
    "incomplete weights": (["model.weights=."], ["model.weights='.'", "no unet", "with unet, vae, scheduler"]),
    "unknown packaged weights": (["model.weights=zoo:nope"], ["zoo:nope", "no folder", "The package holds clip_judge"]),
    "unknown class": (["sample.classes=[12]"], ["sample.classes=[12]", "class 12 is unknown", "10 classes, 0 to 9"]),
    "no schedule file named": (["schedule=from_file"], ["schedule.path", "no value", "schedule.path=..."]),
    "no such schedule file": (["schedule=from_file", "schedule.path=no.json"], ["schedule.path=no.json", "Give an"]),
    "schedule of other steps": (
        ["schedule=from_file", "schedule.path=other_steps.json"],
        ["schedule.path=other_steps.json", "made for 20 calls, but this run has 10", "Set budget.num_steps"],
    ),
    "store that is a file": (["paths.store=a_file"], ["paths.store=a_file", "cannot be written", "Choose another"]),
    "store below a file": (["paths.store=a_file/x"], ["paths.store=a_file/x", "cannot be written", "Choose another"]),
    "records below a file": (["paths.records=a_file/x"], ["paths.records=a_file", "cannot be written", "Choose"]),
    "records that are a folder": (["paths.records=."], ["paths.records=.", "is a folder", "records.jsonl"]),
    "tracking below a file": (["paths.tracking=a_file/x"], ["paths.tracking=a_file/x", "cannot be written"]),
    "Hydra's folder below a file": (["hydra.run.dir=a_file/x"], ["a_file/x", "Not a directory", "another place"]),
    "seed out of range": (["seed=-1"], ["seed=-1", "must lie in"]),
    "unknown logger mode": (["logger=wandb", "logger.mode=onlin"], ["logger.mode='onlin'", "online or offline or"]),
    "component of another package": (["cost._target_=os.system"], ["cost._target_='os.system'", "cq.allow=os"]),
    "no such component": (["cost._target_=cq.cost.l1.L2"], ["cost._target_='cq.cost.l1.L2'", "no such component"]),
    "unknown key at the top": (["+sampels.num_images=5"], ["sampels={'num_images': 5}", "no key", "mean 'sample'"]),
    "unknown key of a section": (["+budget.num_step=5"], ["budget.num_step=5", "no key", "mean 'num_steps'"]),
    "model that is a sampler": (["model._target_=cq.sampler.ddim.DDIM"], ["model=cq.sampler.ddim.DDIM", "is no Model"]),
    "planner that is a cost": (["schedule._target_=cq.cost.l1.L1"], ["is no SchedulePlanner", "has no 'check'"]),
    "predictor that is a cache": (["predict._target_=cq.cache.cut.CutPoint"], ["is no Predictor", "has no 'depth'"]),
    "calibration that is a sample": (["calibrate._target_=cq.sample.generate.Sample"], ["is no Calibrate"]),
    "group of nothing": (["metrics=null"], ["metrics=None", "names no component", "evaluate=..."]),
    "guidance that is no number": (["model.guidance=nan"], ["model.guidance=nan", "finite"]),
    "more memory than a number": (["budget.max_memory=inf"], ["budget.max_memory=inf", "finite"]),
    "more iterations than would end": (
        ["quantize=reconstruct", "quantize.iterations=1000000000"],
        ["quantize.iterations=1000000000", "at most 1000000", "1000 is usual"],
    ),
    "no name": (["row.name=''"], ["row.name=''", "must not be empty"]),
    "name of two lines": (['row.name="a\\nb"'], ["row.name=", "one plain name"]),
    "name that is a path": (["row.name=../x"], ["row.name='../x'", "one plain name", "row.label"]),
    "interval of nothing that nobody reads": (["budget.cache_interval=0"], ["budget.cache_interval=0", "1..budget"]),
    "nothing to quantize": (["quantize.exclude=['*']", PTQ], ["quantize.exclude=['*']", "no layer", "quantize=none"]),
    "layer excluded twice": (["quantize.exclude=[conv_in,conv_in]", PTQ], ["quantize.exclude=", "'conv_in' twice"]),
    "schedule without end": (["schedule=from_file", "schedule.path=/dev/zero"], ["/dev/zero", "no regular file"]),
    "records that are a device": (["paths.records=/dev/null"], ["paths.records=/dev/null", "no regular file"]),
    "store that is the tracking": (["paths.store=x", "paths.tracking=x"], ["paths.tracking=", "is paths.store, too"]),
    "judge without its weights": (
        ["evaluate=clip", *SD],
        ["metrics.clip_scores=ClipScores", "needs the weights of ViT-L-14", "Download https://", "'~metrics.clip_sco"],
    ),
    "captions of a model without": (["evaluate=text_to_image"], ["metrics.clip_score_own", "Choose a text-to-image"]),
    "device that is not here": (
        ["+metric@metrics.clip_score_own=clip_score_own", *SD, "metrics.clip_score_own.device=cdua"],
        ["metrics.clip_score_own.device='cdua'", "is not here", "cpu"],
    ),
    **OF_TWO_PARTS,
    "glob of nothing": (["experiment=glob(table9/*)", "-m"], ["experiment=glob(table9/*)", "no row", "table5"]),
    "number that some rows alone have": (
        ["experiment=glob(table5/*)", "quantize.batch_size=16", "-m"],
        ["quantize.batch_size=16: there is no key", "cq-table table5", "quantize.batch_size=16"],
    ),
}  # fmt: skip


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; Hydra's logging and settings are taken back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield tmp_path
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers, root.level = handlers, level


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    """The exit status of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["cq", *arguments])
    try:
        return main()
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_key_value_rule_and_remedy(
    case: str, cwd: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, told = REFUSED[case]
    (cwd / "a_file").write_text("")
    (cwd / "other_steps.json").write_text('{"num_calls": 20, "refresh_calls": [0, 10]}')
    # nothing may run: a refusal comes before the first stage
    monkeypatch.setattr("cq.run.pipeline.run", lambda *_: pytest.fail("a run was started"))
    assert run(monkeypatch, quick(tiny_folder, cwd, *arguments)) == 2
    message = capsys.readouterr().err
    assert message.startswith("cq: ")
    assert message.count("\n") == 1
    for part in told:
        assert part in message
    assert not (cwd / "records.jsonl").exists()


@pytest.mark.parametrize("case", OF_A_TRANSFORMER)
def test_what_a_transformer_cannot_honour_is_refused_before_it_is_loaded(
    case: str, cwd: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments, told = OF_A_TRANSFORMER[case]
    monkeypatch.setattr("cq.run.pipeline.run", lambda *_: pytest.fail("a run was started"))
    assert run(monkeypatch, quick(tiny_folders["dit"], cwd, "model=dit_mini", *arguments)) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    for part in told:
        assert part in message


def test_a_disk_that_is_too_full_is_refused(
    cwd: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("cq.core.store.shutil.disk_usage", lambda _: usage(2**30, 2**30 - 2**20, 2**20))
    assert run(monkeypatch, quick(tiny_folder, cwd)) == 2
    message = capsys.readouterr().err
    assert "paths.store=" in message
    assert "1 MiB are free" in message
    assert "Make room" in message


def flip_one_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("stage", ["schedule", "samples"])
def test_a_corrupted_artefact_is_refused_and_named_and_its_removal_mends_the_run(
    stage: str, cwd: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = quick(tiny_folder, cwd, "experiment=table5/cache_uniform")
    assert run(monkeypatch, arguments) == 0
    (folder,) = (path for path in (cwd / "store" / stage).iterdir() if path.is_dir())
    flip_one_byte(folder / ("tensors.safetensors" if stage == "samples" else "artifact.json"))
    (first,) = read(cwd / "records.jsonl")
    (cwd / "records.jsonl").unlink()  # so that the question is asked again
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("cq.models.latent.LatentDiffusion.load", lambda _: pytest.fail("the model was loaded"))
        assert run(patch, arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith("cq: ")
    assert message.count("\n") == 1
    assert f"Delete {folder}" in message
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert run(monkeypatch, arguments) == 0
    failed, mended = read(cwd / "records.jsonl")
    assert (first.status, failed.status, mended.status) == ("ok", "failed", "ok")
    assert mended.images_digest == first.images_digest


def test_a_sweep_goes_on_after_a_job_that_fails_and_says_so_at_the_end(
    cwd: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cq.sample import generate

    original = generate.generate
    broken_calls: list[str] = []

    def broken(*args: object, **options: object) -> object:
        if options["describe"] == "samples" and not broken_calls:
            broken_calls.append("samples")
            raise RuntimeError("the first sampling broke")
        return original(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("cq.run.stages.samples.generate", broken)
    assert run(monkeypatch, quick(tiny_folder, cwd, "experiment=glob(table5/cache_*)", "-m")) == 1
    told = capsys.readouterr()
    assert "the first sampling broke" in told.err
    assert "Traceback" in told.err  # only we can mend a RuntimeError
    failed, good = read(cwd / "records.jsonl")
    assert (failed.experiment, failed.status, failed.note) == (
        "table5/cache_dps", "failed", "RuntimeError: the first sampling broke",
    )  # fmt: skip
    assert (good.experiment, good.status) == ("table5/cache_uniform", "ok")


def test_a_sweep_with_a_refused_job_runs_the_others(
    cwd: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = quick(tiny_folder, cwd, "experiment=table5/full_precision", "sample.classes=[12],[3]", "-m")
    assert run(monkeypatch, arguments) == 2
    assert "class 12 is unknown" in capsys.readouterr().err
    (record,) = read(cwd / "records.jsonl")
    assert record.config["sample"]["classes"] == [3]


def test_a_stop_by_the_keyboard_is_one_line_and_no_record(
    cwd: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cq.run.pipeline.run", stopped)
    assert run(monkeypatch, quick(tiny_folder, cwd)) == 130
    assert capsys.readouterr().err == "cq: stopped. The same command goes on from here.\n"
    assert not (cwd / "records.jsonl").exists()


def test_a_glob_names_every_row_of_a_table() -> None:
    (argument,) = expand_globs(["experiment=glob(table5/quant_dps*)"])
    assert argument == "experiment=table5/quant_dps,table5/quant_dps_dec,table5/quant_dps_dec_cache"
    assert expand_globs(["-m", "seed=0,1", "model=glob(*)"]) == ["-m", "seed=0,1", "model=glob(*)"]


# What a user's terminal sees: true processes.

QUICKLY = (
    "unknown key", "missing weights", "schedule of other steps", "statistics too narrow for the planner",
    "statistics too narrow for the correction", "layer to exclude that is none",
)  # fmt: skip


def command(cwd: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A finished `python -m cq` without a terminal, and the CPU seconds it took (the wall's on an idle machine)."""
    return python(cwd, "-m", "cq", *arguments)


def python(cwd: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.fixture(scope="module")
def five_seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """In CPU time, on a machine that imports PyTorch in two; a slower one gets more in proportion."""
    importing = min(python(tmp_path_factory.mktemp("import"), "-c", "import torch")[1] for _ in range(2))
    return 5 * max(1.0, importing / 2)


@pytest.mark.parametrize("case", QUICKLY)
def test_a_refusal_costs_less_than_five_seconds_and_shows_no_traceback(
    case: str, tmp_path: Path, tiny_folder: Path, five_seconds: float
) -> None:
    arguments, told = REFUSED[case]
    (tmp_path / "other_steps.json").write_text(json.dumps({"num_calls": 20, "refresh_calls": [0, 10]}))
    done, seconds = command(tmp_path, *quick(tiny_folder, tmp_path, *arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("cq: ")
    assert done.stderr.count("\n") == 1
    assert all(part in done.stderr for part in told)
    assert seconds < five_seconds


def test_a_refusal_of_a_damaged_store_costs_less_than_five_seconds(
    cwd: Path, tiny_folder: Path, five_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = quick(tiny_folder, cwd, "experiment=table5/full_precision")
    assert run(monkeypatch, arguments) == 0
    (folder,) = (path for path in (cwd / "store/samples_full_precision").iterdir() if path.is_dir())
    flip_one_byte(folder / "tensors.safetensors")
    (cwd / "records.jsonl").unlink()
    done, seconds = command(cwd, *arguments)
    assert done.returncode == 1
    assert f"Delete {folder}" in done.stderr
    assert "Traceback" not in done.stderr
    assert seconds < five_seconds


def test_what_needs_no_tensor_is_checked_without_torch(tmp_path: Path, tiny_folder: Path) -> None:
    program = (
        "import sys\n"
        "from cq.run.components import Components\n"
        "from tests.tiny_runs import composed\n"
        "try:\n"
        "    Components.of(composed(sys.argv[1:])[0])\n"
        "except ValueError as error:\n"
        "    print(error, 'torch' in sys.modules)\n"
    )
    arguments = quick(tiny_folder, tmp_path, "sample.classes=[12]")
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert "class 12 is unknown" in done.stdout
    assert done.stdout.endswith("False\n")
