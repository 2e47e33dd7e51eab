import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cq import prompts
from cq.prompts import read_source, write_prompts


def coco(path: Path, *entries: tuple[int, int, str]) -> str:
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


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", "{}", "is no file of MS-COCO captions"),
        ("a.tsv", "Name\nx\n", "has no column Prompt"),
        ("a.txt", "\n", "holds no prompt"),
        ("a.csv", "x", "is none of .json, .tsv, .txt"),
        ("a.txt", None, "there is no such file"),
    ],
)
def test_what_is_no_source_is_refused(name: str, content: str | None, told: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=told):
        read_source(str(tmp_path / name))


def test_the_command_writes_both_files_and_refuses_what_is_in_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "b.txt").write_text("two\nfour\n")
    arguments = [str(tmp_path / name) for name in ("out", "a.txt", "b.txt")]
    monkeypatch.setattr(sys, "argv", ["cq.prompts", *arguments, "--count", "2"])
    with pytest.raises(SystemExit) as status:
        prompts.main()
    assert status.value.code == 2
    assert "1 prompts are in both sources, 'two' among them" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(sys, "argv", ["cq.prompts", *arguments, "--count", "2", "--drop-shared"])
    prompts.main()
    assert (tmp_path / "out/evaluation.txt").read_text() == "one\ntwo\n"
    assert (tmp_path / "out/calibration.txt").read_text() == "four\n"


def test_the_digest_is_that_of_the_evaluation_prompts(tmp_path: Path) -> None:
    assert write_prompts(tmp_path, ["a", "b"], ["c"]) == hashlib.sha256(b"a\nb").hexdigest()
