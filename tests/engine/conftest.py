"""The calibrated tiny model of the quantizers' tests."""

from tests.quantize.conftest import params, runs

__all__ = ["params", "runs"]
