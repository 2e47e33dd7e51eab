"""Which runs need which artefacts of a store, by what their records say."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from cq.core.inventory import Entry
from cq.report.pick import Run
from cq.run.sealed import count_file

USUAL = ("records", "runs_")  # how names of record files begin


class Holdings:
    """Artefacts by the runs that need them, and runs by their artefacts.

    A record names its folders; one of before it did is matched by the digests of its artefacts, which some artefacts of
    other keys share: these count as needed, too.
    """

    def __init__(self, root: Path, found: Sequence[Entry], runs: Sequence[Run]) -> None:
        self.root = root.resolve()
        self.found = [entry for entry in found if entry.whole]
        self.runs = runs

    def of(self, run: Run) -> list[Entry]:
        """What the record of `run` needs, as far as it is there."""
        record = run.record
        if record.folders and (run.file.parent / record.store).resolve() == self.root:
            return [self._by_folder[name] for name in record.folders.values() if name in self._by_folder]
        return [entry for stage in record.artifacts.items() for entry in self._by_digest.get(stage, ())]

    @cached_property
    def users(self) -> dict[str, list[Run]]:
        """Folder of an artefact to the runs that need it."""
        out: dict[str, list[Run]] = defaultdict(list)
        for run in self.runs:
            for entry in self.of(run):
                out[entry.folder].append(run)
        return dict(out)

    @cached_property
    def _by_folder(self) -> dict[str, Entry]:
        return {entry.folder: entry for entry in self.found}

    @cached_property
    def _by_digest(self) -> dict[tuple[str, str], list[Entry]]:
        out: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.found:
            out[entry.stage, entry.digest].append(entry)
        return out


def record_files(root: Path, named: Iterable[Path]) -> list[Path]:
    """Every record file that may name artefacts of the store: those that are named, and all that lie where they do.

    A record file is told by its count beside it, whatever its name; a copy, which has none, by a usual name.
    """
    places = dict.fromkeys((Path("results"), Path("runs"), root.parent, root))
    found = [path for place in places for path in place.glob("*.jsonl")]
    kept = [path for path in found if path.name.startswith(USUAL) or count_file(path).exists()]
    files = {path.resolve(): path for path in (*named, *sorted(kept))}
    return list(files.values())
