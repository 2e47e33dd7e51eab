"""The laws of metrics."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.core.contracts import Metric, NamesScores
from cq.evaluate.classifier import Classifier
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, NoBaselineError, Score
from cq.evaluate.reference import ReferenceStatistics
from cq.laws.law import Make, Untried, World, hold

COUNT = 150  # above the 128 spatial features, so that covariances are whole


@dataclass(frozen=True)
class Judge:
    """A feature network of random weights, and the reference that consists of the very images under test."""

    features: str
    reference: str
    samples: SampleSet


@cache
def judge(folder: Path) -> Judge:
    """Written into that folder."""
    features, reference = folder / "features", folder / "reference"
    reference.mkdir()
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Classifier(width=4, blocks=1).save_pretrained(features)
    coarse = torch.rand(COUNT, 1, 8, 8, generator=generator) * torch.rand(COUNT, 1, 1, 1, generator=generator)
    images = (torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear") * 255).round().byte()
    network = FeatureNetwork.load(str(features))
    found = network.extract(images, batch_size=50)
    ReferenceStatistics.of(found, data_set="these", network=network.digest, subset_size=COUNT, seed=0).save(reference)
    latents = torch.randn(COUNT, 4, 4, 4, generator=generator)
    samples = SampleSet(
        seeds=tuple(range(COUNT)), images_NCHW=images, latents_NCHW=latents, labels_N=torch.arange(COUNT) % 10,
        trace_TNCHW=torch.stack([2 * latents, latents]),
    )  # fmt: skip
    return Judge(str(features), str(reference), samples)


def metric_of(make: Make, world: World) -> Metric:
    """The metric, with the files of the judge in the place of those that it names."""
    judged = judge(world.folder)
    made: Metric = make(
        data=str(world.folder / "data"), features=judged.features, reference=judged.reference, batch_size=50,
        resamples=40,
    )  # fmt: skip
    return made


def scores(make: Make, world: World, samples: SampleSet, baseline: SampleSet | None) -> Mapping[str, Score]:
    """What the metric finds; Untried where it needs what is not on this machine."""
    context = EvaluationContext(
        samples=samples, baseline=baseline, sampling={"steps": 10}, captions=("a coat",) * len(samples.images_NCHW)
    )
    try:
        found: Mapping[str, Score] = metric_of(make, world).compute(context)
    except MetricUnavailable as error:
        raise Untried(str(error)) from error
    return found


def shuffled(samples: SampleSet, order_N: Tensor) -> SampleSet:
    """The same images in another order."""
    return SampleSet(
        seeds=tuple(samples.seeds[int(i)] for i in order_N), images_NCHW=samples.images_NCHW[order_N],
        latents_NCHW=samples.latents_NCHW[order_N], labels_N=samples.labels_N[order_N],
        trace_TNCHW=samples.trace_TNCHW[:, order_N],
    )  # fmt: skip


def spoilt(samples: SampleSet) -> SampleSet:
    """The same set, every image and latent under noise."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(-90, 91, samples.images_NCHW.shape, generator=generator)
    return replace(
        samples,
        images_NCHW=(samples.images_NCHW.int() + noise).clamp(0, 255).byte(),
        latents_NCHW=samples.latents_NCHW + torch.randn(samples.latents_NCHW.shape, generator=generator),
    )


def the_order_of_images_does_not_matter(make: Make, world: World) -> None:
    theirs = judge(world.folder).samples
    ours = spoilt(theirs)
    order_N = torch.randperm(COUNT, generator=torch.Generator().manual_seed(2))
    found = scores(make, world, ours, theirs)
    again = scores(make, world, shuffled(ours, order_N), shuffled(theirs, order_N))
    hold(found, "compute returns no score. Return a mapping of at least one name to a Score.")
    hold(
        found.keys() == again.keys(),
        f"names {set(again)} instead of {set(found)} when shuffled. Name what is measured.",
    )
    for key, score in found.items():
        same = math.isclose(again[key].value, score.value, rel_tol=1e-4, abs_tol=1e-6)  # batches round differently
        hold(
            same, f"{key}={score.value:.6g}, and {again[key].value:.6g} in another order. Seed what it draws by image."
        )
        same = again[key].fingerprint == score.fingerprint
        hold(same, f"{key}: its protocol changes with the order. State only what decides whether scores compare.")


def a_score_is_finite_within_its_interval_and_json(make: Make, world: World) -> None:
    theirs = judge(world.folder).samples
    for key, score in scores(make, world, spoilt(theirs), theirs).items():
        low, high = (score.value if end is None else end for end in (score.low, score.high))
        inside = math.isfinite(score.value) and low <= score.value <= high
        hold(inside, f"{key}={score.value}: not in its interval {score.low}..{score.high}. Give None for no interval.")
        told = json.loads(json.dumps(score.as_json(), allow_nan=False))["protocol"]
        stated = (told.get("metric"), told.get("num_images"), told.get("steps")) == (key, COUNT, 10)
        hold(stated, f"{key}: its protocol says {told}. Make it by context.protocol({key!r}, details).")


def it_says_before_which_scores_it_has(make: Make, world: World) -> None:
    theirs = judge(world.folder).samples
    metric = metric_of(make, world)
    if not isinstance(metric, NamesScores):
        raise Untried("it has no `better`, so no search can aim at its scores")
    said = dict(metric.better)
    found = {key: score.better for key, score in scores(make, world, theirs, theirs).items()}
    hold(found == said, f"better={said}, and compute returns {found}. Let them agree.")


def the_sets_are_left_as_they_are(make: Make, world: World) -> None:
    theirs = judge(world.folder).samples
    ours = spoilt(theirs)
    before = ours.digest, theirs.digest
    scores(make, world, ours, theirs)
    hold((ours.digest, theirs.digest) == before, "compute changes the images or latents. Work on copies.")


def what_compares_with_full_precision_finds_spoilt_images_worse(make: Make, world: World) -> None:
    theirs = judge(world.folder).samples
    try:
        scores(make, world, theirs, None)
    except NoBaselineError:
        same, worse = scores(make, world, theirs, theirs), scores(make, world, spoilt(theirs), theirs)
        for key, score in same.items():
            good = (worse[key].value < score.value) == (score.better == "up") and worse[key].value != score.value
            told = f"{key}={score.value:.4g} of equal images, {worse[key].value:.4g} of spoilt ones"
            hold(good, f"{told}, and better={score.better!r}. Turn `better` or the sign.")
        return
    raise Untried("compares with nothing")


METRIC = (
    the_order_of_images_does_not_matter, a_score_is_finite_within_its_interval_and_json,
    it_says_before_which_scores_it_has, the_sets_are_left_as_they_are,
    what_compares_with_full_precision_finds_spoilt_images_worse,
)  # fmt: skip
