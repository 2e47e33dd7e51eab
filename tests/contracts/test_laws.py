"""Every choice of every group keeps the laws of its kind (`cq.laws`), which `cq-check` holds other people's code to."""

from functools import partial
from pathlib import Path

import pytest

from cq.core.contracts import Learns, NamesScores
from cq.laws import caching, lowering
from cq.laws.choices import built, names
from cq.laws.kinds import KINDS
from cq.laws.law import Law, Untried, World, words
from tests.families import WRITERS, component

NEED_A_DOWNLOAD = (
    "adm", "clip_score", "clip_scores", "fid_clean", "fid_legacy_pytorch", "fid_legacy_tensorflow",
    "fid_torchmetrics",
)  # fmt: skip
CLIPS = ("percentile",)  # leaves out the largest values at any width
CASES = [
    pytest.param(group, name, law, id=f"{group}={name}-{words(law)}")
    for group, kind in KINDS.items() if group != "model"
    for name in names(group)
    for law in kind.laws
]  # fmt: skip


@pytest.fixture(scope="module")
def world(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    """A tiny model of every family."""
    return World(tmp_path_factory.mktemp("laws"), {family: component(family, folders[family]) for family in WRITERS})


@pytest.mark.parametrize(("group", "name", "law"), CASES)
def test_a_choice_keeps_the_laws_of_its_kind(group: str, name: str, law: Law, world: World) -> None:
    make = partial(built, group, name)
    if group == "quantize" and isinstance(make(), Learns):
        pytest.skip("learns for minutes: test_reconstruction_laws.py")
    if law is lowering.what_accelerates_nothing_is_the_plain_denoiser and name == "compiled":
        pytest.skip("traced for half a minute: tests/models/test_compiled.py holds it to the bits")
    if law is lowering.the_model_is_left_untouched_and_sixteen_bits_are_close_to_it and name not in CLIPS:
        law = partial(law, far=1e-3)
    untried = ""
    try:
        law(make, world)
    except Untried as reason:
        untried = str(reason)
    if group == "metric" and law is not KINDS["metric"].laws[-1]:  # the last one is for those that compare
        assert not untried or name in NEED_A_DOWNLOAD
    if untried:
        pytest.skip(untried)


@pytest.mark.parametrize("law", caching.MODEL, ids=words)
@pytest.mark.parametrize("family", WRITERS)
def test_a_model_keeps_the_laws_of_models(family: str, law: Law, world: World) -> None:
    law(lambda **_: world.components[family], world)


def test_our_metrics_can_be_searched_for() -> None:
    assert all(isinstance(built("metric", name), NamesScores) for name in names("metric"))


def test_every_family_has_a_strategy_and_the_laws_of_each_kind_speak_of_something(world: World) -> None:
    families = {family for name in names("cache") for family in built("cache", name).families}
    assert families == {each.family for each in world.components.values()}
    reads = {name: hasattr(built("schedule", name, path="any"), "reach") for name in names("schedule")}
    assert set(reads.values()) == {True, False}
    assert {built("correct", name).corrects for name in names("correct")} == {True, False}
