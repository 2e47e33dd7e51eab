"""`cq.accelerate`: calibrate a pipeline that is in memory, with the stages, choices and store of the command line."""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from cq.adapt.acceleration import Acceleration
from cq.adapt.in_memory import PipelineModel, PipelineSampler
from cq.adapt.networks import inferring
from cq.run.components import Components
from cq.run.compose import composed, composing
from cq.run.context import Run
from cq.run.costs import CallSeconds
from cq.run.explain import explain
from cq.run.memory import within_budget
from cq.run.pipeline import PARTS, accelerated
from cq.run.stages.sketches import Sketches
from cq.run.stages.statistics import Statistics
from cq.run.unread import unread

log = logging.getLogger(__name__)

FEW = (  # trajectories, for a network of usual size
    "calibrate.num_samples=16", "calibrate.batch_size=4", "calibrate.max_interval=${budget.cache_interval}",
)  # fmt: skip
PLAIN = ("schedule=dps", "correct@correct.cache=channel_affine")  # without a recipe: the cache alone
UNJUDGED = ("evaluate=none", "latency=none", "logger=none")  # no image is drawn
READ = ("cache", "predict", "calibrate", "cost", "schedule", "correct", "quantize", "budget")
NAMES = {  # of configuration keys that are arguments here
    "budget.num_steps": "num_inference_steps", "budget.cache_interval": "cache_interval",
    "model.guidance": "guidance_scale", "model.site": "site", "paths.store": "store", "seed": "seed",
    "recipe": "recipe",
}  # fmt: skip


def accelerate(
    pipe: Any, *, num_inference_steps: int = 50, cache_interval: int = 5, prompts: Sequence[str] | None = None,
    classes: Sequence[int] | None = None, guidance_scale: float | None = None, site: str | None = None,
    recipe: str | None = None, overrides: Sequence[str] = (), store: str | Path = "runs/accelerate", seed: int = 0,
) -> Acceleration:  # fmt: skip
    """Calibrate an Acceleration of a stock pipeline; `apply` puts it on this pipeline, or on any of the same model.

    pipe: of diffusers, loaded or built by you, on its device and in its number type; it stays as it is. Its scheduler,
    which must be deterministic, is the one that is calibrated for. num_inference_steps: as the pipeline is called.
    cache_interval: calls of which one runs the whole network. prompts: to calibrate on, for text-to-image; classes: for
    a DiT, all unless given. guidance_scale: the pipeline's default unless given. site: where the network is cut; the
    usual place unless given. recipe: a file of conf/recipe, as "best"; without one, the cache alone in full precision.
    overrides: choices of the command line, `quantize=ptq` or `calibrate.num_samples=64`.
    store: finished work; the same call goes on from there after a kill. seed: of the calibration's noise.
    Raises ValueError, before anything is computed, for what cannot work.
    """
    try:
        model = PipelineModel.of(pipe, prompts=prompts, classes=classes, guidance_scale=guidance_scale, site=site)
        sampler = PipelineSampler.of(pipe.scheduler)
        _check_read(overrides)
        dtype = str(model.network.dtype).removeprefix("torch.")
        budget = (f"budget.num_steps={num_inference_steps}", f"budget.cache_interval={cache_interval}")
        choices = PLAIN if recipe is None else (f"recipe={recipe}",)
        chosen = [*FEW, *choices, *UNJUDGED, *budget, f"compute.dtype={dtype}", f"seed={seed}", *overrides]
        with composing():
            config, _ = composed(chosen)
        folder = Path(store).expanduser()
        config.paths.store, config.paths.tracking = str(folder), str(folder / "tracking")
        config.paths.records = str(folder / "records.jsonl")
        parts = Components.of(config, model=model, sampler=sampler)
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        message = explain(error)
        for key, name in NAMES.items():
            message = message.replace(key, name)
        raise ValueError(message) from error
    for said in unread(config, parts, overrides).values():
        log.warning("%s", said)
    with inferring(model.network.parameters()):
        run = Run(within_budget(parts))
        with _progress(run):
            return Acceleration.of(accelerated(run))


def _check_read(overrides: Sequence[str]) -> None:
    """Raise ValueError for an override of what the pipeline or an argument decides, or nothing here reads."""
    if isinstance(overrides, str):
        raise ValueError(f"overrides={overrides!r}: is a text, and must be a list of them. Pass [{overrides!r}].")
    for override in overrides:
        key = override.lstrip("+~").partition("=")[0]
        name = next((name for long, name in NAMES.items() if key == long), None)
        if name is not None:
            raise ValueError(f"overrides: {override} is an argument of cq.accelerate. Pass {name}=... instead.")
        if re.split(r"[.@]", key)[0] not in READ:
            raise ValueError(
                f"overrides: {override} decides nothing here, for the pipeline has its own model and scheduler, and no "
                f"image is drawn. Overrides are of {', '.join(READ)}."
            )


@contextmanager
def _progress(run: Run) -> Iterator[None]:
    """Say what will be done and how long that takes, by one timed call, and show every full call of the network."""
    backbone = run.model.denoiser.network.backbone
    seconds = _call_seconds(run)
    calls = CallSeconds(full=seconds, cached=seconds, twin=seconds, observed=seconds)
    total = sum(step.seconds(calls) for step in (make(run) for make in (Statistics, Sketches, *PARTS)) if step.needed)
    calibrate = run.parts.calibrate
    log.info(
        "calibrating on %d trajectories of %d calls, about %.1f minutes%s; what is finished is kept in %s",
        calibrate.num_samples, run.num_calls, total / 60, ", and the search for ranges" if run.parts.quantized else "",
        run.store.root,
    )  # fmt: skip
    alone = Statistics(run).needed and not (Sketches(run).needed or run.parts.quantized)
    known = calibrate.num_batches * run.num_calls if alone else None
    with tqdm(desc=f"calibrating, about {total / 60:.1f} min", total=known, unit="call", mininterval=1.0) as bar:
        handle = backbone.register_forward_pre_hook(lambda *_: bar.update() and None)
        try:
            yield
        finally:
            handle.remove()


@torch.no_grad()
def _call_seconds(run: Run) -> float:
    """Of a full call of one image, which has run once before."""
    model = run.model
    x_NCHW = torch.zeros(1, *run.parts.model.latent_shape, device=model.device)
    cond = model.condition(torch.zeros(1, dtype=torch.int64, device=model.device))
    started = time.perf_counter()
    model.denoiser(x_NCHW, call=0, timestep=torch.tensor(500), cond=cond, reuse={}).eps_NCHW.cpu()
    return time.perf_counter() - started
