"""The published models at their true size, with random weights: the whole pipeline, one model at a time.

Opt in, a model a command: `pytest tests/test_true_architectures.py -m slow -s -k ldm_church256`. Random weights draw
noise; what is shown is that every stage runs, what it takes, and what a call costs.
"""

import os
import re
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cq.run.record_file import read
from tests.tiny_runs import composed
from tests.true_models import ARCHITECTURES, write_true

ROOT = Path(__file__).parents[1]
GIB = 20


@dataclass(frozen=True, kw_only=True)
class Told:
    """steps: of the sampler. overrides: what the paper's protocol sets beside the model.

    full, cached: multiply-accumulates a call in units of 10^9 by specification 3.1 and 11.4, None where it has none;
    bounds where the literature counts differently.
    """

    steps: int
    overrides: tuple[str, ...] = ()
    full: tuple[float, float] | None = None
    cached: tuple[float, float] | None = None


def near(value: float) -> tuple[float, float]:
    return 0.98 * value, 1.02 * value


MODELS = {
    "ddpm_cifar10": Told(steps=8, overrides=("sampler=ddim_quadratic",), full=near(6.22), cached=near(3.38)),
    "ldm_bedroom256": Told(steps=4, cached=near(6.01)),
    "ldm_church256": Told(steps=4, cached=near(1.66)),
    "ldm_imagenet256": Told(steps=4, full=(99.8, 104.5), cached=near(4.42)),
    "sd_v1_4": Told(steps=4, overrides=("sampler=plms",), full=(330, 410), cached=near(31.6)),
    "dit_xl2_256": Told(steps=4, full=near(118.6), cached=(0.07 * 118.6, 0.075 * 118.6)),
}


def test_every_model_of_the_issue_is_covered() -> None:
    assert MODELS.keys() == ARCHITECTURES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_whole_pipeline_at_true_size(name: str, tmp_path: Path) -> None:
    told, weights = MODELS[name], tmp_path / "weights"
    sizes = write_true(name, weights)
    arguments = [
        "experiment=table5/quant_dps_dec", f"model={name}", f"model.weights={weights}", "debug=smoke",
        "evaluate=fidelity", f"budget.num_steps={told.steps}", "budget.cache_interval=2", "calibrate.num_samples=2",
        "calibrate.batch_size=1", "quantize.num_samples=2", "quantize.batch_size=1", "sample.num_images=2",
        "sample.batch_size=1", "sample.trace=2", *told.overrides, f"paths.store={tmp_path}/store",
        f"paths.records={tmp_path}/records.jsonl", f"paths.tracking={tmp_path}/wandb",
    ]  # fmt: skip
    arguments += [f"model.prompts={weights}"] if name == "sd_v1_4" else []
    started = time.monotonic()
    _command("cq", *arguments, f"hydra.run.dir={tmp_path}/hydra")
    seconds = time.monotonic() - started
    _command("cq.report", "table5", "--records", str(tmp_path / "records.jsonl"), "--out", str(tmp_path / "out"))
    gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    (record,) = read(tmp_path / "records.jsonl")
    assert record.status == "ok"
    assert record.counted["num_calls"] > record.counted["num_refreshes"]
    full, cached = (record.counted[key] / 1e9 for key in ("macs_full", "macs_cached"))
    sys.stdout.write(
        f"\n{name}, random weights: {', '.join(f'{part} {count / 1e6:.1f} M' for part, count in sizes.items())}; "
        f"MACs a call: full {full:.2f} G (told {told.full}), cached {cached:.2f} G (told {told.cached}); "
        f"{seconds:.0f} s, peak {gib:.1f} GiB; stages { ({k: round(v, 1) for k, v in record.seconds.items()}) }\n"
    )
    for count, bounds in ((full, told.full), (cached, told.cached)):
        assert bounds is None or bounds[0] <= count <= bounds[1]
    assert gib <= GIB
    assert re.search(r"^\| quantized \+ DPS", (tmp_path / "out/tables/table5.md").read_text(), flags=re.MULTILINE)
    _check_the_same_call_law(arguments)


@torch.no_grad()
def _check_the_same_call_law(arguments: list[str]) -> None:
    """What a full call recorded, fed back at the same call, gives the same bits."""
    from cq.run.building import build

    model = build(composed(arguments)[0].model, "model").load()
    x: Tensor = torch.randn(1, *model.component.latent_shape)
    cond = model.condition(torch.tensor([0]))
    first = model.denoiser(x, call=0, timestep=torch.tensor(400), cond=cond, reuse={})
    again = model.denoiser(x, call=0, timestep=torch.tensor(400), cond=cond, reuse=first.features)
    assert torch.equal(again.eps_NCHW, first.eps_NCHW)
    assert first.eps_NCHW.shape == x.shape


def _command(module: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
