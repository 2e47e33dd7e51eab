"""A run with integers: executed, timed, and beside its simulation in everything but the images."""

import logging
from pathlib import Path

import pytest

from cq.engine import integer
from cq.engine.kernels import weight_bits
from cq.report.axes import axes_of, name_of
from cq.run.ledger import execute
from tests.run.test_telling import QUANTIZED
from tests.tiny_runs import composed, quick

pytestmark = pytest.mark.skipif(not weight_bits(), reason="integers are not multiplied exactly here")


def test_a_run_with_integers_is_executed_and_timed(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integer, "SMALLEST", 0)
    caplog.set_level(logging.INFO)

    simulated, executed = (
        execute(*composed(quick(tiny_folder, tmp_path, *QUANTIZED, "latency.repeats=1", f"engine={engine}")))
        for engine in ("simulate", "int8")
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
