"""The prompts of a text-to-image model, by one reader: what it counts is what is hashed, compared and drawn.

A folder of prompts holds evaluation.txt and calibration.txt, one prompt a line; prompt i is the i-th of them. A file is
UTF-8, or UTF-16 or UTF-32 with its byte-order mark; a mark is no part of a prompt. Lines end with LF, CRLF or CR and
with nothing else: a form feed or a separator of Unicode's stays within its prompt. Space around a prompt is no part of
it, and a blank line is none. Refused by their line: another encoding, tabs, what a spreadsheet writes for nothing, the
quoting or the head of a table, and what is too long to have been written for a model.
"""

import codecs
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from cq.models.locate import locate

MARKS = (  # longest first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
NULLS = frozenset({"none", "null", "nil", "nan", "-nan", "<na>", "na", "n/a", "#n/a", "#na"})
COLUMNS = ("prompt", "prompts", "caption", "captions", "text")  # of a table, whatever their case; the first is taken
LOST = re.compile("[\x01-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufffd\ud800-\udfff]")  # what a wrong conversion leaves
LONGEST = 10_000  # characters; the text encoders read some hundred words


def read_folder(reference: str, purpose: str, *, key: str) -> tuple[str, ...]:
    """The prompts in PURPOSE.txt of a folder (`zoo:NAME` or a path), which the configuration names under `key`.

    Raises ValueError where it is missing, empty or not as above.
    """
    if not reference.strip():
        raise ValueError(f"{key}={reference!r}: names no folder. Give one with evaluation.txt and calibration.txt.")
    if Path(reference).is_file():
        raise ValueError(
            f"{key}={reference!r}: is a file, and a folder with evaluation.txt and calibration.txt is asked for. Make "
            f"it of your file with: cq-prompts FOLDER {reference} CALIBRATION"
        )
    try:
        folder = locate(reference)
    except ValueError as error:
        raise ValueError(f"{key}={error}") from error
    path = folder / f"{purpose}.txt"
    if not path.is_file():
        raise ValueError(f"{key}={reference!r}: there is no file {path}. Write one prompt a line into it.")
    try:
        return tuple(read_lines(path))
    except ValueError as error:
        raise ValueError(f"{key}={reference!r}: {error}") from error


def read_lines(path: Path) -> list[str]:
    """The prompts of a text file. Raises ValueError, naming the line, where one is none or the file holds none."""
    prompts: list[str] = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", decoded(path)), start=1):
        prompt = line.strip().strip("\ufeff").strip()  # files with a mark each, joined
        if is_blank(prompt):
            continue
        if why := flaw(prompt) or ("" if prompts else _head(prompt)):
            raise ValueError(f"{path}: line {number} {why}")
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{path}: holds no prompt. Write one a line.")
    if len(prompts) > 1 and all(re.fullmatch(r'".+"', prompt) for prompt in prompts):
        raise ValueError(
            f"{path}: every line is quoted ({_short(prompts[0])}), as in a table. Name the file .csv, with a head such "
            "as Prompt, and let cq-prompts take its column; or take the quotes away."
        )
    return prompts


def decoded(path: Path) -> str:
    """The text of a file without its byte-order mark. Raises ValueError where it is in no encoding known by one."""
    data = path.read_bytes()
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}: line {line} is not {encoding.removesuffix('-sig').upper()} (byte 0x{data[error.start]:02x}). "
            f"Write it as UTF-8; if it is from Windows: iconv -f CP1252 -t UTF-8 {path} > OUT"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(
            f"{path}: line {line} holds a zero byte, so this is UTF-16 without its mark, or no text. Write it as "
            f"UTF-8; if it is UTF-16: iconv -f UTF-16LE -t UTF-8 {path} > OUT"
        )
    return text


def is_blank(text: str) -> bool:
    """Whether it holds no visible character."""
    return not text[:1].isalnum() and not any(letter.isprintable() and not letter.isspace() for letter in text)


def is_null(text: str) -> bool:
    """Whether it is a program's word for a missing value: None, NaN, <NA>, ..."""
    return text.strip().lower() in NULLS


def flaw(prompt: str) -> str:
    """What is wrong with a text as a prompt, with a remedy; empty where nothing is."""
    if is_null(prompt):
        return f"is {prompt!r}, which is how a table writes that there is nothing. Write its prompt, or delete it."
    if re.fullmatch(r'\[".*"\]', prompt):
        return f"is a list of JSON ({_short(prompt)}). Name the file .json and let cq-prompts read it."
    if "\t" in prompt:
        return (
            f"holds a tab ({_short(prompt)}), so it is the row of a table. Name the file .tsv and let python -m "
            "cq.cli.prompts take its column, or write a space."
        )
    if '""' in prompt[1:-1] and re.fullmatch(r'".*"', prompt):
        return (
            f"is quoted as in a table ({_short(prompt)}). Name the file .csv, with a head such as Prompt, and let "
            "cq-prompts take its column."
        )
    if LOST.search(prompt):
        return f"holds a letter that was lost in a conversion ({_short(prompt)!a}). Convert the text again."
    if len(prompt) > LONGEST:
        return f"is {len(prompt)} letters long, and a prompt has at most {LONGEST}. Write one prompt a line."
    return ""


def digest(prompts: Iterable[str]) -> str:
    """SHA-256 over the prompts, as `protocol.prompts_sha256` names them."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()


def shared(evaluation: Iterable[str], calibration: Iterable[str]) -> list[str]:
    """Prompts of calibration that a text encoder cannot tell from one of evaluation, in their order.

    So they are compared without case, width and number of spaces: CLIP's tokenizer and PixArt's pipeline drop those.
    """
    seen = {_plain(prompt) for prompt in evaluation}
    return [prompt for prompt in calibration if _plain(prompt) in seen]


def repeated(prompts: Sequence[str]) -> int:
    """How many prompts repeat an earlier one."""
    return len(prompts) - len({_plain(prompt) for prompt in prompts})


def _plain(prompt: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


def _head(prompt: str) -> str:
    names = [cell.strip().strip('"').lower() for cell in re.split(r"[,;|]", prompt)]
    if not set(names) & set(COLUMNS) or not all(re.fullmatch(r"\w+", name) for name in names):
        return ""
    if len(names) == 1:
        return f"is {prompt!r}, the head of a column. Delete it."
    return f"is {prompt!r}, the head of a table. Name the file .csv and let cq-prompts take its column."


def _short(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 60 else f"{prompt[:57]}...")
