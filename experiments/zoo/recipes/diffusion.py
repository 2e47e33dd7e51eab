"""What the diffusion recipes share: the noise schedule of LDM, the loss, latents encoded once, the folders' layout."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from safetensors.torch import load_file, save
from torch import Tensor

from cq.core.store import write_atomically
from experiments.zoo.data import fashion_mnist
from experiments.zoo.recipes.classifiers import to_unit

GAMMA = 5.0  # of min-SNR, arXiv:2303.09556


def ldm_noise_scheduler() -> DDIMScheduler:
    """The settings of LDM ImageNet: scaled-linear betas, offset 1 (arXiv:2112.10752)."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        timestep_spacing="leading",
    )


def noise_loss(
    predict: Callable[[Tensor, Tensor], Tensor], clean_NCHW: Tensor, alphas_cumprod_S: Tensor,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Min-SNR-weighted mean squared error of the predicted noise at timesteps drawn evenly.

    predict: noisy images and timesteps int64 [N] to noise. alphas_cumprod_S: of the noise scheduler, one a timestep.
    """
    noise_NCHW = torch.randn(clean_NCHW.shape, generator=generator)
    timesteps_N = torch.randint(0, len(alphas_cumprod_S), (len(clean_NCHW),), generator=generator)
    alphas_N = alphas_cumprod_S[timesteps_N]
    signal, spread = alphas_N.sqrt()[:, None, None, None], (1 - alphas_N).sqrt()[:, None, None, None]
    predicted = predict(signal * clean_NCHW + spread * noise_NCHW, timesteps_N)
    snr_N = alphas_N / (1 - alphas_N)
    weights_N = snr_N.clamp(max=GAMMA) / snr_N
    loss: Tensor = (weights_N * (predicted.float() - noise_NCHW).pow(2).mean((1, 2, 3))).mean()
    return loss


def null_some(labels_N: Tensor, null: int, share: float, generator: torch.Generator) -> Tensor:
    """The labels with a random share replaced by the null class, for classifier-free guidance."""
    nulled = torch.rand(len(labels_N), generator=generator) < share
    return torch.where(nulled, null, labels_N)


def latents_of(vae_folder: Path, root: Path, keep: Path) -> tuple[Tensor, Tensor, Tensor]:
    """`encoded_once` of Fashion-MNIST's training images and labels."""
    return encoded_once(vae_folder, lambda: fashion_mnist("train", root), keep)


def encoded_once(
    vae_folder: Path, images_of: Callable[[], tuple[Tensor, Tensor]], keep: Path
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Mean and deviation [n, C, H, W] of every image's posterior, and its label; kept on disk.

    images_of: images uint8 [n, ...] and labels int64 [n]; called only where nothing is kept yet.
    keep: where to keep them, to be named by the digest of the first stage; a name for each set of images.
    """
    digest = hashlib.sha256()
    for path in sorted(vae_folder.iterdir()):
        digest.update(path.read_bytes())
    kept = keep.with_name(f"{keep.name}_{digest.hexdigest()[:12]}.safetensors")
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, save(_encode(vae_folder, *images_of())))
    encoded = load_file(kept)
    return encoded["mean"], encoded["std"], encoded["labels"]


@torch.no_grad()
def _encode(vae_folder: Path, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    vae = AutoencoderKL.from_pretrained(vae_folder).float().eval()
    mean, std = [], []
    for part in torch.split(images, 500):
        posterior = vae.encode(to_unit(part)).latent_dist
        mean.append(posterior.mean * vae.config.scaling_factor)
        std.append(posterior.std * vae.config.scaling_factor)
    return {"mean": torch.cat(mean).contiguous(), "std": torch.cat(std).contiguous(), "labels": labels}


def draw_latents(mean_NCHW: Tensor, std_NCHW: Tensor, generator: torch.Generator) -> Tensor:
    """A sample of each posterior."""
    return mean_NCHW + std_NCHW * torch.randn(mean_NCHW.shape, generator=generator)


def ship_first_stage(trained: Path, folder: Path) -> None:
    """Copy a trained first stage into a model's folder, the same bytes but for where it came from."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in trained.glob("*.safetensors"):
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((trained / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_model_index(
    folder: Path, *, pipeline: str, parts: Mapping[str, tuple[str, str] | None], settings: Mapping[str, Any]
) -> None:
    """The file by which diffusers' stock `pipeline` opens `folder` with `from_pretrained`.

    parts: library and class of each subfolder, None for a part that the pipeline can do without.
    """
    index = {
        "_class_name": pipeline,
        "_diffusers_version": diffusers.__version__,
        **{name: part or (None, None) for name, part in parts.items()},
        **settings,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
