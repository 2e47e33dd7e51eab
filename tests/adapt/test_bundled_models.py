"""Bundles of the bundled models: saved, loaded elsewhere, applied to stock pipelines, refused where they must be."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import cq
from cq.core.artifacts import DOCUMENT, PAGE, TENSORS
from cq.engine.int8 import Int8
from cq.engine.kernels import weight_bits
from cq.engine.plain import Plain
from tests.adapt.conftest import EXECUTED, NO_NETWORK, QUANTIZED, UNCORRECTED, Bundles
from tests.adapt.stock import MODELS, STEPS, images, stock


def test_a_new_process_draws_cqs_very_images_with_every_bundle(bundles: Bundles) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapt.stock", str(bundles.root)], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    drawn = load_file(bundles.root / "drawn.safetensors")
    assert set(drawn) == {*MODELS, QUANTIZED, *NO_NETWORK, UNCORRECTED}
    for name, pixels in drawn.items():
        off = (pixels.int() - bundles.images[name].int()).abs()
        # A pipeline guides what is corrected, cq corrects what is guided: the same sum, in another order of rounding.
        # That showed on one model and with AVX2 alone; everything else is equal, and anywhere without a correction.
        seen = name.startswith("sd_mini") and name != UNCORRECTED
        few = 12 if seen and torch.backends.cpu.get_cpu_capability() == "AVX2" else 0
        assert int(off.count_nonzero()) <= few, name
        assert int(off.max()) <= min(1, few), name
    assert "simulated" in done.stderr


@pytest.mark.parametrize("name", [*MODELS, QUANTIZED])
def test_a_pipeline_is_bit_for_bit_its_own_when_the_acceleration_is_removed(name: str, bundles: Bundles) -> None:
    drawing = stock(name.partition("-")[0])
    network = getattr(drawing.pipeline, "unet", None) or drawing.pipeline.transformer
    before, modules = images(drawing), list(network.modules())
    with cq.load(bundles.root / name).apply(drawing.pipeline):
        assert "forward" in network.__dict__
        assert not torch.equal(images(drawing), before)
        assert list(network.modules()) == modules
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in modules)
    assert "forward" not in network.__dict__
    assert torch.equal(images(drawing), before)


@pytest.mark.parametrize("name", [*MODELS, QUANTIZED])
def test_generations_in_a_row_are_fresh_ones_whatever_was_aborted_in_between(
    name: str, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawing, made = stock(name.partition("-")[0]), cq.load(bundles.root / name)

    def drawn(numbers: range) -> Tensor:
        pixels: Tensor = drawing.draw(numbers, [torch.Generator().manual_seed(100 + i) for i in numbers])
        return pixels

    def aborted(error: BaseException) -> None:
        step, taken = drawing.pipeline.scheduler.step, []

        def stops(*args: Any, **kwargs: Any) -> Any:
            taken.append(1)
            if len(taken) == 3:
                raise error
            return step(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(drawing.pipeline.scheduler, "step", stops)
            with pytest.raises(type(error)):
                drawn(range(4, 6))

    asked = [range(2), range(2, 3), range(5, 8), range(1, 2), range(2)]
    fresh = []
    for numbers in asked:
        with made.apply(drawing.pipeline):
            fresh.append(drawn(numbers))
    with made.apply(drawing.pipeline):
        in_a_row = []
        for numbers, error in zip(asked, (None, KeyboardInterrupt(), None, RuntimeError("broken"), None), strict=True):
            if error is not None:
                aborted(error)
            in_a_row.append(drawn(numbers))
    assert all(map(torch.equal, in_a_row, fresh))


def test_an_engine_that_cannot_execute_it_is_refused(bundles: Bundles) -> None:
    with pytest.raises(ValueError, match="engine=plain: runs nothing quantized"):
        cq.load(bundles.root / QUANTIZED).apply(stock("dit_mini").pipeline, engine=Plain(compile=False))


@pytest.mark.skipif(not weight_bits(), reason="integers are not multiplied exactly here")
def test_integers_draw_cqs_very_images(bundles: Bundles) -> None:
    drawing, made = stock("dit_mini"), cq.load(bundles.root / QUANTIZED)
    before = images(drawing)
    for engine in ("int8", Int8()):
        with made.apply(drawing.pipeline, engine=engine):
            assert torch.equal(images(drawing), bundles.images[EXECUTED])
    assert not torch.equal(bundles.images[EXECUTED], bundles.images[QUANTIZED])
    assert torch.equal(images(drawing), before)
    drawing.pipeline.transformer.to(memory_format=torch.channels_last)
    with made.apply(drawing.pipeline, engine="int8"):
        far = images(drawing).float() - bundles.images[EXECUTED].float()
        assert far.abs().mean() < 2  # of 255: some codes flip where sums are in another order


@pytest.mark.parametrize("engine", ["simulate", *["int8"] * bool(weight_bits())])
def test_what_is_not_quantized_is_held_once(engine: str, bundles: Bundles) -> None:
    pipe = stock("dit_mini").pipeline
    applied: Any = cq.load(bundles.root / QUANTIZED).apply(pipe, engine=engine)
    held = {each.data_ptr() for each in pipe.transformer.parameters()}
    lowered = dict(applied._denoiser.denoiser.network.backbone.named_parameters())
    assert lowered
    assert {each.data_ptr() for each in lowered.values()} <= held


def test_an_engine_that_is_not_there_is_refused(bundles: Bundles) -> None:
    with pytest.raises(ValueError, match=r"engine='int9'.*Did you mean 'int8'.*int8, plain, simulate"):
        cq.load(bundles.root / QUANTIZED).apply(stock("dit_mini").pipeline, engine="int9")


@pytest.mark.parametrize("name", ["sd_mini", QUANTIZED])
def test_the_folder_that_a_run_leaves_is_a_bundle(name: str, bundles: Bundles) -> None:
    left = cq.load(bundles.store[name])
    assert {"key.json", "seconds.json"} < {path.name for path in bundles.store[name].iterdir()}
    assert left.digest == cq.load(bundles.root / name).digest


@pytest.mark.parametrize("file", [DOCUMENT, TENSORS, PAGE])
@pytest.mark.parametrize("name", ["sd_mini", QUANTIZED])
def test_one_byte_changed_anywhere_is_refused(name: str, file: str, bundles: Bundles, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundles.root / name, folder)
    content = (folder / file).read_bytes()
    lines = [place for place, byte in enumerate(content) if byte == 10]
    for place in (0, 9, len(content) // 3, len(content) // 2, len(content) - 2, len(content) - 1, *lines[:1]):
        for other in {content[place] ^ 1, 13} - {content[place]}:  # 13: what some readers of text take for a line's end
            (folder / file).write_bytes(content[:place] + bytes([other]) + content[place + 1 :])
            with pytest.raises(ValueError, match="Name the folder that save"):
                cq.load(folder)
    (folder / file).write_bytes(content + b"\n")
    with pytest.raises(ValueError, match=r"changed or damaged|cannot be read"):
        cq.load(folder)
    (folder / file).write_bytes(content)
    cq.load(folder)


@pytest.mark.parametrize("file", [DOCUMENT, TENSORS, PAGE])
def test_a_folder_without_one_of_its_files_is_refused(file: str, bundles: Bundles, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundles.root / "sd_mini", folder)
    (folder / file).unlink()
    with pytest.raises(ValueError, match=r"holds no whole Acceleration|cannot be read|changed or damaged"):
        cq.load(folder)


def test_a_folder_of_another_kind_is_refused_by_its_name(bundles: Bundles) -> None:
    schedules = bundles.store["sd_mini"].parents[1] / "schedule"
    with pytest.raises(ValueError, match="it is a CacheSchedule of schema 1, not a Acceleration"):
        cq.load(next(path for path in schedules.iterdir() if path.is_dir()))
    with pytest.raises(ValueError, match="holds no whole Acceleration"):
        cq.load("nowhere")


def test_nothing_else_is_written_over(bundles: Bundles, tmp_path: Path) -> None:
    made = cq.load(bundles.root / "dit_mini")
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match="Name an empty folder"):
        made.save(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    made.save(tmp_path / "new")
    cq.load(bundles.root / "sd_mini").save(tmp_path / "new")  # over another one
    assert cq.load(tmp_path / "new").identity == cq.load(bundles.root / "sd_mini").identity


@pytest.mark.parametrize(
    ("name", "other"), [("ldm_mini", "sd_mini"), ("sd_mini", "dit_mini"), ("ldm_uncond_mini", "ddpm_mini")]
)
def test_another_models_bundle_is_refused(name: str, other: str, bundles: Bundles) -> None:
    drawing = stock(other)
    with pytest.raises(ValueError, match=r"make one with cq\.accelerate"):
        cq.load(bundles.root / name).apply(drawing.pipeline)
    network = getattr(drawing.pipeline, "unet", None) or drawing.pipeline.transformer
    assert "forward" not in network.__dict__


@pytest.mark.parametrize("model", MODELS)
def test_another_number_of_steps_is_refused(model: str, bundles: Bundles) -> None:
    drawing = stock(model, steps=STEPS + 1)
    cq.load(bundles.root / model).apply(drawing.pipeline)
    with pytest.raises(ValueError, match=f"num_inference_steps={STEPS + 1}: this Acceleration is for {STEPS} steps"):
        images(drawing)
