"""Passes that wait, on a network of three layers whose order and values are plain to see."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cq.quantize.passes import Pass, unit_bytes, waiting


class Adds(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor, *, fails: bool = False) -> Tensor:
        if fails:
            raise ArithmeticError("inside a pass")
        return x + self.amount


class Chain:
    """a, then b where it is not skipped, then c; `backbone` and `run` are what passes use of networks and states."""

    def __init__(self) -> None:
        self.first = Adds(1)
        self.backbone = nn.ModuleDict({"a": self.first, "b": Adds(10), "c": Adds(100)})
        self.ran: list[str] = []

    def states(self, start: float, *, skip: bool = False, fails: bool = False) -> Any:
        @torch.no_grad()
        def run(_: Any, *, full: bool) -> None:
            x = torch.full((2,), start)
            for name in "abc":
                if name != "b" or full or not skip:
                    self.ran.append(name)
                    x = self.backbone[name](x, fails=fails and name == "b")

        return SimpleNamespace(run=run)


@pytest.fixture
def chain() -> Iterator[Any]:
    """Any: it has of a network what passes use, and no more."""
    yield Chain()
    assert torch.is_grad_enabled()


def first_argument(found: Any) -> float:
    (x,), _ = found
    return float(x[0])


def test_a_pass_stops_in_front_of_units_and_goes_on_with_what_they_have_become(chain: Any) -> None:
    with waiting(chain, "abc"):
        one, other = (Pass(chain, chain.states(start), full=True) for start in (0.0, 0.5))
        assert [first_argument(p.at(0)) for p in (one, other)] == [0, 0.5]
        assert chain.ran == ["a", "a"]
        chain.first.amount = 2
        assert chain.first(torch.ones(1)).tolist() == [3]  # outside of passes nothing stops
        assert [first_argument(p.at(2)) for p in (one, other)] == [12, 12.5]
        assert first_argument(one.at(2)) == 12
        assert torch.is_grad_enabled()
        one.close()
        other.close()
    assert chain.ran == ["a", "a", "b", "c", "b", "c"]


def test_units_that_a_pass_skips_are_none_and_the_next_one_is_not_lost(chain: Any) -> None:
    with waiting(chain, "abc", behind=lambda out: out):
        walk = Pass(chain, chain.states(0.0, skip=True), full=False)
        assert walk.at(1) is None
        assert walk.at(1) is None
        assert walk.at(2).tolist() == [101, 101]
        walk.close()


def test_what_fails_inside_a_pass_is_raised_where_it_was_sent_on(chain: Any) -> None:
    with waiting(chain, "abc"):
        walk = Pass(chain, chain.states(0.0, fails=True), full=True)
        walk.at(1)
        with pytest.raises(ArithmeticError, match="inside a pass"):
            walk.at(2)
        assert torch.is_grad_enabled()
        assert walk.at(2) is None
        walk.close()


def test_bytes_that_go_into_units_and_come_out(chain: Any) -> None:
    sizes = unit_bytes(chain, "ac", lambda: chain.states(0.0).run(chain, full=True))
    assert sizes == {"a": (2 * 4, 2 * 4), "c": (2 * 4, 2 * 4)}
    assert not any(module._forward_hooks for module in chain.backbone.values())
