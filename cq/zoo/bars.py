"""Measure a zoo model against its quality bars: `python -m cq.zoo.bars ldm_mini`.

Writes `<out>/<model>.json` and a grid of images `<out>/<model>.png`; exit status 1 where a bar does not hold.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from cq.artifacts import CacheSchedule, ChannelAffine, digest_of_tensor
from cq.config import build
from cq.evaluate.features import FeatureNetwork
from cq.evaluate.gaussian import frechet_distance, moments
from cq.evaluate.reference import load_reference
from cq.models.latent import LatentDiffusion
from cq.predict.last import Last
from cq.sample.generate import Sample, generate
from cq.seeding import image_seeds
from cq.zoo.classifier import Classifier
from cq.zoo.data import fashion_mnist
from cq.zoo.locate import locate
from cq.zoo.recipes.classifiers import to_unit

log = logging.getLogger(__name__)

MIN_AGREEMENT = 0.90  # share of images in which the judge finds the asked class
MAX_FRECHET = 3.0  # own features, to the training images
MIN_ACCURACY = 0.92  # of the feature network on the test images
RUN_SEED = 4_095  # the bars draw from a range of their own, apart from every table
CONF = Path(__file__).parents[2] / "conf"


@torch.no_grad()
def judged(images_NCHW: Tensor, name: str) -> Tensor:
    """Class int64 [N] that the zoo classifier `name` finds in uint8 images."""
    network = Classifier.from_pretrained(locate(f"zoo:{name}")).float().eval()
    return torch.cat([network(to_unit(part)).logits_NK.argmax(1) for part in torch.split(images_NCHW, 500)])


def measure(model: LatentDiffusion, *, num_steps: int, num_images: int, num_judged: int, work: Path,
            root: Path) -> tuple[dict[str, Any], Tensor, Tensor]:  # fmt: skip
    """The figures, the images and their labels. Batches leave shards in `work`, so a rerun goes on."""
    loaded = model.load()
    sample = Sample(
        num_images=num_images, batch_size=250, num_steps=num_steps, labels="balanced", classes=None, trace=0
    )
    calls = loaded.sampler.num_calls(num_steps)
    work.mkdir(parents=True, exist_ok=True)
    samples = generate(
        loaded,
        loaded.denoiser,
        sample=sample,
        seeds=image_seeds("evaluation", run_seed=RUN_SEED, count=num_images),
        schedule=CacheSchedule(num_calls=calls, refresh_calls=tuple(range(calls)), planner="none", interval=None),
        correction=ChannelAffine(schedule="", tables={}, r2={}),
        predictor=Last(),
        shards=work,
        describe="images",
    )
    network = FeatureNetwork.load("zoo:features")
    reference = load_reference("zoo:reference", network)
    test_images, test_labels = fashion_mnist("t10k", root)

    def distance(images_NCHW: Tensor) -> float:
        mu_F, sigma_FF = moments(network.extract(images_NCHW, batch_size=500).pooled_NF)
        return frechet_distance(mu_F, sigma_FF, reference.mu_F, reference.sigma_FF)

    with torch.no_grad():
        latents = [
            loaded.vae.encode(to_unit(part)).latent_dist.mean * loaded.vae.config.scaling_factor
            for part in torch.split(test_images, 500)
        ]
        rebuilt = torch.cat([loaded.decode(part) for part in latents])
    agreement = (judged(samples.images_NCHW, "judge") == samples.labels_N)[:num_judged]
    by_class = [float(agreement[samples.labels_N[:num_judged] == k].double().mean()) for k in range(model.num_classes)]
    figures = {
        "num_steps": num_steps,
        "guidance": model.guidance,
        "num_images": num_images,
        "num_judged": num_judged,
        "judge_agreement": float(agreement.double().mean()),
        "judge_agreement_by_class": by_class,
        "judge_test_accuracy": float((judged(test_images, "judge") == test_labels).double().mean()),
        "features_test_accuracy": float((judged(test_images, "features") == test_labels).double().mean()),
        "frechet_own": distance(samples.images_NCHW),
        "frechet_own_of_test_images": distance(test_images),
        "frechet_own_of_rebuilt_test_images": distance(rebuilt),
        "total_feature_variance": float(reference.sigma_FF.trace()),
        "weights_digest": model.weights_digest(),
        "features_digest": network.digest,
        "reference_digest": reference.digest,
        "images_digest": digest_of_tensor(samples.images_NCHW),
    }
    return figures, samples.images_NCHW, samples.labels_N


def grid(images_NCHW: Tensor, *, columns: int, rows: int, path: Path) -> None:
    """The first images, row by row, magnified fourfold without smoothing, as a PNG."""
    from PIL import Image

    height, width = images_NCHW.shape[2:]
    cells = images_NCHW[: columns * rows, 0].view(rows, columns, height, width)
    page = cells.permute(0, 2, 1, 3).reshape(rows * height, columns * width)
    Image.fromarray(page.numpy()).resize((columns * width * 4, rows * height * 4), Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cq.zoo.bars", description=__doc__)
    parser.add_argument("model", help="a choice of conf/model")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--judged", type=int, default=2_000)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("runs/bars"), help="shards of unfinished runs")
    parser.add_argument("--out", type=Path, default=Path("results/zoo"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    file = CONF / "model" / f"{options.model}.yaml"
    if not file.exists():
        parser.error(f"model={options.model!r}: there is no {file.name} in conf/model.")
    model: LatentDiffusion = build(OmegaConf.load(file), "model")
    work = options.work / model.weights_digest()[:16] / f"{options.steps}"
    figures, images, _labels = measure(
        model, num_steps=options.steps, num_images=options.images, num_judged=options.judged, work=work,
        root=options.data,
    )  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.model}.json").write_text(json.dumps(figures, indent=1) + "\n")
    grid(images, columns=10, rows=6, path=options.out / f"{options.model}.png")
    held = {
        f"judge agreement {figures['judge_agreement']:.4f} >= {MIN_AGREEMENT}":
            figures["judge_agreement"] >= MIN_AGREEMENT,
        f"Frechet distance, own features {figures['frechet_own']:.3f} <= {MAX_FRECHET}":
            figures["frechet_own"] <= MAX_FRECHET,
        f"feature network's test accuracy {figures['features_test_accuracy']:.4f} >= {MIN_ACCURACY}":
            figures["features_test_accuracy"] >= MIN_ACCURACY,
    }  # fmt: skip
    for bar, good in held.items():
        log.info("%s: %s", bar, "holds" if good else "DOES NOT HOLD")
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
