"""Which network an Acceleration was made for, so that it is refused for another one."""

import hashlib
from typing import Any

import torch

from cq.core.artifacts import digest_of_tensor
from cq.core.denoiser import GuidedDenoiser

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

SOLVING = (  # settings that change the steps, and not where they are; lower_order_final a scheduler sets for itself
    "algorithm_type", "solver_order", "solver_type", "final_sigmas_type", "euler_at_final",
    "predict_x0", "set_alpha_to_one", "clip_sample", "clip_sample_range", "thresholding",
    "dynamic_thresholding_ratio", "sample_max_value", "eta", "order",
)  # fmt: skip


def fingerprint(denoiser: GuidedDenoiser) -> dict[str, Any]:
    """The network's class, sites and guidance, and the digest of its parameters in every number type it may be held in.

    So a pipeline in half precision knows an Acceleration that was made of the same weights in float32.
    """
    backbone = denoiser.network.backbone
    held = next(backbone.parameters()).dtype
    narrower = [name for name, dtype in DTYPES.items() if dtype == held or held == torch.float32]
    return {
        "network": type(backbone).__name__, "sites": list(denoiser.sites), "guidance": denoiser.guidance,
        "parameters": {name: parameters_digest(backbone, DTYPES[name]) for name in narrower},
    }  # fmt: skip


def noise_of(scheduler: Any) -> dict[str, Any]:
    """What a scheduler of diffusers takes the network's states and predictions to be."""
    return {
        "prediction_type": scheduler.config.get("prediction_type", "epsilon"),
        "alphas_cumprod": digest_of_tensor(scheduler.alphas_cumprod.float().cpu())[:16],
    }


def solver_of(scheduler: Any) -> dict[str, Any]:
    """The settings by which a scheduler of diffusers steps, beside its class, its noise and its timesteps."""
    return {key: scheduler.config[key] for key in SOLVING if key in scheduler.config}


@torch.no_grad()
def parameters_digest(network: torch.nn.Module, dtype: torch.dtype) -> str:
    """SHA-256 (hex) over names, shapes and values, rounded to `dtype`, of every parameter and stored buffer."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        values = tensor.to(dtype) if tensor.is_floating_point() else tensor
        digest.update(f"{name}{tuple(values.shape)}".encode())
        digest.update(values.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
