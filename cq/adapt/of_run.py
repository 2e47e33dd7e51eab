"""The network that a run's Acceleration was made of, loaded again by what its record says."""

from typing import Any

import torch

from cq.models.diffusion import ModelComponent
from cq.run.building import build
from cq.run.record import RunRecord


def network_of(record: RunRecord) -> Any:
    """The diffusers module, in the run's number type, on the CPU. Raises ValueError where its weights are not there."""
    component: ModelComponent = build(dict(record.config["model"]), "model")
    dtype: torch.dtype = getattr(torch, record.config["compute"]["dtype"])
    return component.load().on(torch.device("cpu"), dtype).denoiser.network.backbone
