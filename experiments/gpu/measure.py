"""One published network at true size, random weights, on one device: every way to compute it, with and without a cache.

Compiles first, says so in a file, waits for another one, then measures: `run.py` starts one process a model, so that
they compile side by side and are measured one after another. Rows are appended to rows.jsonl as they are found.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from cq.core.acceleration import Acceleration
from cq.core.contracts import PlanRequest
from cq.core.denoise import denoise
from cq.core.denoiser import GuidedDenoiser
from cq.core.precision import multiply
from cq.cost.l1 import L1
from cq.engine.compiled import compiled
from cq.evaluate.efficiency import call_macs
from cq.models.architecture import architecture, build_module
from cq.models.cutting import denoiser_of
from cq.sampler.ddim import DDIM
from cq.sampler.plms import PLMS
from cq.schedule.uniform import Uniform


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """steps: of a measured trajectory. intervals: N. tokens: of the condition, 0 for a class label."""

    part: str
    sampler: Any
    steps: int
    intervals: tuple[int, ...]
    guidance: float
    tokens: int
    null_first: bool = True


SCENARIOS = {
    "ldm_imagenet256": Scenario(
        part="unet", sampler=DDIM(), steps=60, intervals=(5, 10, 20), guidance=1.5, tokens=1
    ),
    "sd_v1": Scenario(part="unet", sampler=PLMS(), steps=50, intervals=(5,), guidance=7.5, tokens=77),
    "dit_xl2_256": Scenario(
        part="transformer", sampler=DDIM(), steps=50, intervals=(2,), guidance=1.5, tokens=0, null_first=False
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to compute. tf32: products of float32. graph: compiled, on a GPU as CUDA graphs."""

    name: str
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    graph: bool = False


FP32 = Variant(name="fp32")  # torch eager: the baseline of every speed-up
EAGER = (FP32, Variant(name="tf32", tf32=True), Variant(name="bf16", dtype=torch.bfloat16))
BF16_COMPILED = Variant(name="bf16 compiled", dtype=torch.bfloat16, graph=True)
COMPILED = (BF16_COMPILED, Variant(name="tf32 compiled", tf32=True, graph=True))
BATCHES = (1, 8)  # images; guidance doubles them


def tiny(config: dict[str, Any]) -> dict[str, Any]:
    """The same architecture, small: to try this script on a CPU."""
    if "num_layers" in config:
        return {**config, "num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 8}
    small = {"block_out_channels": [32] * len(config["block_out_channels"]), "sample_size": 16, "layers_per_block": 1}
    return {**config, **small, "cross_attention_dim": 16}


class Model:
    """The network in every number type it is measured in, and what it is called with."""

    def __init__(self, name: str, device: torch.device, *, small: bool) -> None:
        self.name, self.device, self.scenario = name, device, SCENARIOS[name]
        folders = architecture(name)
        config = tiny(dict(folders[self.scenario.part])) if small else dict(folders[self.scenario.part])
        self.stored = folders["scheduler"]
        torch.manual_seed(0)
        with torch.device(device):
            network = build_module(config).requires_grad_(False)
        network = network.to(device)  # what was made of NumPy's arrays
        if self.scenario.tokens:
            site = f"up_blocks.{len(config['up_block_types']) - 1}.resnets.{config['layers_per_block']}"
        else:
            site = f"blocks.1-{config['num_layers'] - 1}"  # all but the first and the last
        self.shape = (config["in_channels"], config["sample_size"], config["sample_size"])
        self.width = config.get("cross_attention_dim", 0)
        plain = denoiser_of(
            network, site=site, guidance=self.scenario.guidance, null_first=self.scenario.null_first
        )  # fmt: skip
        self.eager = {v: plain if v.dtype == plain.dtype else _in(v.dtype, plain) for v in EAGER}
        self.compiled: dict[tuple[Variant, int], GuidedDenoiser] = {}

    def denoiser(self, variant: Variant, images: int) -> GuidedDenoiser:
        """What computes so many images so."""
        return self.compiled[variant, images] if variant.graph else self.eager[variant]

    def noise(self, images: int, seed: int = 0) -> Tensor:
        """[images, C, H, W]."""
        made = torch.randn(images, *self.shape, generator=torch.Generator().manual_seed(seed))
        return made.to(self.device)

    def cond(self, images: int) -> Tensor:
        """Of both halves."""
        if not self.scenario.tokens:
            return torch.arange(2 * images, device=self.device) % 1000
        drawn = torch.randn(2 * images, self.scenario.tokens, self.width, generator=torch.Generator().manual_seed(1))
        return drawn.to(self.device)

    def macs(self) -> tuple[int, int]:
        """Counted, of a full and of a cached call of one row."""
        denoiser = self.eager[FP32]
        full, cached = call_macs(
            denoiser.network, latent_shape=self.shape, cond=self.cond(1)[:1], sites=denoiser.sites
        )  # fmt: skip
        return sum(full.values()), sum(cached.values())

    def calls(self, variant: Variant, images: int, seed: int = 0) -> dict[str, Callable[[], Any]]:
        """A full call, and one that reuses the maps of a full call."""
        denoiser, x_NCHW = self.denoiser(variant, images), self.noise(images, seed)
        options: dict[str, Any] = {"call": 0, "timestep": torch.tensor(500), "cond": self.cond(images)}
        multiply("tf32" if variant.tf32 else "highest")
        maps = denoiser(x_NCHW, reuse={}, **options).features
        return {"full": lambda: denoiser(x_NCHW, reuse={}, **options),
                "cached": lambda: denoiser(x_NCHW, reuse=maps, **options)}  # fmt: skip

    def trajectory(self, variant: Variant, images: int, interval: int) -> Tensor:
        """All steps, by the project's own loop; the last state."""
        scenario = self.scenario
        num_calls = scenario.sampler.num_calls(scenario.steps)
        schedule = Uniform(interval=interval).plan(PlanRequest(num_calls=num_calls, cost=L1()))
        multiply("tf32" if variant.tf32 else "highest")
        noise_scheduler = scenario.sampler.noise_scheduler(self.stored, scenario.steps)
        *_, last = denoise(
            self.denoiser(variant, images), noise_scheduler, self.noise(images),
            cond=self.cond(images), acceleration=Acceleration(schedule=schedule),
        )  # fmt: skip
        return last.x_NCHW


def _in(dtype: torch.dtype, denoiser: GuidedDenoiser) -> GuidedDenoiser:
    network: Any = copy.deepcopy(denoiser.network)
    return replace(denoiser.with_network(network.to(dtype)), dtype=dtype)


class Clock:
    """Milliseconds of what the device does, by CUDA events; by the process's clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def of(self, run: Callable[[], Any]) -> float:
        if not self.on_gpu:
            started = time.perf_counter()
            run()
            return (time.perf_counter() - started) * 1e3
        event: Any = torch.cuda.Event
        before, after = event(enable_timing=True), event(enable_timing=True)
        torch.cuda.synchronize()
        before.record()
        run()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after))


class Measure:
    """Rows about one model, appended to the file as they are found."""

    def __init__(self, model: Model, rows: Path, until: float) -> None:
        self.model, self.rows, self.until = model, rows, until
        self.clock = Clock(model.device)
        self.expected: dict[tuple[Variant, int, str], float] = {}  # seconds of a call

    def write(self, what: str, **row: Any) -> None:
        line = {"what": what, "model": self.model.name, **row}
        with self.rows.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                          for key, value in row.items())  # fmt: skip
        print(f"[{self.model.name}] {what}: {shown}", flush=True)

    def compile(self, plan: list[tuple[Variant, int]], until: float, backend: str) -> list[tuple[Variant, int]]:
        """What of the plan was compiled, warm, before `until`; the rest is said to be left out."""
        done, longest = [], 0.0
        for variant, images in plan:
            if time.time() + 0.8 * longest > until:
                self.write("left out", variant=variant.name, images=images, why="no time left to compile it")
                continue
            started = time.time()
            for graphs in (True, False):
                try:
                    self._warm(variant, images, backend, graphs=graphs)
                    self._kept_apart(variant, images)
                    done.append((variant, images))
                    skipped = counters["inductor"]["cudagraph_skips"]  # calls that were no CUDA graph after all
                    self.write("compiled", variant=variant.name, images=images, graphs=graphs, skipped=skipped,
                               seconds=time.time() - started)  # fmt: skip
                    break
                except Exception as error:  # of a compiler, of a kernel, of a driver: the others go on
                    said = f"{type(error).__name__}: {str(error)[:1500]}"
                    self.write("failed", variant=variant.name, images=images, graphs=graphs, why=said)
            longest = max(longest, time.time() - started)
        return done

    def _warm(self, variant: Variant, images: int, backend: str, *, graphs: bool) -> None:
        model = self.model
        plain = next(each for each in EAGER if (each.dtype, each.tf32) == (variant.dtype, variant.tf32))
        on_gpu = model.device.type == "cuda"
        model.compiled[variant, images] = compiled(model.eager[plain], backend=backend, graphs=graphs and on_gpu)
        for call in model.calls(variant, images).values():
            for _ in range(3):  # compile, record, replay
                call()

    def _kept_apart(self, variant: Variant, images: int) -> None:
        """A later full call must not write over the maps of an earlier one."""
        first = self.model.calls(variant, images)["cached"]
        before = first().eps_NCHW.clone()
        self.model.calls(variant, images, seed=7)["cached"]()
        if float((first().eps_NCHW - before).norm() / before.norm()) > 1e-2:
            raise RuntimeError("the maps of a full call were written over by the next one")

    def accuracy(self, variants: list[Variant], images: int) -> None:
        """How far the prediction is from that of fp32, of its norm."""
        wanted = {kind: call().eps_NCHW.clone() for kind, call in self.model.calls(FP32, images).items()}
        for variant in variants:
            for kind, call in self.model.calls(variant, images).items():
                found = call().eps_NCHW
                self.write("accuracy", variant=variant.name, images=images, kind=kind,
                           off=float((found - wanted[kind]).norm() / wanted[kind].norm()))  # fmt: skip

    def calls(self, variants: list[Variant], images: int, seconds: float) -> None:
        """Full and cached calls in turns of all variants, until the seconds are over; at least three rounds."""
        until = time.time() + seconds
        calls = {variant: self.model.calls(variant, images) for variant in variants}
        found: dict[tuple[Variant, str], list[float]] = {}
        memory: dict[tuple[Variant, str], float] = {}
        for round_ in range(40):
            if round_ > 3 and time.time() > until:
                break
            for variant, kinds in calls.items():
                multiply("tf32" if variant.tf32 else "highest")
                for kind, call in kinds.items():
                    with _peak(self.model.device) as peak:
                        took = [self.clock.of(call) for _ in range(3)]
                    if round_:  # the first is not counted
                        found.setdefault((variant, kind), []).extend(took)
                    memory[variant, kind] = peak()
        for (variant, kind), took in found.items():
            self.expected[variant, images, kind] = statistics.median(took) / 1e3
            self.write("call", variant=variant.name, images=images, kind=kind, **spread(took),
                       working_mib=memory[variant, kind])  # fmt: skip

    def trajectories(self, variants: list[Variant], images: int, seconds: float, *, most: int = 6) -> None:
        """Whole trajectories in turns; a round that would not end in time is not begun, but for the first."""
        until = time.time() + seconds
        found: dict[tuple[Variant, int], list[float]] = {}
        scenario = self.model.scenario
        calls = scenario.sampler.num_calls(scenario.steps)
        round_, longest = 0, 0.0
        while round_ < most and (round_ == 0 or time.time() + longest < until):
            started = time.time()
            for variant, interval in product(variants, (1, *self.model.scenario.intervals)):
                refreshes = -(-calls // interval)
                full, cached = (self.expected[variant, images, kind] for kind in ("full", "cached"))
                if time.time() + refreshes * full + (calls - refreshes) * cached < self.until:
                    one = self.clock.of(partial(self.model.trajectory, variant, images, interval))
                    found.setdefault((variant, interval), []).append(one)
            round_, longest = round_ + 1, max(longest, time.time() - started)
        for (variant, interval), took in found.items():
            self.write("trajectory", variant=variant.name, images=images, N=interval,
                       calls=calls, **spread(took))  # fmt: skip


def spread(took: list[float]) -> dict[str, Any]:
    """Median, and the smallest and largest."""
    return {"ms": statistics.median(took), "least": min(took), "most": max(took), "count": len(took)}


class _peak:  # noqa: N801 - a context
    """MiB that were allocated on the GPU beyond what was there before; 0 on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def __enter__(self) -> Callable[[], float]:
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        return self.found

    def __exit__(self, *_: object) -> None: ...

    def found(self) -> float:
        return (torch.cuda.max_memory_allocated() - self.before) / 2**20 if self.on_gpu else 0.0


def batches(done: list[tuple[Variant, int]]) -> Iterator[tuple[int, list[Variant]]]:
    """Images, and what is measured with them."""
    for images in BATCHES:
        yield images, [*EAGER, *(variant for variant, of in done if of == images)]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=SCENARIOS)
    parser.add_argument("--work", type=Path, required=True, help="the folder of rows.jsonl and of the two files")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="inductor", help="of torch.compile; none to leave it out")
    parser.add_argument("--compile-until", type=float, default=0.0, help="seconds since 1970")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    device = torch.device(args.device)
    started = time.time()
    model = Model(args.model, device, small=args.tiny)
    weights = sum(p.numel() * p.element_size() for p in model.eager[FP32].network.backbone.parameters())
    measure = Measure(model, args.work / "rows.jsonl", until=float("inf"))
    full, cached = model.macs()
    measure.write("counted", macs_full=full, macs_cached=cached, weights_mib=weights / 2**20,
                  seconds=time.time() - started)  # fmt: skip
    bf16, tf32 = COMPILED
    plan = [] if args.backend == "none" else [(bf16, 1), (bf16, 8), (tf32, 1), (tf32, 8)]
    done = measure.compile(plan, args.compile_until, args.backend)
    (args.work / f"{args.model}.ready").touch()
    go = args.work / f"{args.model}.go"
    while not (go.is_file() and (said := go.read_text())):
        time.sleep(0.05)
    seconds = float(said)
    measure.until = time.time() + seconds
    # Shares of the time: single calls are short, and what is left goes to trajectories of the larger batch.
    for images, variants in batches(done):
        measure.accuracy(variants, images)
        measure.calls(variants, images, 0.12 * seconds)
        if images == 1:
            measure.trajectories(variants, images, 0.45 * seconds)
    left = measure.until - time.time()
    larger = dict(batches(done))[BATCHES[-1]]
    short = [variant for variant in larger if variant.name in ("fp32", "bf16", "bf16 compiled")]
    measure.trajectories(short, BATCHES[-1], left, most=2)


if __name__ == "__main__":
    main()
