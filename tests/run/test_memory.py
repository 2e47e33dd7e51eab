"""The memory planner: what it counts, what it chooses, what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from cq.cli.plan import main, plan_of
from cq.quantize.reconstruct import Reconstruct
from cq.run.components import Components
from cq.run.context import Run
from cq.run.costs import GIB, CallBytes
from cq.run.memory import call_bytes, changes, fitted, peak_bytes
from tests.tiny_runs import composed, quick

FOUND = CallBytes(
    base=GIB, weights=GIB // 64, image=GIB // 8, map=GIB // 64, decode=0, unit=0, units=0, columns=0, on_cpu=True
)


def parts_of(tiny_folder: Path, root: Path, *overrides: str) -> Components:
    return Components.of(composed(quick(tiny_folder, root, *overrides))[0])


def test_calls_are_counted_by_image_and_maps_by_their_size(tiny_folder: Path, tmp_path: Path) -> None:
    parts = parts_of(tiny_folder, tmp_path)
    model = Run(parts).model
    found = call_bytes(parts, model)
    assert found.map == 2 * 8 * 8 * 8 * 4  # both halves of guidance, 8 channels at the cut, 8 x 8, float32
    assert found.image > found.map
    assert found.decode > 32 * 32 * 4
    assert found.base > 2**25
    assert 2 * 8 * 8 * 8 * 4 < found.unit < found.units  # a ResNet at the first resolution and what it is handed


def test_what_fits_is_left_alone_and_what_does_not_is_halved(tiny_folder: Path, tmp_path: Path) -> None:
    parts = parts_of(tiny_folder, tmp_path, "schedule=dps", "sample.num_images=16", "sample.batch_size=16")
    assert fitted(parts, FOUND) == parts
    large = fitted(replace(parts, max_memory=5.5), FOUND)
    assert changes(parts, large) == {}
    small = fitted(replace(parts, max_memory=1.6), FOUND)
    assert changes(parts, small) == {"sample.batch_size": 2, "calibrate.batch_size": 1}
    assert max(peak_bytes(Run(small), FOUND).values()) <= 1.6 * GIB


def test_on_a_gpu_the_ring_is_moved_before_the_batch_shrinks(tiny_folder: Path, tmp_path: Path) -> None:
    parts = replace(parts_of(tiny_folder, tmp_path, "schedule=dps"), max_memory=1.5)
    chosen = fitted(parts, replace(FOUND, on_cpu=False))
    assert chosen.offload
    assert changes(parts, chosen) == {}


def test_what_reconstruction_holds_is_counted_and_its_passes_start_again_before_the_batch_shrinks(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Beside the base, the twin and a batch: three copies of the states, or a unit's data twice, and waiting maps."""
    overrides = ("quantize=reconstruct", "quantize.num_states=64", "schedule=uniform")
    parts = parts_of(tiny_folder, tmp_path, *overrides)
    found = replace(FOUND, on_cpu=False, image=GIB // 2**16, map=0, unit=GIB // 512, units=GIB // 256)
    state = 4 * 4 * 8 * 8
    reconstruct = parts.quantizer
    assert isinstance(reconstruct, Reconstruct)

    def held(wait: bool | None) -> int:
        peaks = peak_bytes(Run(replace(parts, quantizer=replace(reconstruct, wait=wait))), found)
        return peaks["rounding"] - found.base - found.weights - reconstruct.batch_size * found.image

    assert held(wait=False) == 64 * (state + 2 * found.unit)
    assert held(wait=True) == 64 * (state + 2 * found.unit + 2 * found.image) == held(wait=None)
    found = replace(found, image=GIB // 128)
    assert held(wait=True) == 64 * (state + 2 * found.unit + 2 * found.units)
    found = replace(found, image=GIB // 1024)
    needed = found.base + found.weights + reconstruct.batch_size * found.image + held(wait=False)
    small = fitted(replace(parts, max_memory=(needed + 1) / GIB), found)
    assert changes(parts, small) == {"quantize.wait": False}
    small = fitted(replace(parts, max_memory=(needed - 1) / GIB), found)
    assert changes(parts, small).keys() == {"quantize.wait", "quantize.base.batch_size"}
    with pytest.raises(ValueError, match=r"rounding needs about .* or take a smaller quantize\.num_states\."):
        fitted(replace(parts, max_memory=1.2), found)


def test_what_compensated_rounding_holds_is_counted(tiny_folder: Path, tmp_path: Path) -> None:
    """While states are drawn, three copies; then one of them, and of one layer moments and solutions, in float64."""
    parts = parts_of(tiny_folder, tmp_path, "quantize=gptq", "quantize.wait=false", "schedule=uniform")
    found = replace(FOUND, on_cpu=False, image=GIB // 2**16, map=0)
    state = 4 * 4 * 8 * 8
    before = found.base + found.weights + parts.quantizer.batch_size * found.image
    assert peak_bytes(Run(parts), found)["rounding"] - before == 96 * 3 * state
    large = replace(found, columns=3000)
    assert peak_bytes(Run(parts), large)["rounding"] - before == 96 * state + 5 * 8 * 3000**2


def test_a_run_that_cannot_fit_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    parts = replace(parts_of(tiny_folder, tmp_path, "schedule=dps"), max_memory=1.01)
    with pytest.raises(ValueError, match=r"budget\.max_memory=1\.01: .*at its smallest batch\. Set budget\.max_memory"):
        fitted(parts, FOUND)


def test_a_plan_says_images_calls_hours_memory_and_disk(tiny_folder: Path, tmp_path: Path) -> None:
    parts = parts_of(tiny_folder, tmp_path, "schedule=uniform")
    plan = plan_of(parts)
    assert (plan.images, plan.network_calls, plan.disk) == (4, 10, parts.disk_bytes)
    assert sum(plan.seconds.values()) > 0
    for word in ("4 images", "10 network calls,", "hours", "GiB (evaluation)", "on disk"):
        assert word in str(plan)


def test_the_command_says_the_plan_or_refuses(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = quick(tiny_folder, tmp_path, "schedule=uniform")
    assert main(arguments) == 0
    assert "4 images of 10 network calls" in capsys.readouterr().out
    assert main([*arguments, "budget.max_memory=0.01"]) == 2
    assert "budget.max_memory=0.01: " in capsys.readouterr().err
    assert main(["--nothing"]) == 2
    assert "usage: " in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: What a run will cost")
    assert main([*arguments, "budget.max_memory=-1"]) == 2
    assert "budget.max_memory=-1.0: must be above 0" in capsys.readouterr().err
