"""What lies in the store, which runs need it, and what can go: `cq store list | show | prune | export | bundle`.

cq store list                      artefacts by stage; list STAGE ... (or all): each with its size, age and runs
cq store show RUN | ARTEFACT       what made it, how long that took, its files, who needs it
cq store prune [--yes]             delete what no record needs, and what killed runs left; says so first without --yes
cq store export RUN OUT            the images of a run as PNG files, a grid, and what they are of
cq store bundle RUN OUT            its Acceleration, as cq.load reads it; --weights: the network, in its bits, with it

A RUN is named by its number in the record file or `last`, the first digits of its image or configuration digest, its
EXPERIMENT or label, or words that apply to it ('dps N=5 seed=0'); an ARTEFACT by the first digits of its folder.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cq.cli.commands import ended
from cq.core.inventory import Entry, alone_in, entries, is_held, remove
from cq.report.axes import leaves
from cq.report.build import row_titles
from cq.report.holdings import Holdings, record_files
from cq.report.pick import FEWEST, Run, matching, one, runs_in

MIB = 2**20
NAMED = 3  # runs that a line names
ACCELERATION = "acceleration"
IMAGES = ("samples", "samples_full_precision")  # stages that draw a run's images: the first that it has


def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry. Exit status: see `cq.cli.commands.ended`."""
    parser = argparse.ArgumentParser(
        prog="cq-store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--store", type=Path, default=Path("runs/store"), metavar="FOLDER", help="default: runs/store")
    common.add_argument(
        "--records", nargs="+", type=Path, default=[], metavar="FILE",
        help="beside those in results/, runs/, in the store's folder and in the one around it",
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list | show | prune | export | bundle")
    listing = verbs.add_parser("list", parents=[common], help="artefacts by stage")
    listing.add_argument("stages", nargs="*", metavar="STAGE", help="list each artefact of these stages; all: of all")
    show = verbs.add_parser("show", parents=[common], help="one run, or one artefact")
    show.add_argument("name", nargs="+", metavar="RUN | ARTEFACT")
    prune = verbs.add_parser("prune", parents=[common], help="delete what no record needs")
    prune.add_argument("--yes", action="store_true", help="delete; without it, say only what would be")
    prune.add_argument("--older-than", type=float, default=0.0, metavar="DAYS", help="only what is; default 0")
    prune.add_argument(
        "--needed", nargs="+", default=[], metavar="STAGE", help="also what records need, of these stages: scores stay"
    )
    export = verbs.add_parser("export", parents=[common], help="the images of a run as PNG files")
    export.add_argument("run", metavar="RUN")
    export.add_argument("out", type=Path, metavar="OUT", help="a folder that is made, or an empty one")
    bundle = verbs.add_parser("bundle", parents=[common], help="the Acceleration of a run, as cq.load reads it")
    bundle.add_argument("run", metavar="RUN")
    bundle.add_argument("out", type=Path, metavar="OUT", help="a folder that is made, an empty one, or another bundle")
    bundle.add_argument(
        "--weights", action="store_true",
        help="with the network's weights in their bits: a pipeline then needs no checkpoint of it",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    verb = {"list": _list, "show": _show, "prune": _prune, "export": _export, "bundle": _bundle}[given.verb]
    return ended("cq-store", lambda: _tell(verb(given)))


def _tell(lines: Iterator[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")


def _holdings(given: argparse.Namespace) -> tuple[list[Entry], Holdings]:
    found = entries(given.store)
    return found, Holdings(given.store, found, runs_in(record_files(given.store, given.records)))


def _list(given: argparse.Namespace) -> Iterator[str]:
    found, held = _holdings(given)
    stages = list(dict.fromkeys(entry.stage for entry in found if entry.whole))
    _check_stages(given.stages, [*stages, "all"], "STAGE")
    yield _summary(found, held)
    yield f"{'stage':24} artefacts        MiB  needed"
    for stage in stages:
        whole = [entry for entry in found if entry.whole and entry.stage == stage]
        needed = sum(entry.folder in held.users for entry in whole)
        yield f"{stage:24} {len(whole):9}  {_mib(whole):9.1f}  {needed:6}"
    if left := [entry for entry in found if not entry.whole]:
        yield f"{'left by killed runs':24} {len(left):9}  {_mib(left):9.1f}       -"
    for entry in found:
        if entry.whole and ("all" in given.stages or entry.stage in given.stages):
            yield f"{_line(entry)}  {_named(held.users.get(entry.folder, []), held)}"


def _show(given: argparse.Namespace) -> Iterator[str]:
    _, held = _holdings(given)
    name = " ".join(given.name)
    stage, _, digits = name.rpartition("/")
    chosen = [
        entry for entry in held.found
        if len(digits) >= (1 if stage else FEWEST) and entry.path.name.startswith(digits) and stage in ("", entry.stage)
    ]  # fmt: skip
    if len(chosen) > 1:
        raise ValueError(f"{name}: names {', '.join(entry.folder for entry in chosen)}. Give more digits, or STAGE/.")
    if chosen and not _is_run(held, name):
        yield from _shown_artefact(chosen[0], held)
    else:
        yield from _shown_run(one(_candidates(held), name), held)


def _shown_artefact(entry: Entry, held: Holdings) -> Iterator[str]:
    yield f"{entry.path}: {_mib([entry]):.1f} MiB, {_age(entry)} old"
    yield f"content  {entry.digest or 'without a digest'}"
    for name, size in entry.files.items():
        yield f"file     {name}, {size} bytes"
    for stage, seconds in entry.seconds.items():
        yield f"made in  {_seconds(seconds)}: {stage}"
    for key, value in leaves(entry.key, "key"):
        yield f"made of  {key.removeprefix('key.')}: {json.dumps(value)}"
    yield f"needed   {_named(held.users.get(entry.folder, []), held, many=True)}"


def _shown_run(run: Run, held: Holdings) -> Iterator[str]:
    record = run.record
    yield f"run {run.number} of {run.file}: {_title(run, held)}, seed {record.seed}; {record.status} {record.date}"
    yield f"asked    {' '.join(record.overrides) or 'not kept by this record'}"
    yield f"made by  commit {record.commit[:12] or 'none'}{'' if record.clean_tree else ', with local changes'}"
    yield f"images   {record.images_digest[:12] or 'none'}; question {record.config_digest}"
    for name, score in record.scores.items():
        yield f"score    {name}: {score['value']:.4g}"
    for stage in {**record.artifacts, **record.folders}:
        alike = [entry for entry in held.of(run) if entry.stage == stage]
        if not alike:
            yield f"  {stage}: is not in this store"
        elif len(alike) > 1:
            yield f"  {stage}: one of {len(alike)} artefacts of this content; the record does not say which"
        else:
            yield f"{_line(alike[0])}  {_seconds(record.made.get(stage))}, of {len(held.users[alike[0].folder])} runs"


def _prune(given: argparse.Namespace) -> Iterator[str]:
    if not given.yes:
        yield from _pruned(given)
        return
    entries(given.store)  # refused, where there is none
    with alone_in(given.store):
        yield from _pruned(given)


def _pruned(given: argparse.Namespace) -> Iterator[str]:
    found, held = _holdings(given)
    _check_stages(given.needed, [entry.stage for entry in found], "--needed")
    if not held.runs:
        raise ValueError(
            f"--store={given.store}: there is no record file here, by which to tell what is needed. Name one with "
            "--records, or delete the whole folder."
        )
    old = [entry for entry in found if entry.hours >= 24 * given.older_than]
    busy = [entry for entry in old if is_held(entry.path)]
    free = [entry for entry in old if entry not in busy]
    groups = {
        "no record needs": [entry for entry in free if entry.whole and entry.folder not in held.users],
        "left by killed runs, which would go on from it": [entry for entry in free if not entry.whole],
        "needed by records, which keep their scores": [
            entry for entry in free if entry.folder in held.users and entry.stage in given.needed
        ],
    }
    yield _summary(found, held)
    for title, chosen in groups.items():
        if chosen:
            yield f"{title}: {len(chosen)}, {_mib(chosen):.1f} MiB"
        for entry in chosen:
            runs = held.users.get(entry.folder, [])
            yield f"{_line(entry)}  {_named(runs, held) if runs else ''}".rstrip()
    if busy:
        yield f"being made now, and left alone: {len(busy)}"
    out = [entry for chosen in groups.values() for entry in chosen]
    if not given.yes:
        yield f"{len(out)} of {len(found)} would be deleted, {_mib(out):.1f} MiB. Nothing was; --yes does it."
        return
    for entry in out:
        remove(entry)
    yield f"{len(out)} of {len(found)} deleted, {_mib(out):.1f} MiB."


def _export(given: argparse.Namespace) -> Iterator[str]:
    _, held = _holdings(given)
    run = one(_candidates(held), given.run)
    stage = next((stage for stage in IMAGES if stage in run.record.artifacts), None)
    drawn = [entry for entry in held.of(run) if entry.stage == stage]
    if not drawn:
        raise ValueError(
            f"RUN={given.run}: the images of run {run.number} of {run.file} are not in {given.store}. Name the store "
            "that has them with --store, or run it again with force=true."
        )
    from cq.report.export import export

    count = export(run, drawn[0].path, given.out)
    title = f"{_title(run, held)}, seed {run.record.seed}"
    yield f"{given.out}: {count} images of run {run.number} ({title}), grid.png, origin.json"


def _bundle(given: argparse.Namespace) -> Iterator[str]:
    _, held = _holdings(given)
    run = one(_candidates(held), given.run)
    made = [entry for entry in held.of(run) if entry.stage == ACCELERATION]
    if not made:
        raise ValueError(
            f"RUN={given.run}: the Acceleration of run {run.number} of {run.file} is not in {given.store}. Name the "
            "store that has it with --store, or run it again with force=true."
        )
    from cq.adapt.acceleration import load
    from cq.adapt.of_run import network_of

    load(made[0].path).save(given.out, weights=network_of(run.record) if given.weights else None)
    size = sum(path.stat().st_size for path in given.out.iterdir()) / MIB
    title = f"{_title(run, held)}, seed {run.record.seed}"
    yield f"{given.out}: the Acceleration of run {run.number} ({title}), {size:.1f} MiB"


def _candidates(held: Holdings) -> list[Run]:
    """The runs that RUN may name: those of record files that know of this store, or else all."""
    files = {run.file for runs in held.users.values() for run in runs}
    return [run for run in held.runs if run.file in files] or list(held.runs)


def _is_run(held: Holdings, name: str) -> bool:
    try:
        return bool(matching(_candidates(held), name))
    except ValueError:
        return False


def _check_stages(asked: Sequence[str], known: Sequence[str], key: str) -> None:
    for stage in asked:
        if stage not in known:
            raise ValueError(f"{key}={stage}: there is no such stage here, only {', '.join(dict.fromkeys(known))}.")


def _summary(found: Sequence[Entry], held: Holdings) -> str:
    whole = [entry for entry in found if entry.whole]
    files = ", ".join(map(str, dict.fromkeys(run.file for run in held.runs))) or "no record file"
    return (
        f"{held.root}: {len(whole)} artefacts, {_mib(found):.1f} MiB; {len(held.users)} of them are needed by the "
        f"{len(held.runs)} runs of {files}"
    )


def _line(entry: Entry) -> str:
    return f"  {entry.folder:46} {_mib([entry]):8.1f} MiB  {_age(entry):>7}"


def _named(runs: Sequence[Run], held: Holdings, *, many: bool = False) -> str:
    """The runs that need an artefact, the first of them by name."""
    if not runs:
        return "no record needs it"
    told = [f"{run.number} ({_title(run, held)}, seed {run.record.seed})" for run in runs]
    more = f" and {len(told) - NAMED} more" if len(told) > NAMED and not many else ""
    return f"run{'s' * (len(told) > 1)} {', '.join(told if many else told[:NAMED])}{more}"


def _title(run: Run, held: Holdings) -> str:
    """As the run's row is called in its table."""
    title = row_titles([each.record for each in held.runs]).get(id(run.record), run.record.label)
    return f"{run.record.experiment}, {title}"


def _seconds(made: float | None) -> str:
    return "unknown time" if made is None else f"{made:.1f} s"


def _mib(found: Sequence[Entry]) -> float:
    return sum(entry.num_bytes for entry in found) / MIB


def _age(entry: Entry) -> str:
    hours = entry.hours
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.0f} h" if hours >= 2 else f"{60 * hours:.0f} min"


if __name__ == "__main__":
    sys.exit(main())
