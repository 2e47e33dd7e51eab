"""The bench: what is asked, in which order it is timed, what becomes of the times, and what is never timed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from cq.bench.jobs import RAW, Job, found, jobs_of, measured
from cq.bench.onednn import PackedConv2d, PackedLinear, pack_layers
from cq.bench.parts import KINDS, kind_of, kind_of_module, shares
from cq.bench.rows import documents, fastest, rows_of
from cq.bench.scenario import CAPS, names, read_scenario, read_way
from cq.bench.subject import Subject, fill, subject_of
from cq.bench.timing import Seconds, interleaved
from cq.bench.ways import Ready, ready, settings_of
from cq.bench.weigh import counted, held_bytes, layers_in_float, stored_bytes
from cq.core.acceleration import Acceleration, every_call
from cq.core.denoiser import DenoiserOutput
from cq.core.store import Store
from cq.models.architecture import architecture
from cq.report.bench_figure import PAPER, speedup_figure
from cq.report.bench_page import bench_page
from tests.tiny import tiny_conditional_unet

TINY = replace(read_scenario("tiny"), ways=("eager", "int8"), paper={"2": 2.72})


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of(TINY, settings_of(TINY, read_way("eager")))


@pytest.fixture(scope="module")
def both(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ready]:
    store = Store(tmp_path_factory.mktemp("store"))
    return {name: ready(TINY, read_way(name), subject, settings_of(TINY, read_way(name)), store) for name in TINY.ways}


def test_every_scenario_and_way_can_be_read_and_names_an_architecture_that_there_is() -> None:
    assert {"ldm_imagenet256", "sd_v1_4", "dit_xl2_256", "dit_mini", "tiny"} <= set(names())
    for name in names():
        scenario = read_scenario(name)
        assert scenario.architecture is None or architecture(scenario.architecture)
        assert any(read_way(way).baseline and read_way(way).layers == "onednn" for way in scenario.ways)
        assert set(scenario.paper) <= set(map(str, scenario.intervals))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ways": ("int8", "eager")}, "the first must be 'eager'"),
        ({"intervals": (4,)}, "timed_steps=2"),
        ({"intervals": (1,)}, "from 2"),
        ({"threads": ()}, "at least one value"),
    ],
)
def test_a_scenario_that_compares_nothing_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(TINY, **change)


def test_a_scenario_of_another_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'tiny'\? Choose from .*ldm_imagenet256"):
        read_scenario("tinny")


@pytest.mark.parametrize(
    "layer", [nn.Linear(12, 5), nn.Linear(12, 5, bias=False), nn.Conv2d(8, 6, 3, stride=2, padding=1, groups=2)]
)
def test_a_packed_layer_is_the_layer(layer: nn.Module) -> None:
    packed: nn.Module = PackedLinear(layer) if isinstance(layer, nn.Linear) else PackedConv2d(layer)  # type: ignore[arg-type]
    shapes = [(2, 3, 12), (7, 12)] if isinstance(layer, nn.Linear) else [(2, 8, 9, 9), (1, 8, 4, 5)]
    with torch.no_grad():
        for shape in shapes:
            x = torch.randn(shape)
            torch.testing.assert_close(packed(x), layer(x))


def test_a_whole_network_on_packed_layers_predicts_what_it_predicted() -> None:
    unet: Any = tiny_conditional_unet()
    x, cond = torch.randn(2, unet.config.in_channels, 8, 8), torch.randn(2, 1, unet.config.cross_attention_dim)
    with torch.no_grad():
        before = unet(x, torch.tensor(3), cond).sample
        pack_layers(unet)
        after = unet(x, torch.tensor(3), cond).sample
    assert not [module for module in unet.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_random_weights_keep_the_size_of_what_goes_through() -> None:
    layer = nn.Linear(300, 200).requires_grad_(False)
    fill(layer)
    assert torch.equal(layer.bias, torch.ones(200))
    assert float(layer.weight.abs().max()) <= 300**-0.5
    assert float(layer.weight.std()) == pytest.approx((3 * 300) ** -0.5, rel=0.02)


class Ticking:
    """A denoiser that takes as long as it is told, on a clock of its own."""

    def __init__(self, full: float, cached: float, now: list[float], order: list[str], name: str) -> None:
        self.full, self.cached, self.now, self.order, self.name = full, cached, now, order, name
        self.sites = ("site",)

    def __call__(self, x_NCHW: Tensor, *, reuse: Mapping[str, Tensor], **_: Any) -> DenoiserOutput:
        self.now[0] += self.cached if reuse else self.full
        self.order.append(self.name)
        return DenoiserOutput(torch.zeros_like(x_NCHW), {} if reuse else {"site": x_NCHW})


def test_ways_take_turns_and_a_warm_up_is_not_counted(subject: Subject, both: Mapping[str, Ready]) -> None:
    now, order = [0.0], list[str]()
    acceleration = replace(both["eager"].acceleration, cache=both["eager"].acceleration.output)
    ways = {
        "slow": Ready(denoiser=Ticking(8, 2, now, order, "slow"), acceleration=acceleration),
        "fast": Ready(denoiser=Ticking(3, 1, now, order, "fast"), acceleration=acceleration),
    }
    seconds = interleaved(
        ways, subject, steps=2, rounds={"slow": 1, "fast": 2}, said=lambda text: None, clock=lambda: now[0]
    )
    assert order == ["slow", "slow", "fast", "fast"] * 2 + ["fast", "fast"]
    assert seconds["slow"] == Seconds(full=(8.0,), cached=(2.0,), trajectory=(10.0,))
    assert seconds["fast"] == Seconds(full=(3.0, 3.0), cached=(1.0, 1.0), trajectory=(4.0, 4.0))


def test_a_trajectory_is_composed_of_medians_and_of_what_the_loop_adds() -> None:
    seconds = Seconds(full=(4.0, 5.0, 9.0), cached=(1.0, 1.0, 3.0), trajectory=(6.0, 7.0, 13.0))
    beside = (26 - 18 - 5) / 6
    assert seconds.composed(10, 2) == pytest.approx(2 * 5 + 8 * 1 + 10 * beside)
    assert seconds.bounds(10, 2) == pytest.approx((2 * 4 + 8 * 1 + 10 * beside, 2 * 9 + 8 * 3 + 10 * beside))


def test_a_simulation_is_never_timed(subject: Subject, tmp_path: Path) -> None:
    way = replace(read_way("int8"), settings=("engine=simulate", "quantize=minmax"))
    with pytest.raises(ValueError, match="a simulation is never timed"):
        ready(TINY, way, subject, settings_of(TINY, way), Store(tmp_path))


def test_weights_have_the_bits_that_are_multiplied_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cq.bench.ways.weight_bits", lambda: 7)
    config = settings_of(TINY, read_way("int8"))
    assert (config.quantize.weight_bits, config.quantize.edge_bits, config.quantize.act_bits) == (7, 7, 8)


def test_a_way_executes_what_a_whole_calibration_would(both: Mapping[str, Ready]) -> None:
    acceleration = both["int8"].acceleration
    assert {len(t) for name, t in acceleration.params.tensors.items() if "input" in name} == {acceleration.num_calls}
    assert acceleration.cache.tables
    assert acceleration.quant.tables
    assert both["eager"].acceleration.params.bits == {}


def test_shares_of_a_call_are_by_kind_and_leave_no_hook(subject: Subject, both: Mapping[str, Ready]) -> None:
    whole: Any = both["int8"].denoiser
    backbone = whole.network.backbone
    with torch.no_grad():
        found = shares(whole, lambda: subject.call(whole))
    assert set(found) == set(KINDS)
    assert min(found[kind] for kind in ("product", "quantize", "norm", "attention", "activation")) > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


@pytest.mark.parametrize(
    ("operator", "module", "kind"),
    [
        ("onednn::qlinear_pointwise", "engine", "product"),
        ("aten::round_", "engine", "quantize"),
        ("part:engine", "", "quantize"),
        ("aten::mkldnn_convolution", "product", "product"),
        ("aten::bmm", "attention", "attention"),
        ("aten::silu", "", "activation"),
        ("aten::cat", "", "other"),
    ],
)
def test_an_operator_is_of_the_kind_of_what_it_runs_in(operator: str, module: str, kind: str) -> None:
    assert kind_of(operator, module) == kind


def test_modules_say_their_kind() -> None:
    modules = {nn.Linear(2, 2): "product", nn.GroupNorm(1, 2): "norm", nn.SiLU(): "activation", nn.Sequential(): ""}
    assert {kind_of_module(module) for module in modules} == set(modules.values())
    assert all(kind_of_module(module) == kind for module, kind in modules.items())


def test_bytes_are_of_codes_and_of_what_stays_in_float(subject: Subject, both: Mapping[str, Ready]) -> None:
    acceleration = both["int8"].acceleration
    state = subject.denoiser.network.backbone.state_dict()
    coded = {f"{row['name']}.weight" for row in acceleration.params.coverage if not row["reason"]}
    tables = [*acceleration.params.tensors.values(), *acceleration.cache.tables.values()]
    tables += acceleration.quant.tables.values()
    by_hand = sum(v.numel() * (1 if name in coded else 4) for name, v in state.items()) + sum(t.nbytes for t in tables)
    assert stored_bytes(subject.denoiser, acceleration) == by_hand
    network: Any = both["int8"].denoiser
    assert held_bytes(network.network.backbone) < 0.6 * held_bytes(subject.denoiser.network.backbone)
    reasons = {layer["reason"] for layer in layers_in_float(subject.denoiser, acceleration)}
    assert "quantize.attention=false" in reasons


def test_a_true_architecture_is_counted_without_a_number_in_it() -> None:
    scenario = read_scenario("dit_xl2_256")
    empty = subject_of(scenario, settings_of(scenario, read_way("eager")), empty=True)
    assert empty.denoiser.network.backbone.proj_out_2.weight.is_meta
    cost = counted(scenario, empty, Acceleration(schedule=every_call(1)))
    assert cost[1]["macs_mean"] == pytest.approx(114.3e9, rel=0.05)  # as published: 118.6 Gflops, of products alone
    assert cost[2]["macs_mean"] < 0.6 * cost[1]["macs_mean"]


def job(**change: Any) -> Job:
    first = next(jobs_of("tiny", TINY))
    return replace(first, **change)


def test_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        started.append(command)
        Path(command[-2]).write_text(command[-1])
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr("subprocess.run", run)
    jobs = list(jobs_of("tiny", TINY))
    measured(jobs, tmp_path, store=tmp_path, seconds={each.file: 1.0 for each in jobs})
    assert [found(each, tmp_path) is not None for each in jobs] == [True] * 3
    assert len(started) == 3
    assert found(replace(jobs[0], scenario=replace(TINY, rounds=7)), tmp_path) is None
    assert found(replace(jobs[0], scenario=replace(TINY, title="in other words")), tmp_path) is not None


def test_what_was_measured_before_an_edit_of_the_scenario_has_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / RAW).mkdir()
    for job in jobs_of("tiny", TINY):
        about = {"kind": job.kind, "threads": job.threads, "cap": job.cap, "ways": job.ways, "question": job.question}
        (tmp_path / RAW / job.file).write_text(json.dumps(about))
    monkeypatch.setattr("cq.bench.rows.read_scenario", lambda _: TINY)
    timed, weighed = documents(tmp_path, "tiny")
    assert (len(timed), len(weighed)) == (1, 2)
    monkeypatch.setattr("cq.bench.rows.read_scenario", lambda _: replace(TINY, rounds=7))
    assert documents(tmp_path, "tiny") == ([], {})
    assert "before its scenario or a way of it was edited" in caplog.text


def test_a_process_without_a_result_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: type("Done", (), {"returncode": -9}))
    with pytest.raises(ValueError, match=r"tiny.native-1.json: its process ended with -9"):
        measured([job()], tmp_path, store=tmp_path, seconds={job().file: 1.0})


def test_a_process_has_its_threads_and_its_cap_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert "ONEDNN_MAX_CPU_ISA" not in job().environment
    capped = job(cap="avx2", threads=2).environment
    assert capped["OMP_NUM_THREADS"] == "2"
    assert CAPS["avx2"].items() <= capped.items()


def cell(**seconds: dict[str, list[float]]) -> dict[str, Any]:
    machine = {"processor": "a processor", "instruction_sets": "avx2", "torch": "2", "exact_weight_bits": 8}
    bits = {name: "W8A8" if name.startswith("int8") else "fp32" for name in seconds}
    parts = {name: {"full": dict.fromkeys(KINDS, 1.0), "cached": dict.fromkeys(KINDS, 0.5)} for name in seconds}
    return {
        "scenario": "tiny", "kind": "time", "threads": 1, "cap": "native", "num_calls": 10, "seconds": seconds,
        "bits": bits, "parts": parts, "machine": machine, "date": "2026-11-27",
    }  # fmt: skip


def weight(way: str, size: float) -> dict[str, Any]:
    keys = ("weights_disk", "weights_memory", "peak_serving")
    cost = {"macs_mean": 8.0, "bops_mean": 64.0}
    halved = {"macs_mean": 4.0, "bops_mean": 8.0}
    layers = [{"name": "conv_in", "kind": "conv", "reason": "too small"}] if way == "int8" else []
    return {
        "scenario": "tiny", "ways": [way], "layers": layers, "counted": {"1": cost, "2": halved},
        **{f"{key}_bytes": size * 2**20 for key in keys},
    }  # fmt: skip


EAGER = {"full": [4.0], "cached": [1.0], "trajectory": [5.0]}
PACKED = {"full": [2.0], "cached": [1.0], "trajectory": [3.0]}
INT8 = {"full": [0.5, 0.5], "cached": [0.1, 0.1], "trajectory": [0.6, 0.6]}


def made_rows() -> list[dict[str, Any]]:
    weights = {"eager": weight("eager", 40), "int8": weight("int8", 10)}
    return list(rows_of("tiny", TINY, [cell(eager=EAGER, onednn=PACKED, int8=INT8)], weights))


def test_speed_ups_are_over_both_uncached_baselines() -> None:
    rows = {(row["way"], row["interval"]): row for row in made_rows()}
    assert rows["eager", 1]["speedup_over_eager"] == pytest.approx(1.0)
    assert rows["int8", 2]["composed_trajectory_s"] == pytest.approx(5 * 0.5 + 5 * 0.1)
    assert rows["int8", 2]["speedup_over_eager"] == pytest.approx(40 / 3)
    assert rows["int8", 2]["speedup_over_best_fp32"] == pytest.approx(20 / 3)
    assert rows["int8", 2]["best_fp32"] == "onednn"
    assert rows["int8", 2]["paper_gpu_speedup"] == 2.72
    assert rows["eager", 2]["paper_gpu_speedup"] == ""
    assert rows["int8", 2]["counted_bops_ratio"] == 8.0
    assert rows["onednn", 2]["weights_disk_mib"] == ""


def test_what_is_no_baseline_is_not_the_best_full_precision() -> None:
    ways = {"eager": read_way("eager"), "int8": read_way("int8")}
    seconds = {name: Seconds(**{k: tuple(v) for k, v in each.items()}) for name, each in
               {"eager": EAGER, "int8": INT8}.items()}  # fmt: skip
    assert fastest(ways, seconds, 10) == "eager"


def test_the_figure_names_the_papers_mark_and_both_baselines() -> None:
    figure = speedup_figure(made_rows())
    (legend,) = figure.legends
    said = [text.get_text() for text in legend.get_texts()]
    assert len(said) == 3
    assert PAPER in said
    bars = sorted(patch.get_width() for patch in figure.axes[0].patches if isinstance(patch, Rectangle))
    assert bars[-1] == pytest.approx(40 / 3)


def test_the_page_says_times_memory_shares_and_what_stays_in_float() -> None:
    without_profile = {**cell(eager=EAGER, int8=INT8), "threads": 2, "parts": False}
    cells = [cell(eager=EAGER, int8=INT8), without_profile]
    page = bench_page(made_rows(), cells, [weight("eager", 40), weight("int8", 10)])
    for said in ("13.33 [13.33, 13.33]", "10 MiB (25% of eager)", "too small", "conv_in", "a processor", "17%"):
        assert said in page


@pytest.mark.parametrize("command", [["tiny", "--plan"], ["nothing", "--plan"]])
def test_the_command_plans_and_starts_nothing(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cq.cli.bench import main

    never: Callable[..., Any] = lambda *_, **__: pytest.fail("a process was started")  # noqa: E731
    monkeypatch.setattr("subprocess.run", never)
    status = main([*command, "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    if command[0] == "tiny":
        assert status == 0
        assert "3 measurements of 3 are missing" in said.out
    else:
        assert status == 2
        assert "there is no" in said.err
    assert not (tmp_path / "out").exists()


def test_the_worker_writes_what_a_row_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cq.bench import worker

    monkeypatch.setattr(worker, "read_scenario", lambda name: TINY)
    asked = {"scenario": "tiny", "ways": list(TINY.ways), "threads": torch.get_num_threads(), "cap": "native",
             "store": str(tmp_path / "store"), "date": "2026-11-27", "question": ""}  # fmt: skip
    for kind, ways in (("time", TINY.ways), ("weigh", ("eager",)), ("weigh", ("int8",))):
        path = tmp_path / f"{kind}-{ways[0]}.json"
        worker.main([str(path), json.dumps({**asked, "kind": kind, "ways": ways, "parts": False})])
    timed, eager, int8 = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("time-eager", "weigh-eager", "weigh-int8")
    )
    assert str(tmp_path) not in json.dumps([timed, eager, int8]), "a result names a folder of the machine"
    rows = list(rows_of("tiny", TINY, [timed], {"eager": eager, "int8": int8}))
    assert [(row["way"], row["interval"]) for row in rows] == [("eager", 1), ("eager", 2), ("int8", 1), ("int8", 2)]
    assert all(row["full_call_s_median"] > 0 for row in rows)
    assert rows[-1]["weights_disk_mib"] < 0.6 * rows[0]["weights_disk_mib"]
    assert rows[-1]["counted_bops_ratio"] > rows[1]["counted_bops_ratio"] > 1
