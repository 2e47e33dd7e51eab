"""What memory a run needs at its peak, from live tensors counted in two small calls of its own network.

Counted are the bytes of tensors that are alive at once; the process as it is after these calls is measured and added.
What libraries keep for themselves is not seen. On a CPU two allowances stand for it, see COPIES and KEPT.
"""

import dataclasses
import logging
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cq.models.diffusion import DiffusionModel
from cq.quantize.on_base import ROUNDING
from cq.quantize.passes import unit_bytes
from cq.run.components import Components
from cq.run.context import Run
from cq.run.costs import GIB, CallBytes
from cq.run.identity import described
from cq.run.pipeline import STEPS

log = logging.getLogger(__name__)

# glibc returns what is larger than this to the system at once; smaller pieces stay with the process.
KEPT = 2**25
BATCHED = {step.name: step.batch_of for step in STEPS} | {ROUNDING: "quantizer"}


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of storages that were made inside the mode and are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage(), known)
        return out

    def _add(self, storage: Any, known: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in known or key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


@torch.no_grad()
def call_bytes(parts: Components, model: DiffusionModel) -> CallBytes:
    """Count the tensors of calls of one and of two images; the difference is an image's."""

    def call(batch: int) -> tuple[int, ...]:
        x_NCHW = torch.zeros(batch, *parts.model.latent_shape, device=model.device)
        cond = model.condition(torch.zeros(batch, dtype=torch.int64, device=model.device))
        features: dict[str, Tensor] = {}

        def full() -> None:
            out = model.denoiser(x_NCHW, call=0, timestep=torch.tensor(500), cond=cond, reuse={})
            features.update(out.features)

        with _live() as live:
            sizes = unit_bytes(model.denoiser.network, model.denoiser.network.units(), full).values()
        kept = sum(_bytes(parts.calibrate.reduce(held)) for held in features.values())
        with _live() as decoding:
            model.decode(x_NCHW)
        return live.peak, kept, decoding.peak, max(map(sum, sizes)), sum(returned for _, returned in sizes)

    one, two = call(1), call(2)
    image, held, decode, unit, units = (b - a for a, b in zip(one, two, strict=True))
    base = psutil.Process().memory_info().rss if model.device.type == "cpu" else torch.cuda.memory_allocated()
    parameters = list(model.denoiser.network.backbone.parameters())
    return CallBytes(
        base=base, weights=sum(map(_bytes, parameters)), image=image, map=held, decode=decode, unit=unit, units=units,
        columns=max(weight[0].numel() for weight in parameters if weight.ndim > 1), on_cpu=model.device.type == "cpu",
    )  # fmt: skip


@contextmanager
def _live() -> Iterator[_Live]:
    mode = _Live()
    with mode:
        yield mode


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def peak_bytes(run: Run, found: CallBytes) -> dict[str, int]:
    """Peak of each step in the memory the network runs in; the largest one is the run's."""
    kept = KEPT if found.on_cpu else 0
    grown: dict[str, int] = {}
    for step in (make(run) for make in STEPS):
        grown |= step.held_bytes(found) if step.needed or step.name == "samples" else {}
    left = sum(min(size, kept) for size in grown.values())
    return {name: found.base + size + left - min(size, kept) for name, size in grown.items()}


def fitted(parts: Components, found: CallBytes) -> Components:
    """The run with batches, and the place of the calibration's ring, such that it stays within `max_memory`.

    Batches are halved where they have to be; what they added up to is accumulated over more of them. Raises ValueError
    where even a batch of one does not fit.
    """
    if parts.max_memory is None:
        return parts
    limit = int(parts.max_memory * GIB)
    while True:
        steps = peak_bytes(Run(parts), found)
        step = max(steps, key=lambda name: steps[name])
        if steps[step] <= limit:
            return parts
        if step == "statistics" and not found.on_cpu and not parts.offload:
            parts = dataclasses.replace(parts, offload=True)
            continue
        name = BATCHED.get(step, "")
        lighter = getattr(parts, name).lighter(step) if name else None
        if lighter is None:
            less = "fewer images or a smaller calibrate.max_interval"
            if step == ROUNDING:
                less = "a smaller quantize.num_states"
            raise ValueError(
                f"budget.max_memory={parts.max_memory}: {step} needs about {steps[step] / GIB:.2f} GiB at its "
                f"smallest batch. Set budget.max_memory to at least {steps[step] / GIB * 1.05:.2f}, or take {less}."
            )
        parts = dataclasses.replace(parts, **{name: lighter})


def within_budget(parts: Components) -> Components:
    """`fitted` to this machine; of several processes the main one decides. Nothing is loaded without `max_memory`."""
    if parts.max_memory is None:
        return parts
    model = Run(parts).model
    processes = parts.store.processes
    with processes.step():
        found = call_bytes(parts, model) if processes.is_main else None
    found = processes.told(found)
    assert found is not None
    chosen = fitted(parts, found)
    for key, value in changes(parts, chosen).items():
        log.info("budget.max_memory=%s: %s=%s", parts.max_memory, key, value)
    return chosen


def changes(before: Components, after: Components) -> Mapping[str, Any]:
    """What `fitted` chose, by configuration key."""
    found: dict[str, Any] = {}
    for key, name in (("sample", "sample"), ("calibrate", "calibrate"), ("quantize", "quantizer")):
        old, new = (flat(described(getattr(parts, name)), key) for parts in (before, after))
        found |= {key: value for key, value in new.items() if old.get(key) != value}
    return found


def flat(node: Any, key: str) -> dict[str, Any]:
    """Dotted key to value of nested mappings."""
    if not isinstance(node, Mapping):
        return {key: node}
    return {name: value for each in node for name, value in flat(node[each], f"{key}.{each}").items()}
