"""The one door through which components are built, and the numbers that several of them read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import pytest
from omegaconf import OmegaConf

from cq.core.values import Distinct, Share, Within
from cq.run import building
from cq.run.building import build
from cq.run.config import check_budget
from cq.schedule.dps import DPS


@runtime_checkable
class Speaker(Protocol):
    def speak(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Voice:
    volume: float

    def __post_init__(self) -> None:
        if self.volume < 0:
            raise ValueError(f"volume={self.volume}: must not be negative. 1 is usual.")

    def speak(self) -> str:
        return "x" * int(self.volume)


@dataclass(frozen=True, kw_only=True)
class Mute:
    """No Speaker."""


@dataclass(frozen=True, kw_only=True)
class Part:
    whole: int
    real: float
    switch: bool
    name: str
    kind: Literal["a", "b"]
    sizes: tuple[int, ...]
    pair: tuple[int, int]
    limit: float | None
    speaker: Speaker


GOOD: dict[str, Any] = {
    "_target_": "cq.part.Part", "whole": 3, "real": 0.5, "switch": True, "name": "n", "kind": "a", "sizes": [1, 2],
    "pair": [1, 2], "limit": None, "speaker": {"_target_": "cq.part.Voice", "volume": 2},
}  # fmt: skip


UNIFORM = {"_target_": "cq.schedule.uniform.Uniform"}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this module's classes stand under the package's name."""
    kinds = {f"cq.part.{kind.__name__}": kind for kind in (Part, Voice, Mute, Reader, Shouter, Bounded)}
    original = building.component_named
    monkeypatch.setattr(building, "component_named", lambda target, key: kinds.get(target) or original(target, key))


def test_a_component_is_built_with_nested_ones_and_tuples() -> None:
    part = build(OmegaConf.create(GOOD), "part")
    assert part == Part(
        whole=3, real=0.5, switch=True, name="n", kind="a", sizes=(1, 2), pair=(1, 2), limit=None,
        speaker=Voice(volume=2.0),
    )  # fmt: skip
    assert isinstance(part.speaker.volume, float)


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("whole", "3", "part.whole='3': must be int"),
        ("whole", 3.0, "part.whole=3.0: must be int"),
        ("whole", True, "part.whole=True: must be int"),
        ("whole", None, "part.whole=None: must be int"),
        ("real", "0.5", "part.real='0.5': must be float"),
        ("switch", 1, "part.switch=1: must be bool"),
        ("switch", "yes", "part.switch='yes': must be bool"),
        ("name", 3, "part.name=3: must be str"),
        ("kind", "c", "part.kind='c': must be a or b"),
        ("sizes", 3, "part.sizes=3: must be a list of int"),
        ("sizes", [1, "x"], r"part.sizes=\[1, 'x'\]: must be a list of int"),
        ("pair", [1], r"part.pair=\[1\]: must be a list of int, int"),
        ("limit", "none", "part.limit='none': must be float or null"),
        ("speaker", "loud", "part.speaker='loud': must be Speaker"),
        ("speaker", {"_target_": "cq.part.Mute"}, "part.speaker=cq.part.Mute: is no Speaker. Choose"),
        ("speaker", {"_target_": "cq.part.Voice", "volume": "x"}, "part.speaker.volume='x': must be float"),
        ("speaker", {"_target_": "cq.part.Voice", "volume": -1}, "part.speaker.volume=-1.0: must not be negative"),
        ("speaker", {"_target_": "os.system"}, "part.speaker._target_='os.system': only components of `cq`"),
        ("other", 3, "part.other: unknown key; cq.part.Part takes whole, real, .*speaker. Remove it"),
    ],
)
def test_an_entry_of_another_type_is_refused_with_its_dotted_key(entry: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build(OmegaConf.create({**GOOD, entry: value}), "part")


def test_an_integer_may_stand_for_a_real_number() -> None:
    assert build({**GOOD, "real": 2}, "part").real == 2.0


def test_a_missing_entry_is_refused() -> None:
    node = {key: value for key, value in GOOD.items() if key != "name"}
    with pytest.raises(ValueError, match=r"part.name: missing; cq.part.Part needs it. Add it to the yaml"):
        build(node, "part")


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (None, "part=None: names no component"),
        ({"a": 1}, "part=.*: names no component. Choose a yaml of its group"),
        ({"_target_": "os.system"}, "only components of `cq`"),
        ({"_target_": 3}, "only components of `cq`"),
        ({"_target_": "cq.nowhere.Thing"}, "no such component"),
        ({"_target_": "cq.schedule.dps.Nothing"}, "no such component"),
        ({"_target_": "cq.core.denoise.denoise"}, "is no component"),
        (
            OmegaConf.create({"_target_": "cq.schedule.uniform.Uniform", "interval": "???"}),
            "part.interval: has no value",
        ),
        (
            OmegaConf.create({"_target_": "cq.schedule.uniform.Uniform", "interval": "${no.key}"}),
            "part.interval: has no",
        ),
    ],
)
def test_what_is_no_component_is_refused(node: Any, told: str) -> None:
    # as in a whole configuration: interpolations resolve, and errors know the full key, from the root
    if OmegaConf.is_config(node):
        node = OmegaConf.create({"part": node}).part
    with pytest.raises(ValueError, match=told):
        build(node, "part")


def test_an_error_of_a_component_keeps_the_key_it_names_itself() -> None:
    node = {"_target_": "cq.schedule.dps.DPS", "interval": 0, "num_groups": None, "min_group": None, "max_group": None}
    with pytest.raises(ValueError, match=r"^schedule\.interval=0"):
        build(node, "schedule")
    assert build({**node, "interval": 2}, "schedule") == DPS(
        interval=2, num_groups=None, min_group=None, max_group=None
    )


GOOD_BUDGET = {"num_steps": 10, "cache_interval": 2, "weight_bits": 8, "act_bits": 8}
BASELINE = {"num_steps": 10}


@pytest.mark.parametrize(
    "change", [{}, {"cache_interval": 1}, {"cache_interval": 10}, {"weight_bits": 2}, {"act_bits": 16}]
)
def test_a_budget_at_the_edge_is_good(change: dict[str, int]) -> None:
    check_budget(OmegaConf.create({"budget": {**GOOD_BUDGET, **change}, "baseline": BASELINE}))


def test_an_interval_that_nobody_reads_is_no_reason_to_refuse() -> None:
    budget = {**GOOD_BUDGET, "cache_interval": 11}
    none, uniform = (
        {"_target_": "cq.schedule.none.NoCache"},
        {"_target_": "cq.schedule.uniform.Uniform", "interval": 11},
    )
    check_budget(OmegaConf.create({"budget": budget, "baseline": BASELINE, "schedule": none}))
    with pytest.raises(ValueError, match=r"budget\.cache_interval=11"):
        check_budget(OmegaConf.create({"budget": budget, "baseline": BASELINE, "schedule": uniform}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_steps": 0}, "budget.num_steps=0: must be at least 1"),
        ({"sample_steps": 0}, "budget.sample_steps=0: must be at least 1"),
        ({"sample_steps": 1}, r"budget.cache_interval=2: .*1..budget.sample_steps=1"),
        ({"cache_interval": 0}, r"budget.cache_interval=0: .*1..budget.num_steps=10"),
        ({"cache_interval": 11}, r"budget.cache_interval=11: .*Lower the interval"),
        ({"weight_bits": 1}, r"budget.weight_bits=1: must lie in 2..16. For full precision use quantize=none"),
        ({"act_bits": 17}, r"budget.act_bits=17: must lie in 2..16"),
    ],
)
def test_a_budget_that_nothing_could_honour_is_refused(change: dict[str, int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_budget(OmegaConf.create({"budget": {**GOOD_BUDGET, **change}, "baseline": BASELINE}))


@runtime_checkable
class Narrator(Protocol):
    @property
    def pace(self) -> float: ...

    def speak(self, text: str, *, loud: bool) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Reader:
    pace: float

    def speak(self, text: str, *, loud: bool) -> str:
        return text


@dataclass(frozen=True, kw_only=True)
class Shouter:
    pace: float

    def speak(self, text: str) -> str:
        return text


def test_a_component_that_is_not_what_stands_there_is_told_what_it_lacks() -> None:
    reader = {"_target_": "cq.part.Reader", "pace": 1}
    assert build(reader, "part", Narrator) == Reader(pace=1.0)
    assert build(reader, "part", Reader | Voice) == Reader(pace=1.0)
    with pytest.raises(ValueError, match=r"^part=.*Reader: is no Voice\. Choose a component that is one"):
        build(reader, "part", Voice)
    with pytest.raises(
        ValueError, match=r"^part=.*Voice: is no Narrator\. .* this has no 'pace', which .*Narrator asks"
    ):
        build({"_target_": "cq.part.Voice", "volume": 1}, "part", Narrator)
    with pytest.raises(
        ValueError, match=r"its speak\(self, text: str\) -> str cannot be called as a Narrator's. Write"
    ):
        build({"_target_": "cq.part.Shouter", "pace": 1}, "part", Narrator)


@dataclass(frozen=True, kw_only=True)
class Bounded:
    count: Annotated[int, Within(1, 9, "3")]
    shares: tuple[Share, ...]
    names: Annotated[tuple[str, ...] | None, Distinct()]
    place: str


BOUNDED: dict[str, Any] = {
    "_target_": "cq.part.Bounded", "count": 3, "shares": [0.5], "names": ["a", "b"], "place": "x",
}  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "value", "told"),
    [
        ("count", 0, "part.count=0: must be at least 1. 3 is usual."),
        ("count", 10, "part.count=10: must be at most 9. 3 is usual."),
        ("count", 10**12, "part.count=1000000000000: must be below 2"),
        ("count", None, "part.count=None: must be int"),
        ("shares", [0.5, float("nan")], "part.shares=nan: must be a finite number"),
        ("shares", [0.5, 2], r"part.shares=\[0.5, 2\]: must be at most 1"),
        ("shares", [float("inf")], "part.shares=inf: must be a finite number"),
        ("names", ["a", "b", "a"], r"part.names=\['a', 'b', 'a'\]: names 'a' twice. Name each once"),
        ("names", [" "], "part.names=' ': must not be empty"),
        ("place", "", "part.place='': must not be empty"),
        ("place", "a\nb", r"part.place='a\\nb': must be one line of visible text"),
    ],
)
def test_a_value_that_its_field_does_not_take_is_refused(entry: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build({**BOUNDED, entry: value}, "part", Bounded)


def test_bounds_let_through_what_they_hold_and_a_tilde_is_the_users_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = build({**BOUNDED, "count": 9, "shares": [0, 1], "names": None, "place": "~/x"}, "part", Bounded)
    assert found == Bounded(count=9, shares=(0.0, 1.0), names=None, place=str(tmp_path / "x"))
