"""What is timed, in which order, and what is left out of it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cq.evaluate.latency import Latency


def test_loops_take_turns_and_the_first_run_of_each_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now, ran = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def loop(name: str, seconds: float) -> Any:
        def run(batch_size: int) -> Iterator[Any]:
            now[0] += seconds * (10 if name not in ran else 1)  # whatever a first run has to prepare
            ran.append(name)
            yield SimpleNamespace(x_NCHW=torch.zeros(batch_size, 1))

        return run

    timing = Latency(batch_size=4, repeats=3).measure({"this": loop("this", 2.0), "full": loop("full", 8.0)})
    assert ran == ["this", "full"] * 4
    assert timing.seconds_this == pytest.approx((2.0,) * 3)
    assert timing.seconds_full == pytest.approx((8.0,) * 3)
    summary = timing.summary()
    assert summary is not None
    assert (summary["seconds_per_image"], summary["speedup"]) == pytest.approx((0.5, 4.0))
    assert summary["device"].startswith("cpu (")
    assert summary["peak_mem_mib"] > 10


def test_nothing_to_time_leaves_nothing() -> None:
    def never(batch_size: int) -> Iterator[Any]:
        raise AssertionError("must not run")

    for repeats, runs in ((0, {"this": never, "full": never}), (3, {})):
        timing = Latency(batch_size=1, repeats=repeats).measure(runs)
        assert timing.summary() is None
