"""A pipeline in memory as a model component, and its own scheduler as a sampler: what calibration needs of both.

Legend of shape suffixes: N image, P prompt or class, C channel, H W space.
"""

import inspect
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from cq.adapt.networks import place_of, shared_copy
from cq.core.artifacts import digest_of_tensor
from cq.core.contracts import NoiseScheduler
from cq.engine.fingerprint import DTYPES, parameters_digest
from cq.models.cutting import cut_of, denoiser_of
from cq.models.diffusion import DiffusionModel, Family, Purpose, guiding
from cq.models.sites import cuts_of
from cq.models.unet import check_xl, is_xl, packed

SOLVERS = (  # of diffusers that draw the same image from the same noise
    "DDIMScheduler", "PNDMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler", "DEISMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PipelineSampler:
    """The pipeline's own solver. scheduler: its class of diffusers. config: its configuration, as JSON."""

    scheduler: str
    config: Mapping[str, Any]

    @staticmethod
    def of(scheduler: Any) -> "PipelineSampler":
        """Raises ValueError for a solver that adds noise of its own, or is none of diffusers'."""
        name, config = type(scheduler).__name__, plain(scheduler.config)
        if name not in SOLVERS or str(config.get("algorithm_type", "")).startswith("sde"):
            raise ValueError(
                f"pipe.scheduler={name}: is no solver that draws the same image from the same noise, and an "
                f"Acceleration is calibrated for one. Set pipe.scheduler to one of {', '.join(SOLVERS)} first."
            )
        return PipelineSampler(scheduler=name, config=config)

    def check(self, num_steps: int, stored: Mapping[str, Any]) -> None:
        """Raise ValueError for a number of steps that the scheduler cannot take."""
        try:
            self.noise_scheduler(stored, num_steps)
        except Exception as error:  # of diffusers, numpy or torch: each has its own
            raise ValueError(
                f"budget.num_steps={num_steps}: {self.scheduler} cannot take so many ({error}). Choose another number."
            ) from error

    def num_calls(self, num_steps: int) -> int:
        """As many as the scheduler has timesteps."""
        return len(self.noise_scheduler({}, num_steps).timesteps)

    def noise_scheduler(self, stored: Mapping[str, Any], num_steps: int) -> NoiseScheduler:
        """A fresh scheduler with its timesteps set. stored: the same configuration, and not looked at."""
        import diffusers

        fresh: Any = getattr(diffusers, self.scheduler).from_config(dict(self.config))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers hands numpy a tensor
            fresh.set_timesteps(num_steps)
        made: NoiseScheduler = fresh
        return made


@dataclass(frozen=True, kw_only=True)
class PipelineModel:
    """A `ModelComponent` that no folder holds.

    weights: what it is called. conditions: digest of what it is calibrated on. noise: see `ModelComponent`.
    pipe, conditions_P: the pipeline, and what prompts or classes become, what stands for none last where guided.
    """

    weights: str
    family: Family
    site: str
    guidance: float | None
    num_classes: int
    latent_shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    blocks: int
    noise: Mapping[str, Any]
    conditions: str
    device: str
    pipe: InitVar[Any]
    conditions_P: InitVar[Tensor | None]

    release = None

    def __post_init__(self, pipe: Any, conditions_P: Tensor | None) -> None:
        object.__setattr__(self, "_vae", getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None))
        object.__setattr__(self, "_network", getattr(pipe, place_of(pipe)))
        object.__setattr__(self, "_conditions_P", conditions_P)

    @staticmethod
    def of(
        pipe: Any, *, prompts: Sequence[str] | None, classes: Sequence[int] | None, guidance_scale: float | None,
        site: str | None,
    ) -> "PipelineModel":  # fmt: skip
        """Raises ValueError for a pipeline that cannot be accelerated, or what it is not to be calibrated on."""
        place = place_of(pipe)
        network, where = getattr(pipe, place), f"pipe.{place}"
        if "_hf_hook" in network.__dict__:
            raise ValueError(f"{where}: is offloaded. Calibrate before that: pipe.to(device), then enable offloading.")
        if network.dtype not in DTYPES.values():
            raise ValueError(f"{where}.dtype={network.dtype}: must be {', '.join(DTYPES)}. Call pipe.to(dtype) first.")
        cut = cut_of(shared_copy(network))
        default = inspect.signature(type(pipe).__call__).parameters.get("guidance_scale")
        guidance = guidance_scale if guidance_scale is not None or default is None else default.default
        conditions_P = _conditions(pipe, network, prompts, classes, guided=guiding(guidance) is not None)
        size = network.config.sample_size
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        if len(sides) != 2:
            raise ValueError(f"{where}.config.sample_size={size}: says no size to calibrate at. Set it to one.")
        vae = getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)
        height, width = map(int, sides)
        latent_shape = (int(network.config.in_channels), height, width)
        image_shape = latent_shape
        if vae is not None:
            scale = 2 ** (len(vae.config.block_out_channels) - 1)
            image_shape = (int(vae.config.out_channels), scale * height, scale * width)
        # DeepCache's cut, a U-Net's last ResNet (arXiv:2312.00858); a transformer's blocks without the first and last
        usual = f"blocks.1-{cut.blocks - 1}" if cut.blocks else cuts_of(network.config)[-1]
        return PipelineModel(
            weights=f"{type(pipe).__name__} in memory", family="unet" if cut.blocks == 0 else "transformer",
            site=site or usual, guidance=None if conditions_P is None else guidance,
            num_classes=0 if conditions_P is None else len(conditions_P) - (guiding(guidance) is not None),
            latent_shape=latent_shape, image_shape=image_shape, blocks=cut.blocks,
            noise={
                **plain(pipe.scheduler.config), "_class_name": type(pipe.scheduler).__name__,
                "_use_default_values": sorted(pipe.scheduler.config.get("_use_default_values", ())),
            },
            conditions="" if conditions_P is None else digest_of_tensor(conditions_P),
            device=str(network.device), pipe=pipe, conditions_P=conditions_P,
        )  # fmt: skip

    def check(self) -> None:
        """Raise ValueError for a site that the network does not have."""
        cut_of(shared_copy(self.network)).check((self.site,))

    @property
    def network(self) -> Any:
        """The pipeline's own."""
        return self.__dict__["_network"]

    def layers(self) -> frozenset[str]:
        """Names of the convolutions, linear layers and attentions."""
        found = {name for name, part in self.network.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
        return frozenset(found | {name.removesuffix(".to_q") for name in found if name.endswith(".to_q")})

    def load(self) -> "PipelineDiffusion":
        """A copy of the network that shares its weights, with sites; the pipeline stays as it is."""
        null_first = type(self.network).__name__ != "DiTTransformer2DModel"
        copy = shared_copy(self.network)
        return PipelineDiffusion(
            component=self, vae=self.__dict__["_vae"], sampler=PipelineSampler(scheduler="", config={}),
            denoiser=denoiser_of(copy, site=self.site, guidance=self.guidance, null_first=null_first),
            conditions_P=self.__dict__["_conditions_P"],
        )  # fmt: skip

    def weights_digest(self) -> str:
        """Of the network's parameters; what else decides, the conditions, has a digest of its own."""
        return parameters_digest(self.network, self.network.dtype)


@dataclass(frozen=True, kw_only=True)
class PipelineDiffusion(DiffusionModel):
    """conditions_P: see `PipelineModel`."""

    conditions_P: Tensor | None

    def on(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The model where the pipeline has it, for its owner says where it is."""
        return replace(self, denoiser=replace(self.denoiser, dtype=dtype))

    def decode(self, latents_NCHW: Tensor) -> Tensor:
        """As any model's, by a first stage in its own number type."""
        return super().decode(latents_NCHW if self.vae is None else latents_NCHW.to(self.vae.dtype))

    def condition(self, labels_N: Tensor, purpose: Purpose = "evaluation") -> Tensor | None:
        """The conditions of the labels, and where guided of none for each, [2N, ...] in the network's order."""
        if self.conditions_P is None:
            return None
        given = self.conditions_P[labels_N.to(self.conditions_P.device)]
        if self.denoiser.guidance is None:
            return given
        null = self.conditions_P[-1:].expand_as(given)
        return torch.cat([null, given] if self.denoiser.null_first else [given, null])


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of diffusers as JSON, without what diffusers notes in it for itself."""
    public = {key: value for key, value in config.items() if not key.startswith("_")}
    found: dict[str, Any] = json.loads(json.dumps(public, default=lambda array: array.tolist()))
    return found


@torch.no_grad()
def _conditions(
    pipe: Any, network: Any, prompts: Sequence[str] | None, classes: Sequence[int] | None, *, guided: bool
) -> Tensor | None:
    """What the network is told for each prompt or class, [P, ...], and in a last row for none where `guided`."""
    kind = type(network).__name__
    texts = kind in ("UNet2DConditionModel", "PixArtTransformer2DModel")
    if prompts is not None and not texts:
        raise ValueError(f"prompts: a {kind} takes none. Leave them out.")
    if classes is not None and kind != "DiTTransformer2DModel":
        raise ValueError(f"classes: a {kind} takes none. Leave them out.")
    if kind == "DiTTransformer2DModel":
        known = int(network.config.num_embeds_ada_norm)
        labels = list(range(known) if classes is None else classes)
        wrong = [label for label in labels if not 0 <= label < known]
        if wrong or not labels:
            raise ValueError(f"classes={labels[:5]}: must be some of 0 to {known - 1}. Correct them.")
        return torch.tensor([*labels, *([known] if guided else [])], device=network.device)
    if not texts:
        return None
    if isinstance(prompts, str) or not prompts or not hasattr(pipe, "encode_prompt"):
        raise ValueError(
            f"prompts={prompts!r}: a {kind} is calibrated on a list of prompts, which {type(pipe).__name__}."
            "encode_prompt reads. Give some ten that are like those you will draw."
        )
    found = pipe.encode_prompt(
        list(prompts), device=network.device, num_images_per_prompt=1, do_classifier_free_guidance=guided,
        **({"negative_prompt": ""} if kind == "PixArtTransformer2DModel" else {}),
    )  # fmt: skip
    if kind == "PixArtTransformer2DModel":
        states, mask_PL, null, null_mask_PL = found
        pairs = [(states, mask_PL), (null, null_mask_PL)]
        rows = [torch.cat([s, m[..., None].to(s)], dim=-1) for s, m in pairs if s is not None]
    elif is_xl(network):
        states, null, pooled, null_pooled = found
        side = pipe.vae_scale_factor * network.config.sample_size
        ids_PI = torch.tensor([[side, side, 0, 0, side, side]], device=network.device).expand(len(states), -1)
        check_xl(network, pooled, ids_PI.shape[1])
        rows = [packed(s, p, ids_PI) for s, p in ((states, pooled), (null, null_pooled)) if s is not None]
    else:
        rows = [each for each in found[:2] if each is not None]
    return torch.cat([rows[0], *(each[:1] for each in rows[1:])])
