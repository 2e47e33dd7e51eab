"""Which runs a text names: how `cq-report diff A B`, and every other command that takes a RUN, finds its record.

A run is named by its number in the record file, counted from 1 (`3`), or `last`; by the first digits of its image or
configuration digest (`79a96638`); by its EXPERIMENT (`table5/cache_dps`), its label, or its name in a table; or by
words that all apply to it (`dps ptq N=5 seed=0`, `schedule=dps quantize=none`): choices, numbers of the budget, keys of
the configuration.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cq.report.axes import leaves, question_of
from cq.report.build import row_titles
from cq.run.building import near
from cq.run.record import RunRecord, latest
from cq.run.record_file import read

SHORT = {"N": "cache_interval", "T": "num_steps", "W": "weight_bits", "A": "act_bits"}
DIGITS = 8  # of a digest, where a run is listed
FEWEST = 4  # digits that may stand for a digest: shorter ones are numbers and words
LISTED = 6


@dataclass(frozen=True, kw_only=True)
class Run:
    """A record and where it stands: `number` counts the records of `file` from 1."""

    record: RunRecord
    file: Path
    number: int

    def folder(self, stage: str) -> Path | None:
        """Where the artefact of a stage lies; None where it was not kept, is gone, or a record of before is mute."""
        if not self.record.store or stage not in self.record.folders:
            return None
        folder = self.file.parent / self.record.store / self.record.folders[stage]
        return folder if folder.is_dir() else None

    @property
    def strip(self) -> Path | None:
        """The PNG of its first images, side by side; None where it has none."""
        path = self.file.parent / self.record.thumbnails
        return path if self.record.thumbnails and path.is_file() else None


def runs_in(files: Sequence[Path]) -> list[Run]:
    """Every record of the files, oldest first. Raises as `cq.run.record_file.read`."""
    return [
        Run(record=record, file=file, number=number) for file in files for number, record in enumerate(read(file), 1)
    ]


def matching(runs: Sequence[Run], text: str) -> list[Run]:
    """The runs that `text` names, of each question the last; see the module. Raises ValueError where there is none."""
    if not runs:
        raise ValueError(f"{text!r}: the record files hold no run. Run `cq` first, or name others with --records.")
    text, words = text.strip(), _words(text)
    found = _numbered(runs, text) or _newest([run for run in runs if _is_digest(run.record, text)])
    if not found:
        titles = row_titles([run.record for run in runs])
        standing = [run for run in runs if id(run.record) in titles]  # by number and digest alone: what is superseded
        found = [run for run in standing if text == titles[id(run.record)]]
        found = found or [run for run in standing if text in (run.record.experiment, run.record.label)]
    if not found:
        _check_keys(runs, words)
        found = [run for run in standing if words and all(_applies(run, titles, word) for word in words)]
    if not found:
        files = ", ".join(dict.fromkeys(str(run.file) for run in runs))
        raise ValueError(
            f"{text!r}: names none of the {len(runs)} runs of {files}. Name one by its number (1 to "
            f"{max(run.number for run in runs)}) or `last`, the first digits of its digest, its "
            "EXPERIMENT, its label, or words that apply to it, such as 'schedule=dps N=5 seed=0'."
        )
    return found


def one(runs: Sequence[Run], text: str) -> Run:
    """The one run that `text` names. Raises ValueError where it names none or several."""
    found = matching(runs, text)
    if len(found) > 1:
        raise ValueError(_several(text, runs, found, "runs"))
    return found[0]


def row(runs: Sequence[Run], text: str) -> list[Run]:
    """The runs of the one configuration that `text` names: its seeds, in order. Raises ValueError as `one`."""
    found = matching(runs, text)
    firsts = list({_row(run.record): run for run in found[::-1]}.values())
    if len(firsts) > 1:
        raise ValueError(_several(text, runs, firsts[::-1], "configurations"))
    return sorted(found, key=lambda run: run.record.seed)


def _row(record: RunRecord) -> tuple[str, ...]:
    return (record.experiment, record.label, question_of(record))


def _several(text: str, runs: Sequence[Run], found: Sequence[Run], what: str) -> str:
    titles = row_titles([run.record for run in runs])
    told = [
        f"{run.number} ({titles.get(id(run.record), run.record.label)}, {run.record.experiment}, "
        f"seed {run.record.seed}, {run.record.config_digest[:DIGITS]})"
        for run in found[:LISTED]
    ]
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return (
        f"{text!r}: names {len(found)} {what}: {'; '.join(told)}{more}. "
        "Say more words, or name one by its number or digest."
    )


def _numbered(runs: Sequence[Run], text: str) -> list[Run]:
    if text == "last":
        return list(runs[-1:])
    found = [run for run in runs if text.isdecimal() and run.number == int(text)]
    if len(found) > 1:
        raise ValueError(f"{text!r}: {len(found)} record files have a run of this number. Name one with --records.")
    return found


def _newest(runs: Sequence[Run]) -> list[Run]:
    kept = {id(record) for record in latest(run.record for run in runs)}
    return [run for run in runs if id(run.record) in kept]


def _is_digest(record: RunRecord, text: str) -> bool:
    return len(text) >= FEWEST and (record.images_digest.startswith(text) or record.config_digest.startswith(text))


def _applies(run: Run, titles: Mapping[int, str], word: str) -> bool:
    record = run.record
    key, equals, value = word.partition("=")
    if not equals:
        said = [
            record.experiment,
            *record.experiment.split("/"),
            *_words(record.label),
            *_words(titles.get(id(record), "")),
        ]
        return word.lower() in map(str.lower, [*said, *map(str, record.choices.values())]) or _is_digest(record, word)
    known, (key, underscored) = _known(record), _spelled(key)
    return str(known.get(key, known.get(underscored))).lower() == value.lower().replace("null", "none")


def _known(record: RunRecord) -> dict[str, object]:
    """What `KEY=VALUE` can be said of a run: its choices, the numbers of its budget, keys of its configuration."""
    known = {"seed": record.seed, **dict(leaves(record.config)), **record.choices}
    return known | {prefix + name: number for name, number in record.budget.items() for prefix in ("", "budget.")}


def _spelled(key: str) -> tuple[str, str]:
    """The key as a record has it: short, `correct@correct.cache` as the command line has it, or `correct.cache`."""
    key = SHORT.get(key, key.rpartition("@")[2])
    return key, key.replace(".", "_")


def _check_keys(runs: Sequence[Run], words: Sequence[str]) -> None:
    """Raise ValueError for `KEY=VALUE` of a key that no run has, which with `none` would name them all."""
    known = {name for run in runs for name in _known(run.record)}
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and not known & {*_spelled(key)}:
            raise ValueError(f"{word}: no run here has a key {key!r}.{near(key, sorted(known))} Correct it.")


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()
