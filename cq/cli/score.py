"""Score images made elsewhere: `cq-score IMAGES protocol=imagenet256_50k [overrides]`.

IMAGES is a folder of image files, or an npz file with `arr_0`. What was drawn how is taken on trust; count, size and
doubles are checked, and the scores go to IMAGES.PROTOCOL.json; with `evaluate=none` the images are checked only. They
are taken in the order of their numbers, or else names: the Inception score of guided-diffusion depends on it, so do not
sort them by class. Where the protocol has prompts, image i is of prompt i, and names must number the images.

With `--reference OUT.npz` the images are a data set, and its reference batch is written instead.
"""

import argparse
import json
import logging
import os
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from cq.cli.commands import ended
from cq.core import contracts
from cq.core.store import write_atomically
from cq.evaluate.paper_protocol import NoProtocol
from cq.run.building import build
from cq.run.compose import composed, composing
from cq.run.config import check_top
from cq.run.own import allowing
from cq.run.preflight import check_files, check_metrics, check_names
from cq.run.unread import beyond

log = logging.getLogger("cq.cli.score")

READ = ("metrics", "protocol")  # of the configuration
KEPT = 10_000  # images of a reference batch, as in ADM's
KEPT_SEED = 0


def score(images: Path, config: DictConfig) -> dict[str, Any]:
    """Every score of `config` that needs no full-precision images, as JSON by name.

    Raises ValueError where the images are not those of the protocol, or no metric of several has a score of them.
    """
    import torch

    from cq.core.artifacts import SampleSet
    from cq.evaluate.image_files import EXACT, LOSSY, check_numbered, list_images
    from cq.evaluate.image_pixels import read_images, read_npz
    from cq.evaluate.protocol import EvaluationContext, MetricUnavailable, NoBaselineError

    protocol: NoProtocol = build(config.protocol, "protocol", NoProtocol)
    metrics = {name: build(node, f"metrics.{name}", contracts.Metric) for name, node in config.metrics.items()}
    for name, metric in metrics.items():
        protocol.check_metric(f"metrics.{name}", metric)
    protocol.check_reference()
    check_files(metrics)
    texts = protocol.captions()
    one_image = images.suffix.lower() in (*EXACT, *LOSSY)
    files = [] if images.is_file() and not one_image else list_images(images)
    if files:
        protocol.check_files(files)
    if files and texts:
        check_numbered(files)
    pixels_NCHW = read_images(files) if files else read_npz(images)
    num = len(pixels_NCHW)
    protocol.check_images(images, tuple(pixels_NCHW.shape))
    height, width = pixels_NCHW.shape[2:]
    check_names(metrics)
    check_metrics(
        metrics,
        contracts.Drawn(num_images=num, shape=(pixels_NCHW.shape[1], height, width), captioned=True),
        may_lack=True,
    )
    empty = torch.empty(num, 0)
    context = EvaluationContext(
        samples=SampleSet(
            seeds=tuple(range(num)), images_NCHW=pixels_NCHW, latents_NCHW=empty,
            labels_N=torch.full((num,), -1), trace_TNCHW=empty[None, :0],
        ),
        baseline=None,
        sampling={"model": f"images of {images.name}, drawn elsewhere", **protocol.stated()},
        captions=texts,
    )  # fmt: skip
    scores: dict[str, Any] = {}
    lacking: dict[str, str] = {}
    for name, metric in metrics.items():
        try:
            found_here = metric.compute(context)
        except NoBaselineError:
            lacking[name] = "it compares with full-precision images, and these were drawn elsewhere."
            log.info("%s: left out, it compares with full-precision images", name)
            continue
        except MetricUnavailable as error:
            lacking[name] = str(error)
            log.warning("%s not computed: %s", name, error)
            found_here = error.found
        scores |= {key: value.as_json() for key, value in found_here.items()}
    if metrics and not scores:
        why = [f"metrics.{name}: {reason}" for name, reason in lacking.items()]
        told = ["nothing was scored, and nothing is written.", *why, "Choose another evaluate=..."]
        raise ValueError(f"{images}: {' '.join(told)}")
    return scores


def make_reference(images: Path, out: Path, config: DictConfig) -> Mapping[str, int]:
    """Write the reference batch of a data set: moments of all images, and `KEPT` of them drawn at random."""
    import torch
    from tqdm import tqdm

    from cq.evaluate.adm import AdmEvaluation
    from cq.evaluate.image_files import list_images
    from cq.evaluate.image_pixels import Fit, batches, check_data_set
    from cq.evaluate.reference_batch import write_reference_batch
    from cq.evaluate.tf_inception import TFInception, find_weights

    protocol: NoProtocol = build(config.protocol, "protocol", NoProtocol)
    metric: AdmEvaluation = build(config.metrics.adm, "metrics.adm")
    fit = Fit(**protocol.preparation())
    if out.is_dir():
        raise ValueError(f"--reference {out}: is a folder. Name the file to write.")
    files = list_images(images, lossy=True)
    check_data_set(files, fit)
    network = TFInception(find_weights(metric.weights, metric="adm"), device=metric.device)
    kept = set(random.Random(KEPT_SEED).sample(range(len(files)), min(KEPT, len(files))))
    pooled, spatial, stored = [], [], []
    row = 0
    with tqdm(total=len(files), desc="reference", unit="image", mininterval=1.0) as progress:
        for batch_NCHW in batches(files, fit, batch_size=metric.batch_size):
            found = network.extract(batch_NCHW, batch_size=metric.batch_size)
            pooled.append(found.pooled_NF)
            spatial.append(found.spatial_NF)
            stored += [image for i, image in enumerate(batch_NCHW, start=row) if i in kept]
            row += len(batch_NCHW)
            progress.update(len(batch_NCHW))
    write_reference_batch(out, torch.stack(stored), torch.cat(pooled), torch.cat(spatial))
    return {"images": len(files), "stored": len(stored)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: see `cq.cli.commands.ended`."""
    parser = argparse.ArgumentParser(prog="cq-score", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of images, or npz file")
    parser.add_argument("--reference", type=Path, metavar="OUT.npz", help="write the reference batch of these images")
    parser.add_argument("overrides", nargs="*", help="protocol=..., evaluate=..., metrics.adm.device=cuda, ...")
    given = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return ended("cq-score", lambda: _score(given.images, given.reference, given.overrides))


def _score(images: Path, reference: Path | None, overrides: list[str]) -> None:
    overrides = allowing(overrides)
    images = Path(os.path.abspath(images))  # of `.` the name is asked for
    protocols = any(override.startswith(("protocol=", "evaluate=")) for override in overrides)
    with composing():
        config, _ = composed([*([] if protocols else ["evaluate=adm"]), *overrides])
    check_top(config)
    protocol: NoProtocol = build(config.protocol, "protocol", NoProtocol)
    protocol.check_choices(model=None, metrics=config.metrics)
    for said in beyond(config, overrides, read=READ).values():
        log.warning("%s", said)
    if reference is not None:
        counts = make_reference(images, reference, config)
        log.info("%s: moments of %d images, %d stored", reference, counts["images"], counts["stored"])
        return
    scores = score(images, config)
    if not scores:
        log.info("%s: checked; no metric was asked for, and nothing is written", images)
        return
    out = images.parent / f"{images.name}.{protocol.label}.json"
    before = {key: found for key, found in _scored(out, images).items() if key not in scores}
    write_atomically(out, (json.dumps({**before, **scores}, indent=1) + "\n").encode())
    if before:
        log.info("%s: keeps %s of before", out, ", ".join(before))
    for key, found in scores.items():
        log.info("%s %.6g", key, found["value"])
    log.info("written to %s", out)


def _scored(out: Path, images: Path) -> dict[str, Any]:
    """What was scored before of the same images: nothing where any of them is younger than the file of scores."""
    if not out.is_file():
        return {}
    files = [images, *(images.rglob("*") if images.is_dir() else ())]
    if any(path.stat().st_mtime_ns > out.stat().st_mtime_ns for path in files):
        log.warning("%s: was of images that have changed since, and is replaced", out)
        return {}
    try:
        found = json.loads(out.read_bytes())
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
