"""An Acceleration at work on a stock pipeline: what its network's forward is while it is there.

Nothing of the pipeline changes but that attribute. Which call is running is the scheduler's to say, so an exception
leaves nothing behind that the next generation could see.
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from cq.adapt.filled import Filled
from cq.adapt.networks import (
    Call,
    answered,
    check_made_of,
    check_untouched,
    inferring,
    lacks_weights,
    origin_of,
    place_of,
    read_call,
    shared_copy,
)
from cq.adapt.position import check_sampler, position
from cq.core.acceleration import Acceleration
from cq.core.contracts import Engine
from cq.core.denoiser import Denoiser
from cq.engine.plain import Plain
from cq.engine.simulate import Simulate
from cq.engine.stored_weights import StoredWeights
from cq.models.cutting import denoiser_of
from cq.models.diffusion import guiding

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One pass along the scheduler's timesteps, so far. timesteps: the tensor itself, by which it is known.

    due: the next call. shape: of the state. past: maps of the last refreshes, newest first.
    """

    timesteps: Tensor
    shape: torch.Size
    due: int = 0
    past: list[Mapping[str, Tensor]] = field(default_factory=list)


class Applied:
    """What `Acceleration.apply` returns: `remove()` undoes it, and so does the end of a `with` block.

    stored: its weights, which a network without any gets while it is applied. Raises ValueError where the pipeline's
    network is not the one that the Acceleration was made of.
    """

    def __init__(
        self, pipe: Any, acceleration: Acceleration, engine: Engine | None = None, stored: StoredWeights | None = None
    ) -> None:
        origin = origin_of(acceleration)
        place = place_of(pipe, may_lack_weights=stored is not None)
        self._pipe, self._acceleration, self._origin = pipe, acceleration, origin
        self._network: Any = getattr(pipe, place)
        self._where = f"pipe.{place}"
        self._engine: Engine = engine or (Simulate() if acceleration.quantized else Plain(compile=False))
        self._generation: Generation | None = None
        self._told: set[str] = set()
        self._filled = Filled(self._network, stored, self._where) if stored and lacks_weights(self._network) else None
        try:
            self._renew()
        except BaseException:
            self._empty()
            raise
        if not self._engine.real(acceleration):
            log.warning(
                "The bits of this Acceleration are simulated: images show their quality, and nothing is faster%s",
                ". apply(pipe, engine='int8') executes them" if engine is None else "",
            )
        hooked = "_old_forward" in self._network.__dict__  # accelerate's hooks stand in front of forward
        setattr(self._network, "_old_forward" if hooked else "forward", self.forward)

    def remove(self) -> None:
        """Give the pipeline its own forward back; nothing is left of the Acceleration."""
        own = self._network.__dict__
        if own.get("_old_forward") == self.forward:
            self._network._old_forward = MethodType(type(self._network).forward, self._network)
        if own.get("forward") == self.forward:
            del self._network.forward
        self._generation = None
        self._empty()

    def _empty(self) -> None:
        if self._filled:
            self._filled.empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's forward: full at a refresh, and from reused maps at the other calls.

        Raises ValueError for a call that the Acceleration was not made for, and which would draw something else.
        """
        call = read_call(self._network, args, kwargs)
        scheduler = self._pipe.scheduler
        index = position(scheduler, call.timestep)
        if index == 0:
            self._begin(scheduler, call)
        now = self._going(scheduler, call, index)
        reuse = self._acceleration.reused(index, now.past, sites=self._denoiser.sites)
        with torch.no_grad(), inferring(self._parameters):
            out = self._denoiser(call.x_NCHW, call=index, timestep=call.timestep, cond=call.cond, reuse=reuse)
        past = [out.features, *now.past][: self._acceleration.depth] if out.features else now.past
        done = index + 1 == self._acceleration.num_calls
        self._generation = None if done else replace(now, due=index + 1, past=past)
        return answered(self._network, out.eps_NCHW, call)

    def _begin(self, scheduler: Any, call: Call) -> None:
        """Another generation: whatever the last one has left is forgotten."""
        self._generation = None
        check_sampler(scheduler, self._origin["sampler"])
        check_untouched(self._network, self._where)
        if self._state() != self._known:
            self._renew()
        if (scale := getattr(self._pipe, "_guidance_scale", None)) is not None:
            self._tell("guidance", guiding(scale))
        self._tell("latent_shape", list(call.x_NCHW.shape[1:]))
        self._generation = Generation(timesteps=scheduler.timesteps, shape=call.x_NCHW.shape)

    def _going(self, scheduler: Any, call: Call, index: int) -> Generation:
        """The generation that `call` goes on with."""
        now, calls = self._generation, self._acceleration.num_calls
        if now is None or now.timesteps is not scheduler.timesteps:
            raise ValueError(
                f"call {index} of {calls}: the generation does not begin with call 0, and there is no map to be reused "
                "(strength below 1 of image-to-image, denoising_start). Start from noise, strength=1, or take "
                "the Acceleration away with cq.remove(pipe)."
            )
        if index != now.due:
            raise ValueError(
                f"call {index} of {calls}: call {now.due} is due, for the network is called once at every step, in "
                "order. Run the pipeline from its start, or take the Acceleration away with cq.remove(pipe)."
            )
        if call.x_NCHW.shape != now.shape:
            raise ValueError(
                f"call {index} of {calls}: the batch changed from {list(now.shape)} to {list(call.x_NCHW.shape)}, and "
                "the maps that are reused are of the former. Keep batch, size and guidance until the images are done."
            )
        return now

    def _renew(self) -> None:
        """Make sure that the network is the Acceleration's, and lower a copy of it as it is now."""
        network, made, acceleration = self._network, self._origin["model"], self._acceleration
        filled = self._filled
        check_made_of(network, made, self._where, stored=(filled.dtype, filled.made_of) if filled else None)
        held = next(network.parameters()).dtype
        with ExitStack() as stack:
            if filled:
                acceleration = replace(acceleration, params=stack.enter_context(filled.whole(acceleration.params)))
            stack.enter_context(torch.no_grad())
            stack.enter_context(inferring(network.parameters()))
            sites = tuple(made["sites"])
            denoiser = denoiser_of(shared_copy(network), site=sites[0], guidance=None).with_sites(sites)
            lowered = self._engine.lower(replace(denoiser, dtype=held), acceleration)
        self._denoiser: Denoiser = lowered
        self._known = self._state()

    def _state(self) -> list[Any]:
        """What changes when anybody changes the network: its modules, processors and tensors, and where those are."""
        modules = [(part, getattr(part, "processor", None)) for part in self._network.modules()]
        self._parameters = list(self._network.parameters())
        tensors = [*self._parameters, *self._network.buffers()]
        self._kept = (modules, tensors)  # so that no other object can take the place, and the name, of one of these
        return [
            _sampled(self._parameters),  # for what is written through .data, as merging a LoRA does, has no version
            *((id(part), id(processor)) for part, processor in modules),
            *((id(t), 0 if t.is_inference() else t._version, t.dtype, t.device) for t in tensors),
        ]

    def _tell(self, key: str, value: Any) -> None:
        """Say, once, that the pipeline is used otherwise than it was calibrated."""
        made = self._origin["model"].get(key)
        if value != made and key not in self._told:
            self._told.add(key)
            log.warning(
                "%s=%s: this Acceleration was calibrated with %s; its corrections fit less well", key, value, made
            )


@torch.no_grad()
def _sampled(parameters: list[torch.nn.Parameter]) -> list[float]:
    """A few values of every parameter, summed."""
    sums = [each.detach().flatten()[:: max(1, each.numel() // 64)].double().sum() for each in parameters]
    found: list[float] = torch.stack(sums).tolist()
    return found


def removed(pipe: Any) -> None:
    """Take an Acceleration away from a pipeline. Raises ValueError where there is none."""
    networks = [network for name in ("unet", "transformer") if (network := getattr(pipe, name, None)) is not None]
    held = [network.__dict__.get(key) for network in networks for key in ("forward", "_old_forward")]
    found = [owner for each in held if isinstance(owner := getattr(each, "__self__", None), Applied)]
    if not found:
        raise ValueError(f"pipe={type(pipe).__name__}: no Acceleration is applied to it. Nothing has to be removed.")
    found[0].remove()
