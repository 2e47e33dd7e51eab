"""What an error of each noise prediction does to the final latent: projections of it pulled back to every call.

lambda_t = d(projection of the final latent) / d(eps_t), all later calls reacting to it: to first order an error e of
the prediction at call t moves the projection by <lambda_t, e>. The solver is linear (`cq.sampler.linear`), so only the
network needs vector-Jacobian products, one call at a time in constant memory. Legend: T call, P projection, N batch.
"""

from math import sqrt

import torch
from torch import Tensor

from cq.core.denoiser import Denoiser
from cq.core.seeding import directions
from cq.sampler.linear import LinearSolver


def drawn_projections(seeds: tuple[int, ...], final_NCHW: Tensor, count: int) -> Tensor:
    """[P, N, C, H, W]: directions of each image's own, whose summed squares estimate its squared relative error.

    An image's depend on its seed alone, up to the size of its final latent.
    """
    drawn_NPCHW = directions(seeds, (count, *final_NCHW.shape[1:]))  # never the noise, which the errors go along with
    size_N111 = final_NCHW.square().sum((1, 2, 3), keepdim=True).sqrt()
    return drawn_NPCHW.transpose(0, 1).to(final_NCHW.device) / (size_N111 * sqrt(count))


def pulled_back(
    denoiser: Denoiser,
    inputs_TNCHW: Tensor,
    *,
    timesteps: Tensor,
    cond: Tensor | None,
    solver: LinearSolver,
    projections_PNCHW: Tensor,
) -> Tensor:
    """lambda, float32 [T, P, N, C, H, W], along full-precision trajectories.

    inputs_TNCHW: what the network saw at each call. Costs a call and two per projection of it, for every call.
    """
    calls = len(timesteps)
    weight_UT = solver.weight_UT.to(inputs_TNCHW)
    lambda_TPNCHW = weight_UT[calls].view(-1, *[1] * projections_PNCHW.ndim) * projections_PNCHW
    for call in range(calls - 1, 0, -1):  # the noise itself is no prediction
        with torch.enable_grad():
            seen_NCHW = inputs_TNCHW[call].detach().requires_grad_()
            eps_NCHW = denoiser(seen_NCHW, call=call, timestep=timesteps[call], cond=cond, reuse={}).eps_NCHW
            found = [
                torch.autograd.grad(eps_NCHW, seen_NCHW, towards, retain_graph=True)[0]
                for towards in lambda_TPNCHW[call]
            ]
        state_PNCHW = torch.stack(found) * float(solver.scale_T[call])
        before_T = weight_UT[call, :call].view(-1, *[1] * state_PNCHW.ndim)
        lambda_TPNCHW[:call] += before_T * state_PNCHW
    return lambda_TPNCHW
