"""Files of prompts as people have them: counted, hashed, compared and drawn as one list, or refused by their line."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import PixArtSigmaPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor

from cq.models.captions import digest, read_folder, read_lines, repeated, shared
from cq.models.locate import locate
from cq.models.stable_diffusion import StableDiffusion
from tests.families import component

TWO = ["a red bag", "a blue boot"]


@pytest.mark.parametrize(
    "data",
    [
        b"a red bag\na blue boot\n",
        b"a red bag\na blue boot",
        b"\xef\xbb\xbfa red bag\r\na blue boot\r\n",
        b"a red bag\ra blue boot\r",
        b"\n  a red bag \t\n\n   \n\xc2\xa0a blue boot\n\n\xe2\x80\x8b\n",
        b"a red bag\n\xef\xbb\xbfa blue boot\n",  # two files with a mark each, joined
        *("a red bag\r\na blue boot\r\n".encode(name) for name in ("utf-16", "utf-32")),
        "\ufeffa red bag\na blue boot\n".encode("utf-16-be"),
    ],
)  # fmt: skip
def test_marks_encodings_ends_of_lines_and_blank_lines_are_no_part_of_a_prompt(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "evaluation.txt"
    path.write_bytes(data)
    assert read_lines(path) == TWO
    assert read_folder(str(tmp_path), "evaluation", key="model.prompts") == tuple(TWO)


@pytest.mark.parametrize("letter", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_separator_within_a_prompt_does_not_end_it(letter: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"a red{letter}bag\na blue boot\n", encoding="utf-8", newline="")
    assert read_lines(tmp_path / "a.txt") == [f"a red{letter}bag", "a blue boot"]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "holds no prompt"),
        (b" \n\n\xef\xbb\xbf\n", "holds no prompt"),
        (b"a bag\na caf\xe9\n", r"line 2 is not UTF-8 \(byte 0xe9\).*iconv -f CP1252"),
        ("a bag\n".encode("utf-16-le"), "line 1 holds a zero byte.*iconv -f UTF-16LE"),
        ("\ufeffa bag".encode("utf-16-le")[:-1], "line 1 is not UTF-16"),
        (b"a bag\n\nNone\n", "line 3 is 'None'.*delete it"),
        (b"nan\n", "line 1 is 'nan'"),
        (b"a bag\n<NA>\n", "line 2 is '<NA>'"),
        (b"0001.jpg\ta bag\n", "line 1 holds a tab.*Name the file .tsv"),
        (b'"the words ""fly"" here"\n', "line 1 is quoted as in a table"),
        (b'"a red bag"\n"a blue boot"\n', "every line is quoted .*Name the file .csv"),
        (b'a bag\n["a", "b"]\n', "line 2 is a list of JSON"),
        (b"Prompt\na bag\n", "line 1 is 'Prompt', the head of a column"),
        (b"image,caption\n1.jpg,a bag\n", "line 1 is 'image,caption', the head of a table"),
        ("a caf\ufffd\n".encode(), "line 1 holds a letter that was lost"),
        ("it\x92s a bag\n".encode(), "line 1 holds a letter that was lost"),  # Windows' apostrophe, taken for Latin-1
        (b"a" * 10_001, "line 1 is 10001 letters long"),
    ],
)
def test_what_is_no_prompt_is_refused_by_its_line(data: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "evaluation.txt").write_bytes(data)
    with pytest.raises(ValueError, match=rf"(?s)^model.prompts='.*evaluation.txt: {told}"):
        read_folder(str(tmp_path), "evaluation", key="model.prompts")


def test_a_folder_that_is_none_or_lacks_a_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model.prompts='': names no folder"):
        read_folder("", "evaluation", key="model.prompts")
    with pytest.raises(ValueError, match=r"protocol.prompts='.*/none': there is no folder"):
        read_folder(str(tmp_path / "none"), "evaluation", key="protocol.prompts")
    (tmp_path / "a.txt").write_text("a bag\n")
    with pytest.raises(ValueError, match=r"is a file, and a folder with .* is asked for.*cq-prompts FOLDER"):
        read_folder(str(tmp_path / "a.txt"), "evaluation", key="model.prompts")
    (tmp_path / "calibration.txt").mkdir()
    with pytest.raises(ValueError, match=r"there is no file .*calibration.txt. Write one prompt a line"):
        read_folder(str(tmp_path), "calibration", key="model.prompts")


def test_prompts_that_a_text_encoder_cannot_tell_apart_are_shared() -> None:
    assert shared(["a  cat", "A dog.", "\uff21 pig"], ["A Cat ", "a dog", "a\u2028PIG"]) == ["A Cat ", "a\u2028PIG"]
    assert repeated(["a cat", "A  cat", "a dog"]) == 1


def test_the_identity_of_the_bundled_prompts_is_that_of_recorded_runs() -> None:
    assert digest(["a", "b"]) == hashlib.sha256(b"a\nb").hexdigest()
    model = component("sd", locate("zoo:sd_mini"))
    assert isinstance(model, StableDiffusion)
    assert model.content_digest() == "a4b0d7852a1fa90b8de057704dfe37a9d91d53e83faa1eae4ddc6c1f6aeef0b0"


def text_component(family: str, weights: Path, prompts: Path) -> StableDiffusion:
    model = component(family, weights)
    assert isinstance(model, StableDiffusion)
    return replace(model, prompts=str(prompts))


def test_what_is_counted_is_what_is_hashed_compared_and_drawn(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    for name, data in (("evaluation", b"\xef\xbb\xbfa red\x0cbag\r\n\r\nA Boot\r\n"), ("calibration", b"a cow\n")):
        (tmp_path / f"{name}.txt").write_bytes(data)
    model = text_component("sd", tiny_folders["sd"], tmp_path)
    model.check()
    assert model.num_classes == 2
    assert model.content_digest() == hashlib.sha256(b"a red\x0cbag\nA Boot\0a cow").hexdigest()
    assert model.load().captions(torch.tensor([0, 1])) == ("a red\x0cbag", "A Boot")
    lowered = text_component("pixart", tiny_folders["pixart"], tmp_path)
    assert lowered.content_digest() == hashlib.sha256(
        b"a red\x0cbag\nA Boot\0a cow\0a red\x0cbag\na boot").hexdigest()  # fmt: skip
    (tmp_path / "calibration.txt").write_text("a pig\na  BOOT \n")
    for family in ("sd", "pixart"):
        with pytest.raises(ValueError, match=r"1 prompts are in both files, 'a  BOOT' among them"):
            text_component(family, tiny_folders[family], tmp_path).check()


ODD = ("A Cat on a MAT", "a  cat   on", "a\x0ccat", "a cat " * 60, "Élan, (vital)!", "a cat")


def of_sd(pipeline: Any, texts: list[str]) -> Tensor:
    given, null = pipeline.encode_prompt(texts, "cpu", 1, True)
    return torch.cat([null, given])


def of_sdxl(pipeline: Any, texts: list[str]) -> Tensor:
    given, null, *_ = pipeline.encode_prompt(texts, device="cpu", do_classifier_free_guidance=True)
    return torch.cat([null, given])


def of_pixart(pipeline: Any, texts: list[str]) -> Tensor:
    given, mask, null, null_mask = pipeline.encode_prompt(texts, True, negative_prompt="", max_sequence_length=300)
    return torch.cat([torch.cat([null, null_mask[..., None]], -1), torch.cat([given, mask[..., None]], -1)])


@pytest.mark.parametrize(
    ("family", "kind", "stock"),
    [
        ("sd", StableDiffusionPipeline, of_sd),
        ("sdxl", StableDiffusionXLPipeline, of_sdxl),
        ("pixart", PixArtSigmaPipeline, of_pixart),
    ],
)
def test_text_states_are_those_of_the_stock_pipeline_and_what_is_cut_is_told(
    family: str, kind: Any, stock: Callable[[Any, list[str]], Tensor], tiny_folders: dict[str, Path], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    (tmp_path / "evaluation.txt").write_text("\n".join(ODD), encoding="utf-8", newline="")
    (tmp_path / "calibration.txt").write_text("a cow\n")
    with caplog.at_level(logging.WARNING, logger="cq.models.stable_diffusion"):
        model = text_component(family, tiny_folders[family], tmp_path).load()
    (told,) = (record.getMessage() for record in caplog.records if record.name == "cq.models.stable_diffusion")
    assert f"of {len(ODD)} evaluation prompts are longer than {300 if family == 'pixart' else 8} tokens" in told
    ours = model.condition(torch.arange(len(ODD)))
    theirs = stock(kind.from_pretrained(tiny_folders[family]), list(ODD))
    ours = ours[:, : theirs.shape[1], : theirs.shape[2]]  # SDXL's carries its pooled states, too
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    cut = theirs[len(ODD) :]
    assert not torch.allclose(cut[0], cut[-1], atol=1e-3)  # another text, other states
