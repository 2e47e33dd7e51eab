"""What a run says of itself: at its beginning what it will do and about how long that takes, at its end what came out.

Lines fit a terminal of 120 columns, with the clock before them.
"""

import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cq.run.record import RunRecord

if TYPE_CHECKING:  # brings torch
    from cq.models.diffusion import DiffusionModel
    from cq.run.context import Run
    from cq.run.costs import CallSeconds
    from cq.run.outcome import RunOutcome

WIDTH = 120 - len("12:00:00 ")
TRIED = 0.5  # seconds that a timed call may take, and one of one image before it
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def begun(run: "Run") -> list[str]:
    """Where it runs, by which engine, and how much."""
    parts, computes = run.parts, run.origin["arithmetic"]
    which = f" ({computes['cpu']}, {computes['threads']} threads)" if computes["device"] == "cpu" else ""
    several = f", {run.store.processes.count} processes" if run.store.processes.count > 1 else ""
    engine = type(parts.engine).__name__ if parts.quantized or parts.is_own_engine else "Plain"
    compiled = ", compiled" if parts.compile else ""
    return _folded(
        f"{parts.sample.num_images} images of {run.num_calls} calls on {computes['device']}{which}{several}, "
        f"{parts.dtype}{compiled}, engine {engine}"
    )


def left(seconds: float, *, quantized: bool) -> list[str]:
    """About how long a run will take from where its model is loaded."""
    about = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    about = about if seconds < 7200 else f"{seconds / 3600:.1f} hours"
    fake = "; quantized ones assumed to take half as long again, as simulated ones do" if quantized else ""
    return _folded(f"about {about} for what is not in the store, by a few timed calls{fake}")


def calls_of(run: "Run", model: "DiffusionModel") -> "CallSeconds":
    """Timed at once, on the run's loaded model: calls of so many images that they take about half a second at most."""
    import torch

    from cq.run.costs import FAKE_FACTOR, CallSeconds

    reused = run.phases[0][1]

    def timed(count: int, reuse: Mapping[str, torch.Tensor]) -> tuple[float, Mapping[str, torch.Tensor]]:
        x_NCHW = torch.zeros(count, *run.parts.model.latent_shape, device=model.device)
        cond = model.condition(torch.zeros(count, dtype=torch.int64, device=model.device))
        started = time.perf_counter()
        out = model.denoiser(x_NCHW, call=0, timestep=torch.tensor(500), cond=cond, reuse=reuse)
        out.eps_NCHW.cpu()  # waits for a GPU
        return (time.perf_counter() - started) / count, out.features

    with torch.no_grad():
        one, _ = timed(1, {})
        batch = max(1, min(run.parts.sample.batch_size, run.parts.sample.num_images, int(TRIED / one)))
        full, features = timed(batch, {})
        cached, _ = timed(batch, {site: features[site] for site in reused})
    # The choice of ranges at a call takes about as long as calls of its images do; see FAKE_FACTOR, too.
    search = run.parts.quantizer.num_samples * full
    return CallSeconds(full=full, cached=cached, twin=FAKE_FACTOR * full, observed=FAKE_FACTOR * full, search=search)


def ended(made: RunRecord, outcome: "RunOutcome", others: Sequence[RunRecord], file: Path) -> list[str]:
    """Scores and costs beside those of the full-precision images, seconds, where everything is, and what comes next.

    others: records among which that of the very images may be that the run was compared with. file: of the record.
    """
    full = "samples_full_precision"
    alike = [each for each in others if each.status == "ok" and each.artifacts.get(full) == made.artifacts[full]]
    alike = [each for each in alike if "samples" not in each.artifacts]
    beside = alike[-1].scores if alike and "samples" in made.artifacts else {}
    scores = [f"{name} {score['value']:.4g}{_beside(name, beside)}" for name, score in made.scores.items()]
    counted = made.counted
    costs = [
        f"{_short(counted[key])} {what} a call" + _share(counted[key], counted["macs_full"], each)
        for key, what, each in (("macs_mean", "MACs", 1), ("bops_mean", "BOPs", 32 * 32))
        if counted.get(key)
    ]
    calls = f"{counted['num_refreshes']} of {counted['num_calls']} calls in full"
    images = made.folders.get("samples") or made.folders[full]
    took = sorted(made.seconds.items(), key=lambda item: -item[1])
    lines = [
        f"{made.label}, seed {made.seed}: {', '.join(scores) or 'no scores'}",
        f"counted: {', '.join([*costs, calls])}",
        _measured(made),
        f"took {_seconds(sum(made.seconds.values()))}: "
        + ", ".join(f"{stage} {_seconds(seconds)}" for stage, seconds in took[:4]),
    ]
    places = [  # whole, for they are copied
        f"images: {file.parent / made.store / images}",
        f"the first of them: {file.parent / made.thumbnails}",
        f"Acceleration, for cq.load(...).apply(pipe): {outcome.folder}",
        f"recorded in {file}",
        f"next: cq report page {made.images_digest[:8]} --records {file}",
    ]
    return [folded for line in lines if line for folded in _folded(line)] + places


def _beside(name: str, scores: Mapping[str, Mapping[str, float]]) -> str:
    """The score of the full-precision images, where it says something: they are not compared with themselves."""
    return f" (full precision {scores[name]['value']:.4g})" if name in scores and "_fp" not in name else ""


def _measured(made: RunRecord) -> str:
    if made.measured:
        speedup = made.measured.get("speedup")
        by = f"executed by {made.executed}, " if made.executed else ""
        return f"{by}measured: {made.measured['seconds_per_image']:.3g} s an image on {made.measured['device']}" + (
            f", {speedup:.2f} times as fast as full precision" if speedup else ""
        )
    if made.executed:
        return f"executed by {made.executed}: its bits; nothing was timed"
    return "simulated: its bits; fake quantization is never timed" if made.quantized else ""


def _share(cost: float, macs_full: float | None, each: int) -> str:
    return f" ({cost / (macs_full * each):.1%} of full precision's {_short(macs_full * each)})" if macs_full else ""


def _short(number: float) -> str:
    unit, letter = next(((unit, letter) for unit, letter in UNITS if abs(number) >= unit), (1.0, ""))
    return f"{number / unit:.4g} {letter}".rstrip()


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _folded(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
