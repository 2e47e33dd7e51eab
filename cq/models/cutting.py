"""A diffusers network as a denoiser, wherever it was made: read from a folder, or built in memory."""

from collections.abc import Callable, Mapping

from torch import nn

from cq.core.call import CallIndex
from cq.core.denoiser import CutNetwork, GuidedDenoiser
from cq.models.diffusion import guiding
from cq.models.dit import DiTCut
from cq.models.known import completed
from cq.models.pixart import PixArtCut
from cq.models.unet import UNetCut

CUTS: Mapping[str, Callable[[nn.Module], nn.Module]] = {  # diffusers' class to the one that can start within it
    "UNet2DModel": UNetCut,
    "UNet2DConditionModel": UNetCut,
    "DiTTransformer2DModel": DiTCut,
    "PixArtTransformer2DModel": PixArtCut,
}


def cut_of(network: nn.Module) -> CutNetwork:
    """`network` with sites, in evaluation mode. Raises ValueError for one that cannot be cut."""
    config = completed({**network.config, "_class_name": type(network).__name__})  # type: ignore[dict-item]
    kind = config["_class_name"]
    if kind not in CUTS:
        raise ValueError(f"network={kind}: has no cut points here. Give one of {', '.join(CUTS)}.")
    cut: CutNetwork = CUTS[kind](network).eval()  # type: ignore[assignment]
    return cut


def denoiser_of(network: nn.Module, *, site: str, guidance: float | None, null_first: bool = True) -> GuidedDenoiser:
    """`network` as a denoiser that records the map at `site`.

    guidance: scale of classifier-free guidance; up to 1, or None, there is none. null_first: which half of a condition
    comes first. Raises ValueError for a network that cannot be cut, or has no such site.
    """
    denoiser = GuidedDenoiser(
        network=cut_of(network), sites=(), guidance=guiding(guidance), null_first=null_first, call_index=CallIndex()
    )
    return denoiser.with_sites((site,))
