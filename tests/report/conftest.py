"""A finished run of the tiny model, cached, quantized and corrected, with its record and its store."""

from pathlib import Path

import pytest

from cq.report.kept import Kept, kept
from cq.report.pick import Run, runs_in
from cq.run.ledger import execute
from tests.tiny_runs import composed, quick

WORDS = (
    "schedule=dps", "quantize=ptq", "budget.weight_bits=4", "quantize.num_samples=4",
    "correct@correct.cache=channel_affine", "correct@correct.quant=channel_affine", "logger=none",
)  # fmt: skip


@pytest.fixture(scope="session")
def tiny_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("a_run")
    arguments = quick(tiny_folder, root, *WORDS)
    config, choices = composed(arguments)
    execute(config, choices, arguments)
    return runs_in([root / "records.jsonl"])[0]


@pytest.fixture(scope="session")
def tiny_kept(tiny_run: Run) -> Kept:
    return kept(tiny_run, layers=True)
