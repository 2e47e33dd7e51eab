import hashlib
import json
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cq.cli import prompts
from cq.cli.prompts import read_source, write_prompts
from cq.models.captions import digest, read_folder


def coco(path: Path, *entries: tuple[int, int, Any]) -> str:
    rows = [{"image_id": image, "id": number, "caption": caption} for image, number, caption in entries]
    path.write_text(json.dumps({"annotations": rows}))
    return str(path)


def test_coco_gives_the_first_caption_of_each_image_in_the_order_of_images(tmp_path: Path) -> None:
    source = coco(tmp_path / "captions.json", (9, 4, "a  cat\n"), (2, 8, "later"), (2, 3, "a dog"), (9, 7, "no"))
    assert read_source(source) == ["a dog", "a cat"]


def test_parti_gives_its_column_and_text_its_lines(tmp_path: Path) -> None:
    (tmp_path / "PartiPrompts.tsv").write_text('Prompt\tCategory\n"quoted" cat\tAnimals\nbond\tAbstract\n')
    assert read_source(str(tmp_path / "PartiPrompts.tsv")) == ['"quoted" cat', "bond"]
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert read_source(str(tmp_path / "a.txt")) == ["one", "two"]


QUOTED = ['The words "Fly an airplane" are written', "two lines", "a cat, a dog", "plain"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pandas.tsv", 'Prompt\tC\n"The words ""Fly an airplane"" are written"\tX\n"two\nlines"\tX\n'
                       'a cat, a dog\tX\nplain\tX\n'),
        ("excel.tsv", 'C\tPROMPT \r\nX\t"The words ""Fly an airplane"" are written"\r\nX\t"two\nlines"\r\n'
                      'X\t"a cat, a dog"\r\nX\tplain\r\n'),
        ("all.csv", '"C","caption"\n"X","The words ""Fly an airplane"" are written"\n"X","two\r\nlines"\n'
                    '"X","a cat, a dog"\n"X","plain"\n'),
        ("semicolons.csv", 'text;C\n"The words ""Fly an airplane"" are written";X\n"two\tlines";X\n'
                           'a cat, a dog;X\nplain;X\n'),
        ("unquoted.TSV", 'Prompt\tC\tNote\nThe words "Fly an airplane" are written\tX\t\ntwo  lines\tX\t"so" said\n'
                         'a cat, a dog\tX\nplain\tX\t\n'),
        ("list.json", '["The words \\"Fly an airplane\\" are written", "two\\nlines", " a cat, a dog", "plain"]'),
        ("rows.json", '[{"Prompt": "The words \\"Fly an airplane\\" are written"}, {"Prompt": "two\\tlines"}, '
                      '{"Prompt": "a cat, a dog"}, {"Prompt": "plain"}]'),
    ],
)  # fmt: skip
def test_tables_are_read_as_they_were_written(name: str, content: str, tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / name).write_bytes(content.encode(encoding))
        assert read_source(str(tmp_path / name)) == QUOTED


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.tsv", "C\tPrompt\nX\ta red bag\nX\t\nX\tNone\nX\t0\nX\tNaN\n", "3 without a prompt .*row 3, row 4, row 6"),
        ("a.json", '["a red bag", null, " ", "0", NaN]', "3 without a prompt .*entry 2, entry 3, entry 5"),
    ],
)  # fmt: skip
def test_rows_without_a_prompt_are_left_out_and_told(
    name: str, content: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_text(content)
    assert read_source(str(tmp_path / name)) == ["a red bag", "0"]
    assert re.search(told, caplog.text)


def test_of_several_captions_of_an_image_the_first_that_is_there_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="cq.cli.prompts")
    entries: tuple[tuple[int, int, Any], ...] = (
        (1, 1, " \n"),
        (1, 2, "a dog"),
        (1, 3, "no"),
        (2, 4, None),
        (3, 5, "a cat"),
    )
    assert read_source(coco(tmp_path / "captions.json", *entries)) == ["a dog", "a cat"]
    assert "2 without a prompt are left out: image 1, image 2" in caplog.text
    assert "1 further ones are not" in caplog.text
    (tmp_path / "flickr.csv").write_text("image,caption\n1.jpg,a dog\n1.jpg,no\n2.jpg,a cat\n")
    assert read_source(str(tmp_path / "flickr.csv")) == ["a dog", "a cat"]
    (tmp_path / "list.json").write_text('[{"caption": ["a dog", "no"]}, {"caption": [null, "a cat"]}]')
    assert read_source(str(tmp_path / "list.json")) == ["a dog", "a cat"]


def test_what_was_made_is_what_is_read(tmp_path: Path) -> None:
    """Whatever stands in a prompt: count and hash are of the lines that a model reads."""
    odd = ["a\x0cb", "c\u2028d", "e\x85f", "g \n h", "caf\u00e9", "\ufeffi", "j\u200bk"]
    (tmp_path / "a.json").write_text(json.dumps(odd))
    evaluation = read_source(str(tmp_path / "a.json"))
    said = write_prompts(tmp_path, evaluation, ["z"])
    found = read_folder(str(tmp_path), "evaluation", key="model.prompts")
    assert len(found) == len(odd)
    assert said == digest(found)


def test_the_hub_is_read_by_the_package_and_its_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match="pip install datasets"):
        read_source("hub:nateraw/parti-prompts/train")
    asked = []

    def load_dataset(name: str, *, split: str) -> list[dict[str, str]]:
        asked.append((name, split))
        return [{"Prompt": "bond", "Category": "Abstract"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert read_source("hub:nateraw/parti-prompts/train") == ["bond"]
    assert asked == [("nateraw/parti-prompts", "train")]
    with pytest.raises(ValueError, match="write hub:NAME/SPLIT"):
        read_source("hub:parti")

    def refuse(name: str, *, split: str) -> None:
        raise RuntimeError("no such split\nmore")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=refuse))
    with pytest.raises(ValueError, match=r"hub:a/b/train: cannot be had \(no such split\). Look up"):
        read_source("hub:a/b/train")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{}", "is no file of MS-COCO captions"),
        ("a.tsv", "Name\nx\n", "has no column Prompt"),
        ("a.txt", "\n", "holds no prompt"),
        ("a.xlsx", "x", "is none of .csv, .json, .tsv, .txt"),
        ("a.csv", "", "holds no prompt"),
        ("a.json", "[1,", "is no JSON"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.json", '[{"caption": {"raw": "a"}}]', "row 1 holds dict, and a prompt is text"),
        ("a.json", '["a \\ud83d cat"]', "entry 1 holds a letter that was lost"),
        ("a.tsv", "Prompt\tC\ntwo\nlines\tX\n", r"row 2 has 1 cells of 2 \('two'\).*Quote the prompt"),
        ("a.tsv", "Prompt\tC\na\tred bag\tX\n", r"row 2 has 3 cells of 2"),
        ("a.tsv", 'Prompt\tC\na bag\tX\n"Hello"\tX\n', '"Hello" is quoted and need not be'),
        ("a.tsv", 'Prompt\tC\n"a bag\tX\na boot"\tX\n', "runs over several rows: a quote opens"),
        ("a.tsv", 'Prompt\tC\n"say ""a"" to"\tX\n"b" and c\tX\n', "its quoting is broken"),
        ("a.csv", 'Prompt\n"a bag\n', "its quoting is broken"),
        ("a.csv", f"Prompt\n{'a' * 200_000}\n", "is no table .*field larger"),
        ("a.csv", "Prompt\n" + "a" * 20_000, "row 2 is 20000 letters long"),
        ("a.tsv", "Prompt\n\n\t\n", "holds no prompt"),
        ("a.csv", "caption,caption\na,b\n", "has several columns caption. Leave one"),
        ("a.txt", None, "there is no such file"),
    ],
)
def test_what_is_no_source_is_refused(name: str, content: str | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        read_source(str(tmp_path / name))


def test_the_command_writes_both_files_and_refuses_what_is_in_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "b.txt").write_text("Two\nfour\n")
    arguments = [str(tmp_path / name) for name in ("out", "a.txt", "b.txt")]
    assert prompts.main([*arguments, "--count", "2"]) == 2
    assert "1 prompts are in both sources, 'Two' among them" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert prompts.main([*arguments, "--count", "2", "--drop-shared"]) == 0
    assert (tmp_path / "out/evaluation.txt").read_text() == "one\ntwo\n"
    assert (tmp_path / "out/calibration.txt").read_text() == "four\n"


def test_the_digest_is_that_of_the_evaluation_prompts(tmp_path: Path) -> None:
    assert write_prompts(tmp_path, ["a", "b"], ["c"]) == hashlib.sha256(b"a\nb").hexdigest()
