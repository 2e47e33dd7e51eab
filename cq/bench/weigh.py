"""What a way needs beside time: bytes on disk and in memory, the peak while it serves, and its counted cost."""

import gc
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from cq.bench.parts import backbone_of
from cq.bench.scenario import Scenario
from cq.bench.subject import Subject
from cq.bench.ways import Ready, uniform
from cq.core.acceleration import Acceleration
from cq.core.denoiser import GuidedDenoiser
from cq.core.heap import give_back
from cq.engine.int8 import Int8
from cq.engine.kernels import weight_bits
from cq.evaluate.efficiency import counted_cost

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_bytes(line: str = "VmRSS") -> int:
    """Of this process. line: of its status; VmHWM for the peak."""
    found = next(text for text in STATUS.read_text().splitlines() if text.startswith(f"{line}:"))
    return int(found.split()[1]) * 1024


def forget_peak() -> None:
    """Give back what is free, and count the peak from here on, where the kernel lets a process do that."""
    gc.collect()
    give_back()
    with suppress(OSError):
        CLEAR.write_text("5")


def held_bytes(network: nn.Module) -> int:
    """Of the weights as they lie in memory: parameters and buffers once each, and what layers have packed."""
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in (*network.parameters(), *network.buffers())}
    return sum(tensors.values()) + sum(getattr(module, "num_bytes", 0) for module in network.modules())


def stored_bytes(denoiser: GuidedDenoiser, acceleration: Acceleration) -> int:
    """Of a file with all that serving needs: codes of quantized weights at their bits, the rest in float32, tables.

    Codes of up to 4 bits lie two in a byte; of more, one.
    """
    bits = {f"{row['name']}.weight": row["weight_bits"] for row in acceleration.params.coverage if not row["reason"]}
    per_code = {name: 0.5 if width <= 4 else 1.0 if width <= 8 else 2.0 for name, width in bits.items()}
    total = sum(
        tensor.numel() * per_code.get(name, tensor.element_size())
        for name, tensor in denoiser.network.backbone.state_dict().items()
    )
    tables: list[Tensor] = [
        tensor for name, tensor in acceleration.params.tensors.items() if not name.endswith("codes")
    ]
    tables += [table for part in (acceleration.cache, acceleration.quant) for table in part.tables.values()]
    return int(total) + sum(tensor.nbytes for tensor in tables)


def counted(scenario: Scenario, empty: Subject, acceleration: Acceleration) -> dict[int, dict[str, float]]:
    """MACs, BOPs and weight bytes by interval, 1 without a cache; empty: the subject, with or without numbers."""
    num_calls = empty.sampler.num_calls(scenario.num_steps)
    network = empty.denoiser.network
    where = next(network.backbone.parameters()).device
    return {
        interval: counted_cost(
            network, latent_shape=empty.component.latent_shape, schedule=uniform(num_calls, interval),
            cond=None if empty.cond is None else empty.cond[:1].to(where), sites=empty.denoiser.sites,
            coverage=acceleration.params.coverage,
        )
        for interval in (1, *scenario.intervals)
    }  # fmt: skip


def layers_in_float(denoiser: GuidedDenoiser, acceleration: Acceleration) -> list[dict[str, str]]:
    """What is not multiplied in integers: name, kind and the reason, of the quantizer or of the engine."""
    return [
        {"name": layer.name, "kind": layer.kind, "reason": layer.reason}
        for layer in Int8().coverage(denoiser, acceleration)
        if layer.reason
    ]


def weighed(way: Ready) -> dict[str, Any]:
    """Weights in memory, once the way has run."""
    return {"weights_memory_bytes": held_bytes(backbone_of(way.denoiser)), "weight_bits_exact": weight_bits()}
