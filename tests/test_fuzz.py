"""Thirty random configurations, half of them broken: each is refused in one sentence of ours, or passes every check."""

from pathlib import Path

from tests.fuzz import configurations, fate


def test_random_configurations_are_refused_in_a_sentence_or_pass_every_check(tmp_path: Path) -> None:
    kinds = set()
    for number, overrides in enumerate(configurations(30, seed=1)):
        root = tmp_path / str(number)
        root.mkdir()
        what = fate(overrides, root, run=False)
        assert what.kind in ("refused", "passed"), (overrides, what)
        kinds.add(what.kind)
    assert kinds == {"refused", "passed"}
