"""What the measurements will take, from counted multiplications and the speed of one product on this machine."""

import time
from collections.abc import Sequence
from functools import cache

import torch

from cq.bench.jobs import Job, longest
from cq.bench.scenario import read_scenario, read_way
from cq.bench.subject import subject_of
from cq.bench.ways import settings_of
from cq.evaluate.efficiency import call_macs

PRODUCT = 1024  # sides of the matrices whose product is timed
EAGER = 0.75  # of that speed in a whole network
SETUP = 25.0  # seconds to start a process, make the network and lower it
NARROW = 1.5  # how much longer half as wide instructions take
SECOND = 0.55  # how long it takes with twice the threads


def seconds_of(jobs: Sequence[Job]) -> dict[str, float]:
    """By file; a guess to plan by, within a factor of two."""
    return {job.file: _seconds(job) for job in jobs}


def _seconds(job: Job) -> float:
    scenario = job.scenario
    full, cached = (macs / (macs_a_second() * EAGER) for macs in _calls(job.name))
    calls = len(range(0, scenario.timed_steps, scenario.intervals[0]))
    trajectory = calls * full + (scenario.timed_steps - calls) * cached
    ways = [read_way(name) for name in job.ways]
    if job.kind == "weigh":
        return SETUP + 2 * full + ways[0].share * trajectory
    total = 2 * full + sum(way.share * (trajectory * longest(way, scenario) + job.parts * full) for way in ways)
    return SETUP + total * (NARROW if job.cap == "avx2" else 1.0) * (SECOND if job.threads > 1 else 1.0)


@cache
def _calls(name: str) -> tuple[int, int]:
    """Multiplications of a full and of a cached call of the whole batch."""
    scenario = read_scenario(name)
    subject = subject_of(scenario, settings_of(scenario, read_way(scenario.ways[0])), empty=True)
    network = subject.denoiser.network
    where = next(network.backbone.parameters()).device
    full, cached = call_macs(
        network, latent_shape=subject.component.latent_shape, sites=subject.denoiser.sites,
        cond=None if subject.cond is None else subject.cond[:1].to(where),
    )  # fmt: skip
    batch = scenario.images * (1 if subject.denoiser.guidance is None else 2)
    return batch * sum(full.values()), batch * sum(cached.values())


@cache
def macs_a_second() -> float:
    """Of a product of two matrices on one thread, by the best of a few."""
    x, y = torch.rand(PRODUCT, PRODUCT), torch.rand(PRODUCT, PRODUCT)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = []
    for _ in range(4):
        started = time.perf_counter()
        x @ y
        taken.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return PRODUCT**3 / min(taken)
