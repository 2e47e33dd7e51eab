"""Seeds to images: each from its own seed, in any batches, and on from where a killed run stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule, SampleSet
from cq.core.denoise import denoise
from cq.core.denoiser import DenoiserOutput
from cq.core.seeding import drawn_labels, initial_noise
from cq.models.diffusion import DiffusionModel
from cq.models.latent import LatentDiffusion
from cq.sample.generate import Sample, generate

CALLS = 4
ACCELERATION = Acceleration(schedule=CacheSchedule(num_calls=CALLS, refresh_calls=(0, 2), planner="test", interval=2))
SAMPLE = Sample(num_images=5, batch_size=2, num_steps=CALLS, labels="balanced", classes=None, trace=3)
SEEDS = (10, 11, 12, 13, 14, 15, 16)


@pytest.fixture(scope="module")
def model(tiny: LatentDiffusion) -> DiffusionModel:
    return tiny.load()


class StoppedError(Exception):
    """What stops a run in these tests."""


def drawn(model: DiffusionModel, shards: Path, sample: Sample = SAMPLE, *, stop_after: int | None = None) -> SampleSet:
    shards.mkdir(exist_ok=True)
    calls = 0

    class Stopping:
        """Passes calls on until those of `stop_after` batches are done."""

        sites = model.denoiser.sites

        def __call__(self, x_NCHW: Tensor, **rest: Any) -> DenoiserOutput:
            nonlocal calls
            if stop_after is not None and calls == stop_after * CALLS:
                raise StoppedError
            calls += 1
            return model.denoiser(x_NCHW, **rest)

    return generate(
        model, Stopping(), sample=sample, seeds=SEEDS[: sample.num_images], acceleration=ACCELERATION, shards=shards,
        describe="test",
    )  # fmt: skip


def test_images_latents_and_traces_are_those_of_the_loop(model: DiffusionModel, tmp_path: Path) -> None:
    found = drawn(model, tmp_path)
    states: list[Tensor] = []
    for first, last in ((0, 2), (2, 4), (4, 5)):
        labels = torch.arange(first, last)
        steps = denoise(
            model.denoiser, model.noise_scheduler(CALLS), initial_noise(SEEDS[first:last], (4, 8, 8)),
            cond=model.condition(labels), acceleration=ACCELERATION,
        )  # fmt: skip
        states.append(torch.stack([step.x_NCHW for step in steps]))
        assert torch.equal(found.images_NCHW[first:last], model.decode(states[-1][-1]))
    whole = torch.cat(states, dim=1)
    assert torch.equal(found.latents_NCHW, whole[-1])
    assert torch.equal(found.trace_TNCHW, whole[:, :3])
    assert found.seeds == SEEDS[:5]
    assert found.labels_N.tolist() == [0, 1, 2, 3, 4]
    assert found.images_NCHW.dtype == torch.uint8
    assert found.images_NCHW.shape == (5, 1, 32, 32)


@pytest.mark.parametrize("batches", [1, 2])
def test_a_run_that_was_stopped_goes_on_and_ends_bit_identical(
    model: DiffusionModel, tmp_path: Path, batches: int
) -> None:
    with pytest.raises(StoppedError):
        drawn(model, tmp_path / "stopped", stop_after=batches)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").iterdir()}
    assert len(kept) == batches
    resumed = drawn(model, tmp_path / "stopped")
    assert resumed.digest == drawn(model, tmp_path / "whole").digest
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())  # finished batches are not drawn again


def test_a_shard_that_was_damaged_between_kill_and_resume_is_drawn_again(
    model: DiffusionModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The flipped byte lies in the images or latents, where the file still parses."""
    with pytest.raises(StoppedError):
        drawn(model, tmp_path / "stopped", stop_after=2)
    damaged, intact = sorted((tmp_path / "stopped").iterdir())
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    then = intact.stat().st_mtime_ns
    resumed = drawn(model, tmp_path / "stopped")
    assert resumed.digest == drawn(model, tmp_path / "whole").digest
    assert f"{damaged}: this shard is damaged" in caplog.text
    assert damaged.read_bytes() == (tmp_path / "whole" / damaged.name).read_bytes()
    assert intact.stat().st_mtime_ns == then
    assert str(intact) not in caplog.text


def test_the_batch_size_changes_rounding_only(model: DiffusionModel, tmp_path: Path) -> None:
    seven = replace(SAMPLE, num_images=7)
    small, large = (drawn(model, tmp_path / str(n), replace(seven, batch_size=n)) for n in (1, 7))
    # other batch sizes take other float32 kernels; latents reach 40
    assert_close(small.latents_NCHW, large.latents_NCHW, rtol=1e-4, atol=1e-4)
    assert_close(small.trace_TNCHW, large.trace_TNCHW, rtol=1e-4, atol=1e-4)
    assert (small.images_NCHW.int() - large.images_NCHW.int()).abs().max() <= 1  # a tie may round the other way


def test_without_a_trace_none_is_kept(model: DiffusionModel, tmp_path: Path) -> None:
    found = drawn(model, tmp_path, replace(SAMPLE, trace=0, num_images=2))
    assert found.trace_TNCHW.shape == (CALLS, 0, 4, 8, 8)


def test_balanced_labels_go_round_the_chosen_classes_and_drawn_ones_follow_each_seed() -> None:
    seeds = tuple(range(7))
    assert SAMPLE.labels_for(seeds, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert replace(SAMPLE, classes=(5, 2)).labels_for(seeds, 10).tolist() == [5, 2, 5, 2, 5, 2, 5]
    chosen = replace(SAMPLE, labels="drawn", classes=(5, 2))
    assert torch.equal(chosen.labels_for(seeds, 10), drawn_labels(seeds, (5, 2)))
    assert SAMPLE.labels_for(seeds, 0).tolist() == [-1] * 7


def test_impossible_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sample\.num_images=0"):
        replace(SAMPLE, num_images=0)
    with pytest.raises(ValueError, match=r"sample\.batch_size=0"):
        replace(SAMPLE, batch_size=0)
    with pytest.raises(ValueError, match=r"sample\.trace=-1"):
        replace(SAMPLE, trace=-1)
    replace(SAMPLE, classes=(0, 9)).check(10)
    with pytest.raises(ValueError, match=r"sample\.classes=\[\].*null for all"):
        replace(SAMPLE, classes=())
    replace(SAMPLE, classes=None).check(0)
    with pytest.raises(ValueError, match=r"sample\.classes=\[1\]: this model is unconditional.*classes=null"):
        replace(SAMPLE, classes=(1,)).check(0)
    for classes in ((10,), (-1,)):
        with pytest.raises(ValueError, match="this model has 10 classes, 0 to 9"):
            replace(SAMPLE, classes=classes).check(10)
