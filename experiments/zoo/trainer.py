"""One training loop for every part of the zoo: seeded, checkpointed, resumable, with EMA."""

import copy
import logging
import os
import re
import time
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)


class Recipe(Protocol):
    """What is trained, on what, and for how long. Loss and data are the recipe; the loop is `fit`."""

    @property
    def name(self) -> str: ...
    @property
    def num_steps(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def ema_decay(self) -> float: ...
    @property
    def seed(self) -> int: ...

    def model(self) -> nn.Module:
        """A freshly initialised model (the caller has seeded torch)."""

    def data(self) -> tuple[Tensor, ...]:
        """Tensors of equal first dimension; a batch is a row selection of each."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        """Scalar loss of one batch; all randomness comes from `generator`."""

    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Write the EMA model into `folder` as it ships and return the figures to log."""


def fit(recipe: Recipe, *, work: Path, zoo: Path, checkpoint_seconds: float = 60.0) -> dict[str, float]:
    """Train `recipe`, going on from the checkpoint in `work` if there is one; then export to `zoo`.

    Batch order and noise are functions of (seed, step) alone, so a run that was killed and resumed
    sees exactly what an undisturbed run sees.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / f"{recipe.name}.pt"
    torch.manual_seed(recipe.seed)
    model = recipe.model().to(memory_format=torch.channels_last)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["recipe"] != _identity(recipe):
            raise ValueError(
                f"{checkpoint}: was made by another recipe ({state['recipe']}). Delete it, or train elsewhere "
                "with --work."
            )
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        first = int(state["step"])
        log.info("%s: resumed at step %d of %d", recipe.name, first, recipe.num_steps)

    def save(step: int) -> None:
        partial = checkpoint.with_suffix(".partial")
        torch.save(
            {
                "recipe": _identity(recipe), "model": model.state_dict(), "ema": ema.state_dict(),
                "optimizer": optimizer.state_dict(), "step": step,
            },
            partial,
        )  # fmt: skip
        os.replace(partial, checkpoint)

    data = recipe.data()
    model.train()
    started = saved = time.monotonic()
    running = 0.0
    for step in range(first, recipe.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe.num_steps)
        loss = recipe.loss(model, _batch(data, recipe, step), _generator(recipe.seed, 1, step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        _update_ema(ema, model, min(recipe.ema_decay, (1 + step) / (10 + step)))
        running += loss.item()
        if (step + 1) % 200 == 0:
            rate = (time.monotonic() - started) / (step + 1 - first)
            left = rate * (recipe.num_steps - step - 1) / 60
            log.info(
                "%s: step %d of %d, loss %.4f, %.3f s a step, %.0f minutes left",
                recipe.name, step + 1, recipe.num_steps, running / 200, rate, left,
            )  # fmt: skip
            running = 0.0
        if time.monotonic() - saved > checkpoint_seconds:
            save(step + 1)
            saved = time.monotonic()
    save(recipe.num_steps)
    ema.eval()
    figures = recipe.export(ema, zoo)
    log.info("%s: done, %s", recipe.name, ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    return figures


def _schedule(step: int, num_steps: int) -> float:
    """Learning-rate factor: warm-up over 500 steps, constant, and a linear fall to zero over the last fifth.

    Nothing before the last fifth depends on num_steps, so a run can be lengthened from its checkpoint.
    """
    return min(1.0, (step + 1) / 500, (num_steps - step) / (num_steps / 5))


def _generator(seed: int, stream: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 4 + stream) * 10_000_019 + index)


def _batch(data: tuple[Tensor, ...], recipe: Recipe, step: int) -> tuple[Tensor, ...]:
    per_epoch = len(data[0]) // recipe.batch_size
    epoch, index = divmod(step, per_epoch)
    order = torch.randperm(len(data[0]), generator=_generator(recipe.seed, 0, epoch))
    rows = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
    return tuple(tensor[rows] for tensor in data)


def _identity(recipe: Recipe) -> str:
    """What must not change between a checkpoint and the run that goes on from it; the length may."""
    return re.sub(r"num_steps=\d+, |\w+=PosixPath\([^)]*\), ", "", repr(recipe))


def _update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        for kept, new in zip(ema.buffers(), model.buffers(), strict=True):
            kept.copy_(new)  # batch-norm statistics are running means already
