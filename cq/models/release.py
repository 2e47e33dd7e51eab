"""What was published of a model: what to get, which of its weights, and the noise they were trained with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PROVENANCE = "converted_from.json"  # in a folder that was made of an original checkpoint
TRAINED = ("beta_schedule", "beta_start", "beta_end")  # with other betas these are not the weights that are meant


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published model.

    source: what to download. gigabytes: how much that is. data: what it was trained on, None where that was not
    published. architecture: of an original checkpoint that `cq-convert` turns into a folder (a file in
    cq/models/architectures), else None. ema: whether the averaged weights of that checkpoint are taken; None where
    there is one set only.
    beta_schedule, beta_start, beta_end: as trained, checked against what is stored. steps_offset, set_alpha_to_one,
    clip_sample: how the paper samples, whatever is stored (diffusers' names).
    """

    source: str
    gigabytes: float
    data: str | None
    architecture: str | None
    ema: bool | None
    beta_schedule: Literal["linear", "scaled_linear"]
    beta_start: float
    beta_end: float
    steps_offset: int
    set_alpha_to_one: bool
    clip_sample: bool

    def __post_init__(self) -> None:
        if (self.architecture is None) != (self.ema is None):
            raise ValueError(
                f"release.ema={self.ema}: choose true or false for an original checkpoint (release.architecture is "
                "set), and null for a folder, which holds one set of weights."
            )

    @property
    def how_to_get_it(self) -> str:
        """What to download, how large it is and where to put it."""
        if self.architecture is None:
            put = "and give its folder with model.weights=FOLDER"
        else:
            put = (
                f"and convert it once: cq-convert {self.architecture} CHECKPOINT FOLDER; then give model.weights=FOLDER"
            )
        return f"Download {self.source} (about {self.gigabytes:g} GB) {put}."

    def check(self, stored: Mapping[str, Any]) -> None:
        """Raise ValueError where the stored noise schedule has other betas."""
        for key in TRAINED:
            expected, found = getattr(self, key), stored.get(key)
            if found != expected:
                raise ValueError(
                    f"model.release.{key}={expected!r}: the stored scheduler has {found!r}. Is it another model's "
                    "folder? Else set the key to what it was trained with."
                )

    def check_converted(self, folder: Path) -> None:
        """Raise ValueError where the folder was converted from the other set of a checkpoint's weights."""
        path = folder / PROVENANCE
        if self.ema is None or not path.is_file():
            return
        found = json.loads(path.read_text(encoding="utf-8"))["ema"]
        if found != self.ema:
            raise ValueError(
                f"model.release.ema={self.ema}: {path} says that the folder was converted with ema={found}. Convert "
                "the checkpoint again, into another folder, or set the key to what is meant."
            )

    def noise(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of a noise scheduler: the stored one, and on top how the paper samples."""
        sampled = {key: getattr(self, key) for key in ("steps_offset", "set_alpha_to_one", "clip_sample")}
        return {**stored, **sampled}
