"""What a data set looks like to one feature network: moments for Frechet distances, features for kernels.

Legend of shape suffixes: F pooled feature, S spatial feature, M stored image.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cq.core.artifacts import DOCUMENT, Artifact
from cq.core.checksum import file_digest
from cq.evaluate.features import Extractor
from cq.evaluate.gaussian import moments
from cq.models.headers import shapes_of
from cq.models.locate import locate

if TYPE_CHECKING:  # brings diffusers, which a check of a configuration does not need
    from cq.evaluate.classifier import ImageFeatures


@dataclass(frozen=True, kw_only=True)
class ReferenceStatistics(Artifact):
    """Statistics of `count` images of `data_set` in the features of the network with digest `network`.

    mu_F, sigma_FF, spatial_mu_S, spatial_sigma_SS: float64; covariances divide by count - 1.
    subset_MF: float16 pooled features of M images drawn without replacement; for kernel distances.
    """

    data_set: str
    count: int
    network: str
    mu_F: Tensor
    sigma_FF: Tensor
    spatial_mu_S: Tensor
    spatial_sigma_SS: Tensor
    subset_MF: Tensor

    @classmethod
    def of(
        cls, features: "ImageFeatures", *, data_set: str, network: str, subset_size: int, seed: int
    ) -> "ReferenceStatistics":
        """Reduce the features of a whole data set; the subset is drawn by a generator of its own."""
        count = len(features.pooled_NF)
        if subset_size > count:
            raise ValueError(f"subset_size={subset_size}: {data_set} has {count} images. Choose at most that many.")
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        mu_F, sigma_FF = moments(features.pooled_NF)
        spatial_mu_S, spatial_sigma_SS = moments(features.spatial_NF)
        return cls(
            data_set=data_set,
            count=count,
            network=network,
            mu_F=mu_F,
            sigma_FF=sigma_FF,
            spatial_mu_S=spatial_mu_S,
            spatial_sigma_SS=spatial_sigma_SS,
            subset_MF=features.pooled_NF[order[:subset_size]].half(),
        )


def dimensions(reference: str, field: str) -> int:
    """The length of one of the stored means, read without loading anything; 0 where that is not possible."""
    shapes = shapes_of(locate(reference) / "tensors.safetensors") or {}
    return shapes.get(field, [0])[0]


def check_network(reference: str, network: str) -> None:
    """Raise ValueError where the statistics are not there, or were built with other weights than those of `network`.

    Features of two networks share no axes. network: digest of its folder. Of the tensors only the checksum is read.
    """
    try:
        folder = locate(reference)
        document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
        stated, files = document["network"], document["files"]
        changed = [name for name, digest in files.items() if file_digest(folder / name) != digest]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(
            f"reference={reference!r}: there are no statistics of a data set ({error}). Give a folder that "
            "python -m experiments.zoo.train reference writes, or zoo:reference."
        ) from error
    if changed:
        raise ValueError(
            f"reference={reference!r}: {changed[0]} in {folder} is not what was written there. Get it again, or make "
            "it with: python -m experiments.zoo.train reference"
        )
    if stated != network:
        raise ValueError(
            f"reference={reference!r}: built with feature network {stated[:12]}, but {network[:12]} is in use. Rebuild "
            "it with: python -m experiments.zoo.train reference"
        )


def load_reference(reference: str, network: Extractor) -> ReferenceStatistics:
    """The statistics in folder `reference` (`zoo:reference`), which must be those of `network`.

    Raises ValueError where they were built with other weights.
    """
    check_network(reference, network.digest)
    return ReferenceStatistics.load(locate(reference))
