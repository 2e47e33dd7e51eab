"""Reference batches in the format of OpenAI's guided-diffusion: one npz of images, of moments, or of both.

Keys: arr_0, uint8 [M, H, W, 3]; mu [F], sigma [F, F] of the pooled, mu_s [S], sigma_s [S, S] of the spatial features.
Those of ADM hold the moments of the whole data set beside 10,000 of its images.
Legend of shape suffixes: M image, F pooled feature, S spatial feature.
"""

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cq.core.checksum import file_digest
from cq.core.store import write_atomically
from cq.evaluate.gaussian import moments
from cq.evaluate.npz import Head, check_image_array, read_array, read_heads
from cq.evaluate.protocol import MetricUnavailable

IMAGES, POOLED, SPATIAL = "arr_0", ("mu", "sigma"), ("mu_s", "sigma_s")


@dataclass(frozen=True)
class ReferenceBatch:
    """An npz file whose arrays are read when they are asked for. digest: SHA-256 of the file. heads: of its arrays."""

    path: Path
    digest: str
    heads: Mapping[str, Head]

    @classmethod
    def open(cls, path: str, *, sha256: str | None, metric: str) -> "ReferenceBatch":
        """Raises MetricUnavailable where there is no file, ValueError where it is another one or none of the kind."""
        file = Path(path)
        if not file.is_file():
            raise MetricUnavailable(
                f"{metric}: needs the reference batch {file}. Download it (guided-diffusion, folder evaluations, lists "
                "ADM's), or make one of a folder of images: cq-score FOLDER --reference OUT.npz"
            )
        digest = file_digest(file)
        if sha256 is not None and digest != sha256:
            raise ValueError(
                f"reference={path!r}: its SHA-256 is {digest}, and {sha256} is asked for: another reference set, or a "
                "damaged file. Download it again, or set reference_sha256=null to take it as it is."
            )
        try:
            batch = cls(file, digest, read_heads(file))
        except ValueError as error:
            raise ValueError(f"reference={path!r}{str(error).removeprefix(str(file))}") from error
        batch._check_heads()
        return batch

    def check(self, *, pooled: int, spatial: int, images: bool, moments: Iterable[tuple[str, str]]) -> None:
        """Raise ValueError where what scores compare with is not there, or is of another network.

        pooled, spatial: features of the network. images: whether images are compared with; moments: which are.
        """
        for (mean, _), width in ((POOLED, pooled), (SPATIAL, spatial)):
            found = self.heads[mean].shape[0] if mean in self.heads else width
            if found != width:
                raise ValueError(
                    f"reference={str(self.path)!r}: {mean} has {found} features, and the network finds {width}. Give "
                    "moments of the same network: guided-diffusion's, or cq-score FOLDER --reference OUT.npz"
                )
        if IMAGES not in self.heads and (images or any(keys[0] not in self.heads for keys in moments)):
            raise self._lacks_images()

    def _check_heads(self) -> None:
        where = f"reference={str(self.path)!r}"
        if IMAGES not in self.heads and not set(POOLED) <= self.heads.keys():
            raise ValueError(
                f"{where}: holds {', '.join(sorted(self.heads)) or 'nothing'}, and a reference batch has images "
                f"({IMAGES}) or moments ({', '.join(POOLED)}). Give one of guided-diffusion's format."
            )
        if IMAGES in self.heads:
            check_image_array(f"{where}: {IMAGES}", self.heads[IMAGES])
        for mean, covariance in (POOLED, SPATIAL):
            found = [self.heads.get(key) for key in (mean, covariance)]
            shapes = [None if head is None else list(head.shape) for head in found]
            if shapes == [None, None]:
                continue
            length = found[0].shape[0] if found[0] and found[0].shape else 0
            if shapes != [[length], [length, length]] or any(head.dtype.kind not in "fiu" for head in found if head):
                raise ValueError(
                    f"{where}: {mean} has shape {shapes[0]} and {covariance} {shapes[1]}, which do not belong together "
                    "as a mean [F] and a covariance [F, F]. Download it again."
                )

    def _lacks_images(self) -> ValueError:
        return ValueError(
            f"reference={str(self.path)!r}: holds moments only, and a score compares with images ({IMAGES}). Leave out "
            "precision, recall and kid, and sfid where mu_s is missing, or give a batch with images."
        )

    @cached_property
    def images_MCHW(self) -> Tensor:
        """uint8 [M, 3, H, W]. Raises ValueError where only moments are stored."""
        if IMAGES not in self.heads:
            raise self._lacks_images()
        return torch.from_numpy(read_array(self.path, IMAGES)).permute(0, 3, 1, 2)

    def moments(self, keys: tuple[str, str]) -> tuple[Tensor, Tensor] | None:
        """Mean and covariance, float64; None where they are not stored, and follow from the images."""
        if keys[0] not in self.heads:
            return None
        mu_F, sigma_FF = (torch.from_numpy(read_array(self.path, key)).double() for key in keys)
        if not (mu_F.isfinite().all() and sigma_FF.isfinite().all()):
            raise ValueError(f"reference={str(self.path)!r}: {' or '.join(keys)} is not finite. Download it again.")
        return mu_F, sigma_FF


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
