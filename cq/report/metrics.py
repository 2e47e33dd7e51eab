"""The metrics of a table: their names in words, and the rule that a column holds one protocol."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cq.run.record import RunRecord

# Metric keys are read word by word: db is the unit, fp and ref say against what, and NETWORKS in whose features.
METRIC_WORDS: Mapping[str, str] = {
    "frechet": "Frechet",
    "fid": "FID",
    "sfid": "sFID",
    "is": "IS",
    "kid": "KID",
    "kid_difference": "KID difference",
    "inception_score": "Inception score",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "clip_score": "CLIP score",
    "latent_error": "latent error, relative",
    "outliers": "images far off",
}
DECIMALS: Mapping[str, int] = {
    "frechet": 3,
    "fid": 2,
    "sfid": 2,
    "is": 2,
    "inception_score": 3,
    "psnr": 2,
    "clip_score": 2,
    "kid": 5,
    "outliers": 1,
    "kid_difference": 5,
}
NETWORKS: Mapping[str, str] = {"own": "own", "efficientnet": "EfficientNet-Lite0"}
AGAINST_DATA_FIRST = ("frechet", "fid", "sfid", "kid", "is", "inception_score", "clip_score")
INCEPTION = ("fid", "sfid", "kid", "is", "inception_score")  # on Inception features unless the key names a network


@dataclass(frozen=True, kw_only=True)
class Column:
    """A metric of a table: its key, which way is good, and the one protocol under which all its cells stand."""

    key: str
    better: str
    fingerprint: str
    protocol: Mapping[str, Any]

    @property
    def title(self) -> str:
        return metric_title(self.key, self.better)

    @property
    def decimals(self) -> int:
        return DECIMALS.get(_parts(self.key)[0], 4)


def metric_title(key: str, better: str) -> str:
    """A metric's key in words, with its good direction: psnr_fp_db is "PSNR vs full precision, dB (up)"."""
    words = key.split("_")
    base, mode = _parts(key)
    title = METRIC_WORDS.get(base, base.replace("_", " ")) + (f" ({mode})" if mode else "")
    if networks := [name for word, name in NETWORKS.items() if word in words]:
        title += f", {networks[0]} features"
    elif base in INCEPTION:
        title += ", Inception features"
    title += " vs full precision" if "fp" in words else (" vs data" if "ref" in words else "")
    title += ", dB" if words[-1] == "db" else ""
    return f"{title} ({better})"


def columns_of(records: Sequence[RunRecord]) -> list[Column]:
    """The metrics of these records. Raises ValueError where two of them did not measure a metric alike."""
    first: dict[str, RunRecord] = {}
    for record in records:
        for key, score in record.scores.items() if record.drawn else ():
            reference = first.setdefault(key, record).scores[key]
            if score["fingerprint"] == reference["fingerprint"] and score["better"] == reference["better"]:
                continue
            differing = differing_fields(reference["protocol"], score["protocol"])
            raise ValueError(
                f"{key}: rows {first[key].label!r} (seed {first[key].seed}) and {record.label!r} (seed {record.seed}) "
                f"of {record.table!r} were not measured alike, so they cannot share a column. They differ in "
                f"{'; '.join(differing) or 'the fingerprint or direction, though not in a named field'}. "
                "Run both under one protocol (again, with force=true, if a metric has changed in between), or give one "
                "of them another table."
            )
    columns = [
        Column(key=key, better=score["better"], fingerprint=score["fingerprint"], protocol=score["protocol"])
        for key, score in ((key, record.scores[key]) for key, record in first.items())
    ]
    ranks = {base: rank for rank, base in enumerate(AGAINST_DATA_FIRST)}
    return sorted(
        columns,
        key=lambda c: (_by_whom(c.key), ranks.get(_parts(c.key)[0], len(ranks)), c.key, c.fingerprint),
    )


def _by_whom(key: str) -> int:
    """Against the data before against full precision; first by EfficientNet, whose eye is finer than our own."""
    return 2 if against_full_precision(key) else int("efficientnet" not in key.split("_"))


def differing_fields(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """In what two protocols differ, field by field: the first one's value against the second one's."""
    return [
        f"{field}: {theirs.get(field)!r} against {ours.get(field)!r}"
        for field in sorted({*ours, *theirs})
        if field not in ours or field not in theirs or ours[field] != theirs[field]
    ]


def judging(columns: Sequence[Column]) -> list[Column]:
    """The two metrics that say which row is better: a table's first one, and PSNR against full precision."""
    psnr = [column for column in columns[1:] if _parts(column.key)[0] == "psnr" and against_full_precision(column.key)]
    return [*columns[:1], *psnr[:1]]


def against_full_precision(key: str) -> bool:
    """Whether a metric compares images with those of the same seeds without cache and quantization."""
    return "fp" in key.split("_")


def canonical(protocol: Mapping[str, Any]) -> str:
    """A protocol on one line, its fields in order of name."""
    return ", ".join(f"{name}={json.dumps(protocol[name], sort_keys=True)}" for name in sorted(protocol))


def _parts(key: str) -> tuple[str, str]:
    """What is measured, and in which mode: ("fid", "clean") of fid_clean, ("psnr", "") of psnr_fp_db."""
    words = [word for word in key.split("_") if word not in ("db", "fp", "ref", *NETWORKS)]
    for length in range(len(words), 0, -1):
        if "_".join(words[:length]) in METRIC_WORDS:
            return "_".join(words[:length]), " ".join(words[length:])
    return "_".join(words), ""
