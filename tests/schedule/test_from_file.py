"""Schedules go out as plain JSON and come back the same."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cq.core.artifacts import CacheSchedule
from cq.core.contracts import PlanRequest
from cq.schedule.from_file import FromFile
from cq.schedule.plain_json import write_plain

BlindRequest = Callable[[int], PlanRequest]
SCHEDULE = CacheSchedule(num_calls=10, refresh_calls=(0, 3, 7), planner="dps", interval=4)


def written(folder: Path, document: Any) -> str:
    path = folder / "schedule.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_export_then_import_gives_the_same_refreshes(tmp_path: Path, blind_request: BlindRequest) -> None:
    path = tmp_path / "plain.json"
    write_plain(SCHEDULE, path)
    assert json.loads(path.read_text()) == {"num_calls": 10, "refresh_calls": [0, 3, 7]}
    again = FromFile(path=str(path)).plan(blind_request(10))
    assert (again.refresh_calls, again.num_calls, again.planner, again.interval) == ((0, 3, 7), 10, "from_file", None)


def test_an_artefact_comes_back_whole_from_its_folder_or_file(tmp_path: Path, blind_request: BlindRequest) -> None:
    SCHEDULE.save(tmp_path)
    for path in (tmp_path, tmp_path / "artifact.json"):
        again = FromFile(path=str(path)).plan(blind_request(10))
        assert again == SCHEDULE
        assert again.digest == SCHEDULE.digest


def test_an_artefact_of_a_store_is_taken_for_its_refreshes(tmp_path: Path, blind_request: BlindRequest) -> None:
    """It says which sites its run reused when; this run has a strategy of its own."""
    replace(SCHEDULE, phases=((0, ("a",)), (4, ("b", "c")))).save(tmp_path)
    assert FromFile(path=str(tmp_path)).plan(blind_request(10)) == SCHEDULE
    for phases in ([[4, ["b"]]], [[0, ["b"]]], "abc", [[0]], 3):
        file = tmp_path / "artifact.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"phases": phases}))
        with pytest.raises(ValueError, match=r"edited or damaged|phases"):
            FromFile(path=str(tmp_path)).plan(blind_request(10))


@pytest.mark.parametrize(
    "document",
    [[0, 3, 7], [1, 0, 0, 1, 0, 0, 0, 1, 0, 0], [True, False, False, True, False, False, False, True, False, False]],
)
def test_a_list_of_calls_and_a_mask_say_the_same(document: Any, tmp_path: Path, blind_request: BlindRequest) -> None:
    assert FromFile(path=written(tmp_path, document)).plan(blind_request(10)).refresh_calls == (0, 3, 7)


def test_two_entries_are_told_apart_by_the_first(tmp_path: Path, blind_request: BlindRequest) -> None:
    assert FromFile(path=written(tmp_path, [0, 1])).plan(blind_request(2)).refresh_calls == (0, 1)
    assert FromFile(path=written(tmp_path, [1, 0])).plan(blind_request(2)).refresh_calls == (0,)


@pytest.mark.parametrize("document", [{"num_calls": 10, "refresh_calls": [0, 3]}, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
def test_a_schedule_of_another_number_of_calls_is_refused_before_planning(document: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made for 10 calls, but this run has 12"):
        FromFile(path=written(tmp_path, document)).check(12)


def test_a_list_that_refreshes_beyond_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refreshes at call 7, but this run has 7 calls"):
        FromFile(path=written(tmp_path, [0, 3, 7])).check(7)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("not json", "not JSON"),
        ([], "not a schedule"),
        ("7", "not a schedule"),
        ([1, 0, 2], "no mask of 0 and 1"),
        ([2, 4], "rise from 0"),
        ([0, 4, 4], "rise from 0"),
        ([0, 2.5], "rise from 0"),
        ([0, "3"], "rise from 0"),
        ({"num_calls": 3, "refresh_calls": [0, 3]}, "outside its own"),
        ({"num_calls": 3, "refresh_calls": []}, "rise from 0"),
        ({"steps": [0]}, "not a schedule"),
        ({"kind": "ChannelAffine", "refresh_calls": [0]}, "holds a ChannelAffine"),
    ],
)
def test_anything_else_is_refused_with_the_reason(document: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        FromFile(path=written(tmp_path, document)).check(10)


def test_a_missing_file_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no file"):
        FromFile(path=str(tmp_path / "nowhere.json")).check(10)
    with pytest.raises(ValueError, match=r"artifact\.json"):
        FromFile(path=str(tmp_path)).check(10)
    with pytest.raises(ValueError, match=r"schedule.path=''"):
        FromFile(path="")


def test_an_edited_artefact_is_refused(tmp_path: Path, blind_request: BlindRequest) -> None:
    SCHEDULE.save(tmp_path)
    file = tmp_path / "artifact.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"refresh_calls": [0, 4, 7]}))
    with pytest.raises(ValueError, match="edited or damaged"):
        FromFile(path=str(tmp_path)).plan(blind_request(10))
