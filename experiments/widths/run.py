"""Which layers bear few bits: python experiments/widths/run.py MODEL [--seeds 0 1 2] [--mixed | --budget] [OVERRIDE...]

W4A8 by kind of layer: the weights of one kind at 4 bits, all others at 8, rounded by gptq, without a cache. With
--mixed instead widths by measured sensitivity beside one width for all. With --budget bits and refreshes in one budget
of BOPs: the recipe `best` at N = 10 and 8 bits against more refreshes of fewer bits, one width for all and mixed.

Runs like any other, recorded in results/runs_widths.jsonl: what is there is not run again. Sensitivities are measured
on calibration seeds. `cq-report widths` writes the table.
"""

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from functools import cached_property
from statistics import mean, stdev
from typing import NamedTuple

from cq.evaluate.efficiency import call_macs
from cq.quantize.observers import ErrorSearch
from cq.quantize.widths import Asked, asked_along, inner_layers, sensitivities, widths_within
from cq.run.components import Components
from cq.run.compose import composed, composing
from cq.run.context import Run
from cq.run.ledger import execute
from cq.run.record import RunRecord, latest

log = logging.getLogger("widths")

MODELS: Mapping[str, tuple[str, ...]] = {
    "ldm_mini": ("model=ldm_mini", "budget.num_steps=100"),
    "dit_mini": ("model=dit_mini", "budget.num_steps=50"),
    "sd_mini": ("model=sd_mini", "budget.num_steps=50", "sampler=plms"),
}
KINDS: Mapping[str, Sequence[str]] = {  # those of them that a network has
    "time embeddings": ("*time*emb*",),
    "adaLN": ("*.norm?.linear",),
    "attention": ("*.attn?.to_*",),
    "feed-forward": ("*.ff.net.*",),
    "projections": ("*.proj_in", "*.proj_out"),
    "convolutions": ("*conv*",),
}
MEANS = (4, 5, 6)
SHARED = ((10, 8.0), (8, 5.7), (6, 4.4), (5, 4.0))  # cache interval and mean bits: 5, 7, 9, 10 refreshes of 50 calls
CALLS, IMAGES = 6, 16  # that sensitivities are measured at
COMMON = ("quantize=gptq", "quantize@quantize.base=mixed", "evaluate=outliers", "sample=images100", "latency=none")
PLACE = ("paths=results", "row.table=widths")


class Row(NamedTuple):
    """name, label: in the table. bits: of all layers that `widths` does not name."""

    name: str
    label: str
    bits: int
    widths: Mapping[str, int]
    more: tuple[str, ...] = ()

    def overrides(self) -> list[str]:
        given = ",".join(f"{name}:{bits}" for name, bits in self.widths.items())
        return [
            f"row.name={self.name}", f"row.label='{self.label}'", f"budget.weight_bits={self.bits}", *self.more,
            *([f"quantize.base.widths={{{given}}}"] if given else []),
        ]  # fmt: skip


class Layers:
    """A model's layers: what each alone does to the prediction at 4 bits, and its products."""

    def __init__(self, overrides: Sequence[str]) -> None:
        with composing():
            self._run = Run(Components.of(composed(overrides)[0]))

    def named(self, pattern: str) -> bool:
        """Whether a layer has such a name."""
        return any(fnmatch(name, pattern) for name in inner_layers(self._run.model.denoiser.network))

    @cached_property
    def _asked(self) -> list[Asked]:
        run, seeds = self._run, self._run.loops.seeds(IMAGES)
        trajectory = run.loops.started(run.model.denoiser, seeds, run.unaccelerated)
        at = {run.num_calls * each // CALLS for each in range(CALLS)}
        return asked_along(trajectory, run.loops.begun(seeds)[1], at)

    @cached_property
    def _change(self) -> dict[str, float]:
        observer = ErrorSearch(power=2.4, candidates=40, step=0.02)
        return sensitivities(self._run.model.denoiser, self._asked, observer)

    def mixed(self, mean_bits: float) -> dict[str, int]:
        """Widths of that mean."""
        model, cond = self._run.model, self._asked[0][3]
        macs, _ = call_macs(
            model.denoiser.network, latent_shape=model.component.latent_shape,
            cond=None if cond is None else cond[:1], sites=model.denoiser.sites,
        )  # fmt: skip
        return widths_within(self._change, macs, mean_bits=mean_bits)


def kinds(model: str, layers: Layers) -> Iterator[Row]:
    """What 4 bits cost by kind."""
    short = model.partition("_")[0]
    yield Row(f"{short}_w8", f"{short}: W8A8", 8, {})
    for kind, patterns in KINDS.items():
        held = [each for each in patterns if layers.named(each)]
        if held:
            name = f"{short}_{kind.replace('-', ' ').replace(' ', '_')}"
            yield Row(name, f"{short}: {kind} at 4 bits", 8, dict.fromkeys(held, 4))
    yield Row(f"{short}_w4", f"{short}: W4A8", 4, {})


def mixed(model: str, layers: Layers) -> Iterator[Row]:
    """One width for all, and widths of the same mean."""
    short = model.partition("_")[0]
    for bits in MEANS:
        yield Row(f"{short}_w{bits}", f"{short}: W{bits}A8", bits, {})
        yield Row(f"{short}_mixed_{bits}", f"{short}: mixed, {bits} bits in the mean", 8, layers.mixed(bits))


def shared(model: str, layers: Layers) -> Iterator[Row]:
    """One budget of BOPs for bits and refreshes."""
    short = model.partition("_")[0]
    for interval, bits in SHARED:
        best = ("recipe=best", f"budget.cache_interval={interval}")
        label, name = f"{short}: best, N = {interval}", f"{short}_best_{interval}"
        if bits == int(bits):
            yield Row(name, f"{label}, W{bits:.0f}A8", int(bits), {}, best)
        if bits < 8:
            yield Row(f"{name}_mixed", f"{label}, mixed, {bits:g} bits in the mean", 8, layers.mixed(bits), best)


def table(records: Sequence[RunRecord]) -> list[str]:
    """In Markdown: PSNR by row, a column a model; mean and standard deviation over seeds, where there are several."""
    models = sorted({record.model["name"] for record in records})
    found: dict[str, dict[str, list[float]]] = {}
    for record in latest(records):
        cell = found.setdefault(record.label.partition(": ")[2], {}).setdefault(record.model["name"], [])
        cell.append(record.scores["psnr_fp_db"]["value"])
    lines = [f"| PSNR, dB, against full precision | {' | '.join(models)} |", f"|---|{'---|' * len(models)}"]
    for label, cells in found.items():
        told = [
            f"{mean(values):.1f}" + (f" ± {stdev(values):.1f}" if len(values) > 1 else "")
            if (values := cells.get(model)) else "-"
            for model in models
        ]  # fmt: skip
        lines.append(f"| {label} | {' | '.join(told)} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--mixed", dest="rows", action="store_const", const=mixed, help="widths by sensitivity")
    asked.add_argument("--budget", dest="rows", action="store_const", const=shared, help="bits and refreshes")
    options, given = parser.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for seed in options.seeds:
        common = (*MODELS[options.model], *COMMON, *PLACE, f"seed={seed}", *given)
        layers = Layers(common)
        rows = list((options.rows or kinds)(options.model, layers))
        for index, row in enumerate(rows, 1):
            own = list(row.more)  # a recipe before what it would set
            overrides = [*own, *common, *(each for each in row.overrides() if each not in own)]
            with composing():
                config, choices = composed(overrides)
            log.info("seed %d, row %d of %d: %s", seed, index, len(rows), row.label)
            record = execute(config, choices, overrides)
            told = {name: round(float(score["value"]), 4) for name, score in record.scores.items()}
            log.info("%s: %s, %.3g BOPs a call", row.label, told, record.counted["bops_mean"])


if __name__ == "__main__":
    main()
