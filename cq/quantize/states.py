"""States of the deployed trajectory, sampled evenly over images and calls, to be run again as often as needed.

Legend: P state (one image at one call), K copy of a state in a batch (2 where guided: both conditions, else 1),
R = K * P rows of a batch, N C H W as elsewhere.
"""

import heapq
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cq.core.contracts import LockstepTrajectories
from cq.core.denoiser import OUTPUT, CutNetwork, Denoiser, DenoiserOutput


@dataclass(frozen=True, kw_only=True)
class States:
    """States that reuse maps at the same sites; refresh calls reuse at none.

    x_PCHW. calls_P, timesteps_P. cond: [P, K, ...] or None. maps: by site, what the denoiser was handed at this call,
    predicted and corrected with the call's own row, [P, K, ...].
    """

    x_PCHW: Tensor
    calls_P: Tensor
    timesteps_P: Tensor
    cond: Tensor | None
    maps: Mapping[str, Tensor]
    copies: int

    def __len__(self) -> int:
        return len(self.calls_P)

    @property
    def calls_R(self) -> Tensor:
        """The call of each row of `run`, int64 [R]."""
        return self.calls_P.repeat(self.copies)

    def batches(self, size: int) -> Iterator["States"]:
        """At most `size` states at a time."""
        for start in range(0, len(self), size):
            some = slice(start, start + size)
            yield replace(
                self, x_PCHW=self.x_PCHW[some], calls_P=self.calls_P[some], timesteps_P=self.timesteps_P[some],
                cond=None if self.cond is None else self.cond[some],
                maps={site: held[some] for site, held in self.maps.items()},
            )  # fmt: skip

    @torch.no_grad()
    def run(self, network: CutNetwork, *, full: bool) -> None:
        """One call of the network on all rows: the whole of it, or from the reused maps on where there are any."""
        x_NCHW = torch.cat([self.x_PCHW] * self.copies)
        timesteps, cond = self.timesteps_P.repeat(self.copies), None if self.cond is None else _rows(self.cond)
        if full or not self.maps:
            network.full(x_NCHW, timesteps, cond, record=())
        else:
            network.shallow(x_NCHW, timesteps, cond, reuse={site: _rows(held) for site, held in self.maps.items()})


@dataclass(frozen=True, kw_only=True)
class _State:
    x_CHW: Tensor
    call: int
    timestep: Tensor
    cond: Tensor | None  # [K, ...]
    maps: Mapping[str, Tensor]  # [K, ...]


class StateSampler:
    """Passes a denoiser's calls on and keeps a random subset of the states, at most `num_states` of either kind.

    Kinds: refresh calls, and calls that reuse maps; one that runs no network is neither. Every state draws a random key
    and the smallest keys stay, so the choice does not depend on how images are batched, nor on how many states there
    are.
    """

    def __init__(self, denoiser: Denoiser, *, num_states: int, seed: int) -> None:
        self._denoiser = denoiser
        self._num_states = num_states
        self._random = random.Random(seed)
        self._kept: dict[bool, list[tuple[float, int, _State]]] = {True: [], False: []}  # heaps, largest key first
        self._seen = 0

    @property
    def sites(self) -> tuple[str, ...]:
        return self._denoiser.sites

    def __call__(
        self, x_NCHW: Tensor, *, call: int, timestep: Tensor, cond: Tensor | None, reuse: Mapping[str, Tensor]
    ) -> DenoiserOutput:
        heap = self._kept[bool(reuse)]
        for image in range(0 if OUTPUT in reuse else len(x_NCHW)):
            key = self._random.random()
            self._seen += 1
            if len(heap) == self._num_states and -key < heap[0][0]:
                continue
            maps = {site: _of_image(held, image, len(x_NCHW)) for site, held in reuse.items()}
            condition = None if cond is None else _of_image(cond, image, len(x_NCHW))
            state = _State(x_CHW=x_NCHW[image].clone(), call=call, timestep=timestep, cond=condition, maps=maps)
            push = heapq.heappush if len(heap) < self._num_states else heapq.heappushpop
            push(heap, (-key, self._seen, state))
        return self._denoiser(x_NCHW, call=call, timestep=timestep, cond=cond, reuse=reuse)

    def chosen(self, refresh_share: float, *, copies: int) -> list[States]:
        """`num_states` states, or all where there are fewer; as near to that share of refresh calls as can be."""
        refresh, reused = (sorted(self._kept[kind], key=lambda item: -item[0]) for kind in (False, True))
        wanted = max(1, round(refresh_share * self._num_states), self._num_states - len(reused))
        refresh = refresh[:wanted]
        reused = reused[: self._num_states - len(refresh)]
        groups: dict[tuple[str, ...], list[_State]] = {}
        for _, _, state in sorted([*refresh, *reused], key=lambda item: item[1]):
            groups.setdefault(tuple(state.maps), []).append(state)
        return [_stacked(states, copies) for _, states in sorted(groups.items())]


def sampled_states(
    denoiser: Denoiser, trajectories: LockstepTrajectories, *, num_states: int, refresh_share: float, copies: int,
    seed: int,
) -> list[States]:  # fmt: skip
    """States of the full-precision trajectory that is deployed, cache and correction included, grouped by what they
    reuse."""
    sampler = StateSampler(denoiser, num_states=num_states, seed=seed)
    for _ in trajectories(sampler, deployed=True):
        pass
    return sampler.chosen(refresh_share, copies=copies)


def _stacked(states: list[_State], copies: int) -> States:
    given = [state.cond for state in states if state.cond is not None]
    conditions = [cond.float() if cond.is_floating_point() else cond for cond in given]  # of a pipeline in 16 bits
    return States(
        x_PCHW=torch.stack([state.x_CHW for state in states]),
        calls_P=torch.tensor([state.call for state in states]),
        timesteps_P=torch.stack([state.timestep for state in states]),
        cond=torch.stack(conditions) if conditions else None,
        maps={site: torch.stack([state.maps[site] for state in states]) for site in states[0].maps},
        copies=copies,
    )


def _of_image(tensor: Tensor, image: int, num_images: int) -> Tensor:
    """An image's share of a batch [K * N, ...]: [K, ...]."""
    return tensor.view(-1, num_images, *tensor.shape[1:])[:, image].clone()


def _rows(held: Tensor) -> Tensor:
    """[P, K, ...] to the rows of a batch, [K * P, ...]."""
    return held.transpose(0, 1).flatten(0, 1)
