"""Projections pulled back to every call, against autograd through the whole denoising loop of each solver."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from cq.calibrate.adjoint import drawn_projections, pulled_back
from cq.calibrate.sketches import batch_sketches
from cq.core.acceleration import Acceleration, every_call
from cq.core.contracts import Sampler
from cq.core.denoise import denoise
from cq.core.denoiser import DenoiserOutput
from cq.core.seeding import initial_noise
from cq.laws.choices import built
from cq.laws.tiny import noise_scheduler
from cq.sampler.linear import read_off

STORED = dict(noise_scheduler().config)
SHAPE = (2, 3, 4, 4)  # of a batch


@dataclass(frozen=True)
class Toy:
    """eps = tanh of channels mixed, a recorded map times a weight of the call, and `added[call]`."""

    sites: tuple[str, ...] = ("deep",)
    added: Mapping[int, Tensor] = field(default_factory=dict)

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        mix = torch.tensor([[0.8, 0.3, 0.0], [-0.2, 0.7, 0.4], [0.1, -0.5, 0.9]])
        deep = reuse.get("deep", torch.tanh(torch.einsum("dc,nchw->ndhw", mix, x_NCHW) / 2))
        eps = deep * (1 + 0.1 * call) + 0.1 * x_NCHW + self.added.get(call, torch.tensor(0.0))
        return DenoiserOutput(eps, {} if reuse else {"deep": deep})


def final_latent(name: str, toy: Toy, noise: Tensor, steps: int) -> Tensor:
    """The loop as it is written down, with its graph."""
    solver: Sampler = built("sampler", name)
    scheduler = solver.noise_scheduler(STORED, steps)
    x = noise * scheduler.init_noise_sigma
    for call, timestep in enumerate(scheduler.timesteps):
        seen = scheduler.scale_model_input(x, timestep)
        eps = toy(seen, call=call, timestep=timestep, cond=None, reuse={}).eps_NCHW
        x = scheduler.step(eps, timestep, x).prev_sample
    return x


@pytest.mark.parametrize("name", ["ddim", "plms", "dpmpp", "euler"])
def test_a_pulled_back_projection_is_its_gradient_by_every_prediction(name: str) -> None:
    solver: Sampler = built("sampler", name)
    steps, noise = 6, torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    calls = solver.num_calls(steps)
    added = {call: torch.zeros(SHAPE, requires_grad=True) for call in range(calls)}
    final = final_latent(name, Toy(added=added), noise, steps)
    projections = drawn_projections((3, 4), final.detach(), 2)
    wanted = [torch.autograd.grad(final, list(added.values()), p, retain_graph=True) for p in projections]

    scheduler = solver.noise_scheduler(STORED, steps)
    seen, x = [], noise * scheduler.init_noise_sigma
    for call, timestep in enumerate(scheduler.timesteps):
        seen.append(scheduler.scale_model_input(x, timestep))
        eps = Toy()(seen[-1], call=call, timestep=timestep, cond=None, reuse={}).eps_NCHW
        x = scheduler.step(eps, timestep, x).prev_sample
    found = pulled_back(
        Toy(), torch.stack(seen), timesteps=scheduler.timesteps, cond=None,
        solver=read_off(lambda: solver.noise_scheduler(STORED, steps)), projections_PNCHW=projections,
    )  # fmt: skip
    for call in range(calls):
        for p in range(2):
            torch.testing.assert_close(found[call, p], wanted[p][call], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "plms"])
def test_sketches_are_how_reuse_moves_the_final_latent_to_first_order(name: str) -> None:
    """Each pair against a loop in which a small part of its error is added to one prediction."""
    solver: Sampler = built("sampler", name)
    steps, seeds, part = 5, (3, 4), 1e-2
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    every = Acceleration(schedule=every_call(solver.num_calls(steps)))

    def trajectory(toy: Toy = Toy()) -> list[object]:
        return list(denoise(toy, solver.noise_scheduler(STORED, steps), noise, cond=None, acceleration=every))

    found = batch_sketches(
        Toy(), trajectory, seeds=seeds, noise_NCHW=noise, cond=None,  # type: ignore[arg-type]
        solver=read_off(lambda: solver.noise_scheduler(STORED, steps)), phases=((0, ("deep",)),), window=3,
        projections=4,
    )["sketch_TDK"]  # fmt: skip
    loop = list(denoise(Toy(), solver.noise_scheduler(STORED, steps), noise, cond=None, acceleration=every))
    projections = drawn_projections(seeds, loop[-1].x_NCHW, 4)
    assert found.shape == (len(loop), 4, 8)
    assert (found[:, 0] == 0).all()
    assert (found[0] == 0).all()
    before = [noise, *(step.x_NCHW for step in loop)]
    for t, d in ((1, 1), (3, 2), (4, 3)):
        stale = loop[t - d].output.features
        eps = Toy()(before[t], call=t, timestep=loop[t].timestep, cond=None, reuse=stale).eps_NCHW
        error = eps - loop[t].output.eps_NCHW
        moved = final_latent(name, Toy(added={t: part * error}), noise, steps) - loop[-1].x_NCHW
        wanted = torch.einsum("pnchw,nchw->np", projections, moved).flatten() / part
        torch.testing.assert_close(found[t, d].float(), wanted, rtol=0.05, atol=1e-3)


def test_a_solver_that_clips_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not linear in the predictions.*Choose"):
        read_off(lambda: built("sampler", "ddim").noise_scheduler({**STORED, "clip_sample": True}, 5))


def test_projections_estimate_a_size_and_are_independent_of_the_noise_they_are_drawn_beside() -> None:
    """The noise of an image is a direction that its error goes along with: were it one of them, sizes would be off."""
    seeds, final = tuple(range(200)), torch.full((200, 3, 4, 4), 2.0)
    noise = initial_noise(seeds, (3, 4, 4))
    found = torch.einsum("pnchw,nchw->pn", drawn_projections(seeds, final, 4), noise)
    size_N = noise.flatten(1).norm(dim=1) / final.flatten(1).norm(dim=1)
    assert (found.square().sum(0) / size_N.square()).mean() == pytest.approx(1.0, abs=0.15)
