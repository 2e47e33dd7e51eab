"""The law of caching, tried on a loaded network before anything is computed with it."""

import logging
from typing import Any

import torch

from cq.core.failures import out_of_memory
from cq.core.phases import Phases
from cq.models.diffusion import DiffusionModel, UnusableModelError
from cq.models.files import first_line

log = logging.getLogger(__name__)


@torch.no_grad()
def tried(model: DiffusionModel, phases: Phases, *, num_steps: int) -> DiffusionModel:
    """The model, after one full call for one image, decoding it, and for each phase a call that is given back its maps.

    Raises UnusableModelError, with the sites, where the two differ in a bit; and where the network cannot be called, or
    returns what is not finite. phases: none for an uncached run. num_steps: its middle timestep is tried.
    """
    component = model.component
    noise = torch.Generator().manual_seed(0)
    x_NCHW = torch.randn(1, *component.latent_shape, generator=noise).to(model.device)
    timesteps = model.noise_scheduler(num_steps).timesteps
    where = f"model.weights={component.weights!r}"
    try:
        cond = model.condition(torch.zeros(1, dtype=torch.int64, device=model.device))
        options: dict[str, Any] = {"call": 0, "timestep": timesteps[len(timesteps) // 2], "cond": cond}
        full = model.denoiser(x_NCHW, reuse={}, **options)
        drawn_NCHW = model.decode(x_NCHW)
    except Exception as error:  # of diffusers, transformers or torch: each has its own
        if out_of_memory(error) or isinstance(error, OSError):
            raise
        raise UnusableModelError(
            f"{where}: it fails at its first call, on a state of shape {list(component.latent_shape)} "
            f"({first_line(error)}). Its config.json is not of these weights, "
            "or the shape is not one that it takes."
        ) from error
    if tuple(drawn_NCHW.shape[1:]) != tuple(component.image_shape):
        raise UnusableModelError(
            f"model.image_shape={list(component.image_shape)}: {where} draws {list(drawn_NCHW.shape[1:])}. Set it to "
            "that."
        )
    if not bool(full.eps_NCHW.isfinite().all()):
        raise UnusableModelError(
            f"{where}: its network returns values that are not finite at its first call, in "
            f"{str(model.denoiser.dtype).removeprefix('torch.')}. Set compute.dtype=float32; if it is that already, "
            "get the folder again."
        )
    for sites in dict.fromkeys(sites for _, sites in phases):
        again = model.denoiser(x_NCHW, reuse={site: full.features[site] for site in sites}, **options)
        if not torch.equal(again.eps_NCHW, full.eps_NCHW):
            off = float((again.eps_NCHW - full.eps_NCHW).abs().max())
            raise UnusableModelError(
                f"{where}: a cached call of its network at {', '.join(sites)} differs by up to {off:.3g} from the full "
                "call whose maps it is given, so the cut leaves out a step of this network. Choose another model.site "
                "or cache, set schedule=none, or give another network."
            )
    if phases:
        log.info("model: cached and full calls of %s agree bit for bit", component.weights)
    return model
