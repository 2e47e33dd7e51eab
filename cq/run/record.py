"""The record of one run: what was asked, on what, what it cost and how it scored."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_origin

from cq.run.apart import Apart, together

SCHEMA = 2  # raised when the meaning of a field changes; 2: the configuration leaves nothing implicit

Status = Literal["ok", "incomplete", "failed", "not run"]

STATUSES: tuple[str, ...] = ("ok", "incomplete", "failed", "not run")
BUDGET = ("num_steps", "cache_interval", "weight_bits", "act_bits")
COUNTED = (
    "macs_full",
    "macs_cached",
    "macs_mean",
    "bops_mean",
    "weight_bytes",
    "compression",
    "num_refreshes",
    "num_calls",
)
BESIDE = "own files and code"  # among the versions
MEASURED = ("seconds_per_image", "peak_mem_mib", "device")
SCORE = ("value", "low", "high", "better", "protocol", "fingerprint", "curve")
BETTER = ("down", "up")
LATER = ("overrides", "store", "folders", "executed")  # fields that records of before they were kept lack
PREPARATION = (  # stages before the first image is drawn
    "statistics", "sketches", "schedule", "cache_correction", "quant_params", "quant_correction", "full_states",
    "output_correction",
)  # fmt: skip
NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


class EarlierLayoutError(ValueError):
    """A record that an earlier version wrote."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Everything needed to believe one run: what was asked, on what, what it cost and how it scored.

    experiment, table, row, label: where the run stands in a report. paper_row: key of published rows, or "".
    choices: group to chosen option. budget: num_steps, cache_interval, weight_bits, act_bits; None where unread.
    config, config_digest: the resolved configuration and its name. model: at least name and weights_digest.
    counted: operations of the denoiser a call (macs_*, bops_mean: averaged over the calls), bytes of the weights,
        refreshes and calls; None where a number was not counted; {} where the run did not get that far.
    measured: wall clock of real kernels, or None. A quantized run may only carry it where it was `executed`: fake
        quantization is never timed.
    scores: metric to {value, low, high, better, protocol, fingerprint, curve}; low and high bound the bootstrap
        interval (None without one), better is "down" or "up", curve is one number a call or [].
    versions: of Python and the packages, and what else rounding depends on: device, CPU instructions, threads, and the
        batch sizes of the run, which budget.max_memory may have made smaller than those in `config`; and BESIDE, the
        name of the files and the code that the configuration names and that are yours, or not as committed.
    seconds, artifacts: stage to wall clock in seconds of this run and to digest.
    made: stage to seconds of making its artefact, by whichever run made it, and of the stages that were asked for in
        the making; None where that is not known.
    schedule: {} or {num_calls, refresh_calls}.
    thumbnails: PNG strip of the first images, relative to the folder of the record file, or "".
    overrides: what the command line said, as Hydra has it. store: the folder of the artefacts, relative to that of the
        record file, or "". folders: stage to its folder in the store. Records of before they were kept have none.
    executed: the engine that multiplied the bits' integers when the images were drawn, "" where they were simulated.
    status: incomplete where the images are drawn and a score is missing, which the same command adds.
    note: why a run failed, did not run or is incomplete.
    Raises ValueError where a field has the wrong type or a nested key is missing.
    """

    schema: int
    experiment: str
    table: str
    row: int
    label: str
    paper_row: str
    choices: Mapping[str, Any]
    budget: Mapping[str, Any]
    seed: int
    config: Mapping[str, Any]
    config_digest: str
    model: Mapping[str, Any]
    commit: str
    clean_tree: bool
    date: str
    versions: Mapping[str, Any]
    device: str
    counted: Mapping[str, Any]
    measured: Mapping[str, Any] | None
    scores: Mapping[str, Any]
    seconds: Mapping[str, Any]
    made: Mapping[str, Any]
    artifacts: Mapping[str, Any]
    images_digest: str
    schedule: Mapping[str, Any]
    thumbnails: str
    status: Status
    note: str
    overrides: Sequence[str] = ()
    store: str = ""
    folders: Mapping[str, Any] = field(default_factory=dict)
    executed: str = ""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"schema={self.schema!r}: this version reads schema {SCHEMA}; run the experiment again.")
        for each in fields(self):
            self._check_type(each.name, each.type)
        if self.status not in STATUSES:
            raise ValueError(f"status={self.status!r}: must be one of {list(STATUSES)}.")
        if not self.experiment or not self.table or not self.label:
            raise ValueError(
                f"experiment={self.experiment!r}, table={self.table!r}, label={self.label!r}: "
                "must not be empty; the report finds a run by them."
            )
        if self.status != "ok" and not self.note:
            raise ValueError(f"note='' of a run that is {self.status!r}: say why in `note`; the report prints it.")
        _require("budget", self.budget, BUDGET)
        _require("model", self.model, ("name", "weights_digest"))
        if self.counted or self.drawn:
            _require("counted", self.counted, COUNTED, exact=True)
        if self.schedule:
            _require("schedule", self.schedule, ("num_calls", "refresh_calls"), exact=True)
        if self.measured is not None:
            _require("measured", self.measured, MEASURED)
            if self.quantized and not self.executed:
                raise ValueError(
                    f"measured={dict(self.measured)!r} of a run with quantize={self.choices['quantize']!r}: fake "
                    "quantization is never timed. Set measured to null, or name in `executed` the engine that "
                    "multiplied integers."
                )
        for name, score in self.scores.items():
            if not isinstance(score, Mapping):
                raise ValueError(f"scores[{name!r}]={score!r}: must be a mapping with the keys {list(SCORE)}.")
            _require(f"scores[{name!r}]", score, SCORE, exact=True)
            if score["better"] not in BETTER:
                raise ValueError(f"scores[{name!r}]['better']={score['better']!r}: must be one of {list(BETTER)}.")

    @property
    def drawn(self) -> bool:
        """Whether there are images, so that what it cost and how it scored can be told."""
        return self.status in ("ok", "incomplete")

    @property
    def quantized(self) -> bool:
        """Whether a quantizer other than the identity was chosen."""
        return self.choices.get("quantize", "none") not in ("none", "", None)

    @property
    def key(self) -> tuple[str, int, str]:
        """Runs of one key answer one question: a later one replaces an earlier one in reports."""
        return (self.experiment, self.seed, self.config_digest)

    def to_json(self) -> str:
        """One line of strict JSON without its newline; infinite and undefined numbers as "inf", "-inf", "nan"."""
        return json.dumps(_plain(asdict(self)), sort_keys=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str, apart: Apart | None = None) -> "RunRecord":
        """The record in one line. apart: what it names, of a kind and a fingerprint, as `cq.run.apart.kept` has it.

        Raises ValueError on broken JSON and on unknown, missing or mistyped keys.
        """
        try:
            document = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a JSON object: {error}. Every line must hold one whole record.") from error
        if not isinstance(document, dict):
            raise ValueError(f"{type(document).__name__} instead of a JSON object: every line must hold one record.")
        if document.get("schema") == 1:
            raise EarlierLayoutError(
                f"schema=1: an earlier version wrote it, and this one reads schema {SCHEMA}. Write the file anew with "
                "experiments/migrate/records.py of the repository, or go on in another one."
            )
        if document.get("schema") != SCHEMA:
            raise ValueError(
                f"schema={document.get('schema')!r}: this version reads schema {SCHEMA}; run the experiment again."
            )
        names = tuple(each.name for each in fields(cls))
        _require("record", {**dict.fromkeys(LATER), **document}, names, exact=True)
        if isinstance(document.get("overrides"), list):
            document["overrides"] = tuple(document["overrides"])
        if isinstance(document["choices"], dict):  # those of before it was among them had no other
            document["choices"] = {**document["choices"], "engine": document["choices"].get("engine", "simulate")}
        if isinstance(document["scores"], dict):
            document["scores"] = {name: _whole(score, apart) for name, score in document["scores"].items()}
        if isinstance(document["config"], dict) and apart is not None:
            document["config"] = together(document["config"], apart)
        return cls(**document)

    def _check_type(self, name: str, expected: Any) -> None:
        value = getattr(self, name)
        if name == "measured" and value is None:
            return
        if expected in (int, bool):
            good = type(value) is expected
        elif expected is str or name == "status":
            good = isinstance(value, str)
        elif get_origin(expected) is Sequence:
            good = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        else:
            assert name == "measured" or get_origin(expected) is Mapping, name
            good = isinstance(value, Mapping)
        if not good:
            raise ValueError(f"{name}={value!r}: is a {type(value).__name__}, which this field of a record may not be.")


def latest(records: Iterable[RunRecord]) -> list[RunRecord]:
    """The last record of every (experiment, seed, config_digest), in the order in which each key first appeared.

    One that did not end well takes nothing back: a good one before it, about the same weights, stands.
    """
    by_key: dict[tuple[str, int, str], RunRecord] = {}
    for record in records:
        before = by_key.get(record.key)
        better = before is None or before.status != "ok" or record.status == "ok"
        if better or record.model["weights_digest"] != by_key[record.key].model["weights_digest"]:
            by_key[record.key] = record
    return list(by_key.values())


def _require(name: str, found: Mapping[str, Any], keys: tuple[str, ...], *, exact: bool = False) -> None:
    missing = [key for key in keys if key not in found]
    unknown = [key for key in found if key not in keys] if exact else []
    if missing or unknown:
        raise ValueError(
            f"{name}: "
            + "; ".join(
                part
                for part in (
                    f"missing keys {missing}" if missing else "",
                    f"unknown keys {unknown}" if unknown else "",
                    f"it must hold {list(keys)}",
                )
                if part
            )
            + "."
        )


def _plain(value: Any) -> Any:
    """JSON values only: mappings to dicts, tuples to lists, non-finite numbers to their names."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _whole(score: Any, apart: Apart | None) -> Any:
    """A score with its protocol, and with the names of non-finite numbers turned back into numbers."""
    if not isinstance(score, dict):
        return score
    if apart is not None and "protocol" not in score and "fingerprint" in score:
        score = {**score, "protocol": apart("protocols", score["fingerprint"])}
    back = {key: _number(score[key]) for key in ("value", "low", "high") if key in score}
    if isinstance(score.get("curve"), list):
        back["curve"] = [_number(item) for item in score["curve"]]
    return {**score, **back}


def _number(value: Any) -> Any:
    return NON_FINITE.get(value, value) if isinstance(value, str) else value
