"""Record files of the earlier layout, written anew in today's: `python experiments/migrate/records.py FILE...`

What those runs left implicit is written out, and each record gets the name that its question has today:

* components that have moved, under their new names;
* groups and slots that came later, with what every run had before there was a choice;
* the seconds of making each artefact, where a record names artefacts that another run had made. Name all files that
  share a store together: of records from before it was kept, it is the longest that any of them spent;
* protocols of scores and longer groups of configurations, each once beside the record files.

Scores, images' digests, seeds, dates and commits stay. A record is believed where its old name fits its configuration;
one whose own files or code counted in its name is refused. What is written already stays as it is.
"""

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from cq.core.checksum import digest_of
from cq.run.apart import kept, together
from cq.run.building import component_named
from cq.run.ledger import IDENTITY
from cq.run.record import PREPARATION, SCHEMA, RunRecord
from cq.run.record_file import append, read
from cq.run.sealed import count_file, opened

MOVED = {"cq.tracking": "cq.run.tracking"}  # modules of components
FIRST = ("model", "calibrate", "cost", "schedule", "correct", "quantize", "sample", "metrics", "latency", "seed")
LATER: Mapping[str, Any] = {
    "sampler": {"_target_": "cq.sampler.ddim.DDIM"},
    "cache": {"_target_": "cq.cache.cut.CutPoint"},
    "predict": {"_target_": "cq.predict.last.Last"},
    "correct.output": {"_target_": "cq.correct.none.NoCorrection"},
    "engine": {"_target_": "cq.engine.simulate.Simulate"},
    "compute": {"dtype": "float32", "compile": False},
    "model.release": None,
    "quantize.wait": None,
    "protocol": {"_target_": "cq.evaluate.paper_protocol.NoProtocol"},
}
CHOSEN = {"sampler": "ddim", "cache": "cut", "predict": "last", "correct_output": "none"}
INSIDE, ASKING = "statistics", ("schedule", "cache_correction")  # a stage that others ask for in their making


def old_name(recorded: Mapping[str, Any]) -> str:
    """The config_digest of the earlier layout: what came later counts where it is not what it was before."""
    config = json.loads(json.dumps(recorded))
    same = {"num_steps": config["sample"]["num_steps"], "sampler": config.get("sampler", LATER["sampler"])}
    counts = (*FIRST, *LATER, *(() if config.get("baseline", same) == same else ("baseline",)))
    for holder, name, before in _later(config):
        if name in holder and holder[name] == before:
            del holder[name]
    return digest_of({key: config[key] for key in counts if key in config})[:20]


def new_config(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with all that it left implicit."""
    config: dict[str, Any] = json.loads(json.dumps(recorded))
    for node in _components(config):
        module, _, name = node["_target_"].rpartition(".")
        node["_target_"] = f"{MOVED.get(module, module)}.{name}"
    for holder, name, before in _later(config):
        if "_target_" not in holder or name in _fields(holder["_target_"]):
            holder.setdefault(name, before)
    config.setdefault("baseline", {"num_steps": config["sample"]["num_steps"], "sampler": config["sampler"]})
    return config


def _later(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """What came later: where it belongs, under which name, and what it was before."""
    for key, before in LATER.items():
        group, _, slot = key.partition(".")
        yield (config[group], slot, before) if slot else (config, group, before)


def _components(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from _components(value)


def _fields(target: str) -> set[str]:
    return {each.name for each in fields(component_named(target, target))}


class Makers:
    """Seconds of every artefact's making, from records that list their stages in the order in which they ended, so that
    what a stage asked for stands before it."""

    def __init__(self, documents: Sequence[Mapping[str, Any]]) -> None:
        self._longest: dict[tuple[str, str], float] = {}
        self._behind: dict[tuple[str, str, int], str] = {}
        for document in documents:
            if document.get("made"):
                continue
            waiting = ""
            for stage, seconds in document["seconds"].items():
                if stage not in document["artifacts"]:  # loading makes no artefact
                    continue
                key = (stage, document["artifacts"][stage])
                self._longest[key] = max(float(seconds), self._longest.get(key, 0.0))
                if stage == INSIDE:
                    waiting = document["artifacts"][stage]
                elif waiting and stage in ASKING:
                    self._behind.setdefault((*key, document["seed"]), waiting)
                    waiting = ""

    def made(self, document: Mapping[str, Any]) -> dict[str, float | None]:
        """What the record says itself, and else stage of the preparation to seconds; None where they are not known."""
        told: dict[str, float | None] = dict(document.get("made") or {})
        artifacts = dict(document["artifacts"])
        if not told:
            for stage in ASKING:
                behind = self._behind.get((stage, artifacts.get(stage, ""), document["seed"]))
                if behind is not None:
                    artifacts.setdefault(INSIDE, behind)
        asked = [stage for stage in PREPARATION if stage in (told or artifacts) and told.get(stage) is None]
        return told | {stage: self._longest.get((stage, str(artifacts.get(stage)))) for stage in asked}


def migrated(document: Mapping[str, Any], makers: Makers) -> dict[str, Any]:
    """A record in today's layout. Raises ValueError for one whose name does not fit its configuration."""
    config = new_config(document["config"])
    name = digest_of({key: config[key] for key in IDENTITY})[:20]
    if document["config_digest"] not in (name, old_name(document["config"])):
        raise ValueError(
            f"config_digest={document['config_digest']!r} of {document['experiment']}: is not the name of its "
            "configuration alone. It was made with files or code of yours: run it again."
        )
    choices = {**document["choices"]}
    for group, chosen in CHOSEN.items():
        choices[group] = choices.get(group) or chosen
    made = makers.made(document)
    return {**document, "schema": SCHEMA, "config": config, "config_digest": name, "choices": choices, "made": made}


def migrate(paths: Sequence[Path]) -> None:
    """Write the files anew. Raises ValueError, and changes nothing, for a record that cannot be believed."""
    documents = {path: [_whole(json.loads(line), path.parent) for line in _opened(path)] for path in paths}
    makers = Makers([document for each in documents.values() for document in each])
    anew = {path: [migrated(document, makers) for document in each] for path, each in documents.items()}
    for path, each in anew.items():
        temporary = path.with_name(f"{path.name}.migrating")
        for file in (temporary, count_file(temporary)):
            file.unlink(missing_ok=True)
        for document in each:
            append(RunRecord.from_json(json.dumps(document), partial(kept, path.parent)), temporary)
        assert len(read(temporary)) == len(each)
        os.replace(count_file(temporary), count_file(path))
        os.replace(temporary, path)
        names = [{document["config_digest"] for document in found} for found in (documents[path], each)]
        print(f"{path}: {len(each)} records, {len(names[1] - names[0])} questions under a new name")


def _whole(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {**document, "config": together(document["config"], partial(kept, folder))}


def _opened(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text().splitlines()):
        try:
            yield opened(line, number)
        except ValueError as error:
            raise ValueError(f"{path}, line {number + 1}: {error}") from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write record files of the earlier layout in today's.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="all files of a folder together")
    migrate(parser.parse_args().files)
