"""A run with integers: executed, timed, and beside its simulation in everything but the images."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from cq.engine import int8, integer
from cq.engine.kernels import weight_bits
from cq.engine.simulate import Simulate
from cq.quantize.none import FullPrecision
from cq.report.axes import axes_of, name_of
from cq.run.components import Components
from cq.run.ledger import execute
from cq.run.preflight import check_weight_bits
from tests.quantize.trajectories import PTQ_8
from tests.run.test_telling import QUANTIZED
from tests.tiny_runs import composed, quick

pytestmark = pytest.mark.skipif(not weight_bits(), reason="integers are not multiplied exactly here")


def test_a_run_with_integers_is_executed_and_timed(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer, "SMALLEST", 0)
    caplog.set_level(logging.INFO)

    asked = (*QUANTIZED, "latency.repeats=1", f"budget.weight_bits={weight_bits()}")
    simulated, executed = (
        execute(*composed(quick(tiny_folder, tmp_path, *asked, f"engine={engine}"))) for engine in ("simulate", "int8")
    )
    told = " ".join(" ".join(caplog.messages).split())
    assert (simulated.executed, executed.executed) == ("", "Int8")
    assert simulated.measured is None
    assert executed.measured
    assert executed.measured["seconds_per_image"] > 0
    assert "simulated: its bits" in told
    assert "executed by Int8, measured: " in told
    differ = {stage for stage in executed.artifacts if executed.artifacts[stage] != simulated.artifacts[stage]}
    assert differ == {"samples", "timing"}
    assert executed.images_digest != simulated.images_digest
    both = [simulated, executed]
    assert [name_of(each, axes_of(both)) for each in both] == ["simulate", "int8"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_integers_stand_in_a_network_of_16_bits(
    dtype: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer, "SMALLEST", 0)
    bits = f"budget.weight_bits={weight_bits()}"
    words = quick(
        tiny_folder, tmp_path, *QUANTIZED, bits, "engine=int8", f"compute.dtype={dtype}", "sample.num_images=2"
    )
    executed = execute(*composed([*words, "budget.num_steps=4"]))
    assert executed.executed == "Int8"
    assert executed.scores["psnr_fp_db"]["value"] > 10


def test_weights_of_more_bits_than_this_machine_multiplies_are_refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "weight_bits", lambda: 7)

    config, _ = composed(quick(tiny_folder, tmp_path, *QUANTIZED, "engine=int8", "budget.weight_bits=8"))
    with pytest.raises(ValueError, match=r"budget\.weight_bits=8: .* of 7 bits exactly.*\. Set budget\.weight_bits=7 "):
        Components.of(config)
    for fine in (4, 7, 16):
        check_weight_bits(replace(PTQ_8, weight_bits=fine), int8.Int8())
    check_weight_bits(PTQ_8, Simulate())
    check_weight_bits(FullPrecision(), int8.Int8())
