"""Sweeps go to a cluster or to local cores by a launcher; submitit's own local executor stands in for Slurm."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cq.run.compose import composed_with_hydra, composing
from cq.run.record_file import read
from tests.tiny_runs import quick

REPOSITORY = Path(__file__).parents[1]


def sweep(tiny_folder: Path, root: Path, *overrides: str) -> None:
    """A sweep of one good run and one that its sampler refuses; the good one is recorded, the other one is told."""
    row = "experiment=table5/cache_uniform"  # which the other process must know, too
    arguments = quick(tiny_folder, root, row, "sample.num_images=2", "budget.num_steps=4,2000", *overrides)
    done = subprocess.run(
        [sys.executable, "-m", "cq", "-m", f"hydra.sweep.dir={root}/sweep", *arguments],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    assert "1 of 2 cells did not end well:\n  refused: budget.num_steps=2000: " in done.stderr
    (record,) = read(root / "records.jsonl")
    assert (record.status, record.experiment) == ("ok", "table5/cache_uniform")


def test_a_sweep_runs_as_a_job_of_submitit(tiny_folder: Path, tmp_path: Path) -> None:
    sweep(tiny_folder, tmp_path, "hydra/launcher=submitit_local")
    assert list((tmp_path / "sweep/.submitit").rglob("*_result.pkl"))


@pytest.mark.parametrize("launcher", ["slurm", "cores"])
def test_a_launcher_composes(launcher: str) -> None:
    with composing():
        config = composed_with_hydra([f"hydra/launcher={launcher}"])
    assert config.hydra.launcher._target_.startswith("hydra_plugins.")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("sinfo") is None, reason="needs a Slurm that answers")
def test_a_sweep_runs_as_a_job_of_slurm(tiny_folder: Path, tmp_path: Path) -> None:
    """Against a real Slurm; one node is enough. On Debian, as root:

    apt-get install slurmctld slurmd slurm-client munge, then in /etc/slurm/slurm.conf

        ClusterName=one
        SlurmctldHost=HOST(127.0.0.1)
        SlurmUser=root
        StateSaveLocation=/var/spool/slurmctld
        SlurmdSpoolDir=/var/spool/slurmd
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        SelectType=select/cons_tres
        SelectTypeParameters=CR_Core
        ReturnToService=2
        NodeName=HOST NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 State=UNKNOWN
        PartitionName=all Nodes=HOST Default=YES MaxTime=INFINITE State=UP

    with HOST as `hostname -s` says, and munged (as user munge), slurmctld and slurmd started; `sinfo` then shows an
    idle node. What the test asks for is one core and no share of the memory.
    """
    sweep(
        tiny_folder, tmp_path, "hydra/launcher=slurm", "hydra.launcher.mem_gb=null", "hydra.launcher.cpus_per_task=1",
        "hydra.launcher.timeout_min=10",
    )  # fmt: skip
    assert list((tmp_path / "sweep/.submitit").rglob("*_result.pkl"))
