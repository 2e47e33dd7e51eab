"""One calibrated tiny model for all tests that only look at it."""

import pytest

from cq.core.artifacts import QuantParams
from cq.models.latent import LatentDiffusion
from tests.quantize.trajectories import PTQ_8, TinyRuns


@pytest.fixture(scope="session")
def runs(tiny: LatentDiffusion) -> TinyRuns:
    return TinyRuns(model=tiny.load())


@pytest.fixture(scope="session")
def params(runs: TinyRuns) -> QuantParams:
    return runs.calibrated(PTQ_8)
