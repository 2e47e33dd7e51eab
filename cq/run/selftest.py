"""What `cq doctor --thorough` tries: PyTorch and its device, and every engine on calls of the bundled model."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cq.core.acceleration import Acceleration
from cq.core.artifacts import CacheSchedule
from cq.core.contracts import ChecksImages, Drawn, Engine, ExecutesFullPrecision
from cq.core.denoiser import Denoiser, GuidedDenoiser
from cq.core.processes import arithmetic, device
from cq.engine.kernels import HELD_BITS, weight_bits
from cq.evaluate.protocol import MetricUnavailable
from cq.quantize.twin import fake_quantized
from cq.run.building import build
from cq.run.compose import component, composed, composing
from cq.run.health import Finding, choices_of

MODEL = "ldm_mini"
COMPILED = 1e-4  # of a prediction in full precision by an engine that computes in an order of its own; else 0
FARTHEST = 0.05  # of a low-bit engine's prediction from the simulated one, relative, where it rounds elsewhere
SCHEDULE = CacheSchedule(num_calls=2, refresh_calls=(0,), planner="self-test", interval=2)


def tried() -> Iterator[Finding]:
    """Device and arithmetic as PyTorch has them, engines by self-test, and what published judges lack."""
    found = arithmetic()
    said = f"PyTorch {torch.__version__}: {found['device']}, {found['cpu']}, {found['threads']} threads"
    yield Finding(name="arithmetic", state="ok", said=said)
    yield from _engines()
    yield from _judges()


@torch.no_grad()
def _engines() -> Iterator[Finding]:
    model = component(f"model={MODEL}").load().on(device(), torch.float32)
    x_NCHW = torch.randn(1, *model.component.latent_shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    cond = model.condition(torch.zeros(1, dtype=torch.int64, device=model.device))
    options: dict[str, Any] = {"timestep": torch.tensor(500), "cond": cond}

    def calls(denoiser: Denoiser) -> list[Tensor]:
        """The predictions of a refresh, and of a call that reuses its maps."""
        full = denoiser(x_NCHW, call=0, reuse={}, **options)
        return [full.eps_NCHW, denoiser(x_NCHW, call=1, reuse=full.features, **options).eps_NCHW]

    def one_call(denoiser: Denoiser, *, deployed: bool) -> Iterator[int]:
        denoiser(x_NCHW, call=0, reuse={}, **options)
        yield 0

    bits = weight_bits() or HELD_BITS  # as many as integers of an engine are multiplied exactly
    ranges = component("quantize=minmax", f"budget.weight_bits={bits}", f"quantize.edge_bits={bits}").ranges
    params = ranges.calibrate(model.denoiser, one_call, num_calls=1, shards=Path())
    plain = Acceleration(schedule=SCHEDULE)
    expected = {
        "full precision": (plain, calls(model.denoiser), 0.0),
        "low bits": (replace(plain, params=params), calls(fake_quantized(model.denoiser, params)), FARTHEST),
    }
    for name in choices_of("engine"):
        yield _engine(name, component(f"engine={name}"), model.denoiser, expected, calls)


def _engine(name: str, engine: Engine, denoiser: GuidedDenoiser, expected: Any, calls: Any) -> Finding:
    told = []
    for kind, (acceleration, wanted, farthest) in expected.items():
        if not acceleration.quantized and isinstance(engine, ExecutesFullPrecision):
            farthest = COMPILED
        try:
            engine.check(quantized=acceleration.quantized)
        except ValueError:
            continue  # not what it is for
        try:
            found = calls(engine.lower(denoiser, acceleration))
        except Exception as error:  # of a compiler, of a kernel, of a driver
            remedy = "Choose another engine; HYDRA_FULL_ERROR=1 shows where a run with it fails."
            said = f"{kind}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            return Finding(name=f"engine {name}", state="problem", said=said, remedy=remedy)
        off = max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))
        if not off <= farthest:
            remedy = "Choose another engine, and report this machine's processor."
            said = f"{kind}: its prediction is off by {off:.2g} of its size"
            return Finding(name=f"engine {name}", state="problem", said=said, remedy=remedy)
        told.append(f"{kind}: {'bit for bit' if off == 0 else f'off by {off:.1g}'}")
    return Finding(name=f"engine {name}", state="ok", said="; ".join(told))


def _judges() -> Iterator[Finding]:
    """What is missing of those metrics that need downloads, in their own words."""
    drawn = Drawn(num_images=50_000, shape=(3, 256, 256), captioned=True)
    with composing():
        config, _ = composed(["evaluate=none", *(f"+metric@metrics.{name}={name}" for name in choices_of("metric"))])
    for name, node in config.metrics.items():
        metric = build(node, f"metrics.{name}")
        if not isinstance(metric, ChecksImages):
            continue
        try:
            metric.check(drawn)
        except MetricUnavailable as error:
            yield Finding(name=f"judge {name}", state="note", said="not here", remedy=str(error))
        except ValueError:
            continue  # of images of another size
