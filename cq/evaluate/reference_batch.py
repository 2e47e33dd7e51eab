"""Reference batches in the format of OpenAI's guided-diffusion: one npz of images, of moments, or of both.

Keys: arr_0, uint8 [M, H, W, 3]; mu [F], sigma [F, F] of the pooled, mu_s [S], sigma_s [S, S] of the spatial features.
Those of ADM hold the moments of the whole data set beside 10,000 of its images.
Legend of shape suffixes: M image, F pooled feature, S spatial feature.
"""

import io
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cq.evaluate.features import sha256_of_file
from cq.evaluate.gaussian import moments
from cq.evaluate.protocol import MetricUnavailable
from cq.store import write_atomically

IMAGES, POOLED, SPATIAL = "arr_0", ("mu", "sigma"), ("mu_s", "sigma_s")


@dataclass(frozen=True)
class ReferenceBatch:
    """An npz file whose arrays are read when they are asked for. digest: SHA-256 of the file."""

    path: Path
    digest: str
    keys: frozenset[str]

    @classmethod
    def open(cls, path: str, *, sha256: str | None, metric: str) -> "ReferenceBatch":
        """Raises MetricUnavailable where there is no file, ValueError where it is another one or none of the kind."""
        file = Path(path)
        if not file.is_file():
            raise MetricUnavailable(
                f"{metric}: needs the reference batch {file}. Download it (guided-diffusion, folder evaluations, lists "
                "ADM's), or make one of a folder of images: python -m cq.score FOLDER --reference OUT.npz"
            )
        digest = sha256_of_file(file)
        if sha256 is not None and digest != sha256:
            raise ValueError(
                f"reference={path!r}: its SHA-256 is {digest}, and {sha256} is asked for: another reference set, or a "
                "damaged file. Download it again, or set reference_sha256=null to take it as it is."
            )
        try:
            with file.open("rb") as raw, np.load(raw) as stored:  # numpy leaves a broken file open
                keys = frozenset(stored.files)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"reference={path!r}: is no npz file ({error}). Give a reference batch.") from error
        if IMAGES not in keys and not set(POOLED) <= keys:
            raise ValueError(
                f"reference={path!r}: holds {', '.join(sorted(keys)) or 'nothing'}, and a reference batch has images "
                f"({IMAGES}) or moments ({', '.join(POOLED)}). Give one of guided-diffusion's format."
            )
        return cls(file, digest, keys)

    @cached_property
    def images_MCHW(self) -> Tensor:
        """uint8 [M, 3, H, W]. Raises ValueError where only moments are stored."""
        if IMAGES not in self.keys:
            raise ValueError(
                f"reference={str(self.path)!r}: holds moments only, and this score compares with images ({IMAGES}). "
                "Leave out precision, recall and kid, or give a batch with images."
            )
        images = torch.from_numpy(self._read(IMAGES))
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(
                f"reference={str(self.path)!r}: {IMAGES} is {images.dtype} {list(images.shape)}; images are uint8 "
                "[M, H, W, 3]."
            )
        return images.permute(0, 3, 1, 2)

    def moments(self, keys: tuple[str, str]) -> tuple[Tensor, Tensor] | None:
        """Mean and covariance, float64; None where they are not stored, and follow from the images."""
        if not set(keys) <= self.keys:
            return None
        mu_F, sigma_FF = (torch.from_numpy(self._read(key)).double() for key in keys)
        if sigma_FF.shape != (len(mu_F), len(mu_F)):
            raise ValueError(
                f"reference={str(self.path)!r}: {keys[0]} has shape {list(mu_F.shape)} and {keys[1]} "
                f"{list(sigma_FF.shape)}, which do not belong together. Download it again."
            )
        return mu_F, sigma_FF

    def _read(self, key: str) -> NDArray[Any]:
        with np.load(self.path) as stored:
            array: NDArray[Any] = stored[key]
        return array


def write_reference_batch(path: Path, images_MCHW: Tensor, pooled_NF: Tensor, spatial_NS: Tensor) -> None:
    """Write moments over all N images and the M images of a subset, at once or not at all."""
    mu_F, sigma_FF = moments(pooled_NF)
    mu_S, sigma_SS = moments(spatial_NS)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        arr_0=images_MCHW.permute(0, 2, 3, 1).numpy(),
        mu=mu_F.numpy(),
        sigma=sigma_FF.numpy(),
        mu_s=mu_S.numpy(),
        sigma_s=sigma_SS.numpy(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
