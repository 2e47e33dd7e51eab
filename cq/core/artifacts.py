"""The frozen things that travel between stages, and how each is written, read and named.

Tensors go to safetensors, everything else to JSON a person can read. Legend of shape suffixes:
T call of the denoiser in sampling order (0 is the noisiest), D distance in calls, C channel, N sample.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import Self

from cq.core.checksum import digest_of, file_digest
from cq.core.failures import writing
from cq.core.phases import Phases, sites_at
from cq.core.precision import at_least_float32

DOCUMENT, TENSORS, PAGE = "artifact.json", "tensors.safetensors", "README.md"


def digest_of_tensor(tensor: Tensor) -> str:
    """SHA-256 (hex) of dtype, shape and bytes."""
    head = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    flat = tensor.detach().cpu().flatten()  # a tensor without dimensions has no bytes to view
    return hashlib.sha256(head + flat.view(torch.uint8).numpy().tobytes()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A frozen record of tensors (fields of type Tensor or Mapping[str, Tensor]) and JSON values."""

    schema: ClassVar[int] = 1  # raised when the meaning of a field changes: old folders are then not found
    remedy: ClassVar[str] = "Delete {folder}; the stage is computed again on the next run."  # where one is refused
    beside: ClassVar[tuple[str, ...]] = (TENSORS, PAGE)  # files that the document has checksums of, where they are

    def save(self, folder: Path) -> None:
        """Write `tensors.safetensors` and `artifact.json`, which comes last and holds the checksums of the others."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors, _ = self._split()
        with writing(folder):
            for name in (DOCUMENT, *self.beside):  # what is written over is no artefact until all of it is there
                (folder / name).unlink(missing_ok=True)
            if tensors:
                save_file(tensors, folder / TENSORS)
            if page := self.describe():
                (folder / PAGE).write_text(page)
            (folder / DOCUMENT).write_text(self._document(folder))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote. Raises ValueError where a byte differs from that, or for another kind of artefact."""
        name, document, remedy = cls.__name__, folder / DOCUMENT, cls.remedy.format(folder=folder)
        if not document.is_file():
            raise ValueError(f"{folder}: holds no whole {name}, for {DOCUMENT} is missing. {remedy}")
        try:
            text = document.read_bytes().decode()
            values = json.loads(text)
            if (values["kind"], values["schema"]) != (name, cls.schema):
                found = f"{values['kind']} of schema {values['schema']}"
                raise ValueError(f"it is a {found}, not a {name} of schema {cls.schema}")
            path = folder / TENSORS
            artifact = cls._joined(load_file(path) if path.exists() else {}, values)
            intact = artifact._document(folder) == text
        except Exception as error:
            raise ValueError(f"{folder}: the stored {name} cannot be read ({error}). {remedy}") from error
        if not intact:
            raise ValueError(f"{folder}: the stored {name} was changed or damaged after it was written. {remedy}")
        return artifact

    def describe(self) -> str:
        """A page in Markdown for a person, kept beside the artefact; empty for those that nobody reads."""
        return ""

    @property
    def digest(self) -> str:
        """SHA-256 over every field; equal digests mean bit-identical content."""
        tensors, values = self._split()
        return digest_of({"values": values, "tensors": {k: digest_of_tensor(t) for k, t in sorted(tensors.items())}})

    def _document(self, folder: Path) -> str:
        """folder: where the other files are."""
        _, values = self._split()
        beside = {name: file_digest(folder / name) for name in self.beside if (folder / name).exists()}
        document = {
            "kind": type(self).__name__,
            "schema": self.schema,
            "digest": self.digest,
            "files": beside,
            **values,
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def _joined(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Self:
        """Undo `_split`: JSON has no tuples, and no empty mapping of tensors."""
        hints = get_type_hints(cls)
        found: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            own = {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
            kind = hints[name]
            if isinstance(kind, type) and issubclass(kind, Artifact):
                found[name] = kind._joined(own, values[name])
            else:
                found[name] = tensors.get(name, own or _tuples(values.get(name, {})))
        return cls(**found)

    def _split(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors: dict[str, Tensor] = {}
        values: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Artifact):
                inner, values[name] = value._split()
                tensors |= {f"{name}/{key}": tensor for key, tensor in inner.items()}
            elif isinstance(value, Tensor):
                tensors[name] = value.contiguous()
            elif isinstance(value, Mapping) and all(isinstance(v, Tensor) for v in value.values()):
                tensors |= {f"{name}/{key}": tensor.contiguous() for key, tensor in value.items()}
            else:
                values[name] = value
        return tensors, json.loads(json.dumps(values))


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class CacheSchedule(Artifact):
    """When the cached maps are refreshed: the calls at which the whole network runs; and which are reused when.

    refresh_calls: strictly increasing, the first is 0. All other calls reuse the maps of the last refreshes.
    planner: what made it, for labels. interval: the nominal cache interval, or None where none was used.
    phases: see `Phases`; empty where every site of the denoiser is reused at every other call. Planners leave it.
    """

    num_calls: int
    refresh_calls: tuple[int, ...]
    planner: str
    interval: int | None
    phases: Phases = ()

    def __post_init__(self) -> None:
        calls = self.refresh_calls
        if not calls or calls[0] != 0:
            raise ValueError(f"refresh_calls={list(calls)[:5]}: the first call must be a refresh; start with 0.")
        if any(b <= a for a, b in pairwise(calls)) or calls[-1] >= self.num_calls:
            raise ValueError(
                f"refresh_calls={list(calls)}: must be strictly increasing and below num_calls={self.num_calls}."
            )
        firsts = [first for first, _ in self.phases]
        if firsts and (firsts[0] != 0 or any(b <= a for a, b in pairwise(firsts))):
            raise ValueError(f"phases start at calls {firsts}: must start with 0 and be strictly increasing.")

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of what decides a number: the calls, the refreshes and the phases, and no label."""
        return digest_of([self.num_calls, self.refresh_calls, self.phases])

    def sites_at(self, call: int, *, default: tuple[str, ...]) -> tuple[str, ...]:
        """The sites that are reused at `call`; `default` where there are no phases."""
        return sites_at(self.phases, call) if self.phases else default

    @property
    def sources(self) -> tuple[int, ...]:
        """The last refresh at or before each call, [T]: where the reused map comes from."""
        out: list[int] = []
        refresh = set(self.refresh_calls)
        for call in range(self.num_calls):
            out.append(call if call in refresh else out[-1])
        return tuple(out)

    @property
    def longest_group(self) -> int:
        ends = (*self.refresh_calls[1:], self.num_calls)
        return max(b - a for a, b in zip(self.refresh_calls, ends, strict=True))


@dataclass(frozen=True, kw_only=True)
class TrajectoryStatistics(Artifact):
    """What one full-precision pass says of the cached maps X_t at every pair of calls (t - d, t).

    phases: which sites count at which call; distances sum over the sites of call t.
    l1_TD, squared_TD: float64 [T, D], sum over samples and elements of |X_t - X_{t-d}| and its square;
        column d is distance d, column 0 is zero, +inf where t - d < 0.
    size_T: float64 [T], sum of |X_t|.
    sum_TC, square_TC: by site, float64 [T, C], sums of X_t and X_t^2 over samples, height and width.
    cross_TDC: by site, float64 [T, D, C], sums of X_t * X_{t-d}; zero where t - d < 0.
    count: by site, elements behind each sum (samples times height times width).
    timesteps_T: int64 [T]. sigma_T: float64 [T], sqrt((1 - alpha_bar) / alpha_bar) at each call.
    """

    schema: ClassVar[int] = 2

    num_calls: int
    phases: Phases
    count: Mapping[str, int]
    l1_TD: Tensor
    squared_TD: Tensor
    size_T: Tensor
    sum_TC: Mapping[str, Tensor]
    square_TC: Mapping[str, Tensor]
    cross_TDC: Mapping[str, Tensor]
    timesteps_T: Tensor
    sigma_T: Tensor

    @property
    def window(self) -> int:
        """The largest distance between two calls for which statistics exist."""
        return self.l1_TD.shape[1] - 1

    def counts_at(self, site: str) -> Tensor:
        """bool [T]: the calls at which the site is one of those that count."""
        return torch.tensor([site in sites_at(self.phases, call) for call in range(self.num_calls)])


@dataclass(frozen=True, kw_only=True)
class ReuseSketches(Artifact):
    """What it does to the final latent that call t stands on the map of call t - d.

    sketch_TDK: float64 [T, D, K], the first-order moves of K projections of it, such that over any set of errors the
    squared sum of the K numbers, divided by `trajectories`, estimates the mean squared relative error of the latent.
    Column 0 is zero, as are pairs where t - d < 0.
    """

    trajectories: int
    sketch_TDK: Tensor


@dataclass(frozen=True, kw_only=True)
class ChannelAffine(Artifact):
    """gain * x + offset, per call and channel; identity at calls and channels where nothing is corrected.

    tables: name of a site or layer to float32 [T, 2, C] (gain, offset). Empty means no correction.
    schedule: identity of the schedule it was fitted for; empty where it fits any.
    r2: name to float32 [T, C], the share of variance the fit explains (diagnostics).
    """

    schedule: str
    tables: Mapping[str, Tensor]
    r2: Mapping[str, Tensor]

    def apply(self, x_NCHW: Tensor, *, name: str, call: int) -> Tensor:
        """Correct a map [N, C, ...], in float32 at least; returned as it is where no table names it."""
        if name not in self.tables:
            return x_NCHW
        wide_NCHW = at_least_float32(x_NCHW)
        gain_C, offset_C = self.tables[name][call].to(wide_NCHW)
        shape = (1, -1) + (1,) * (x_NCHW.ndim - 2)
        return torch.addcmul(offset_C.view(shape), wide_NCHW, gain_C.view(shape)).to(x_NCHW.dtype)


@dataclass(frozen=True, kw_only=True)
class QuantParams(Artifact):
    """Everything that turns a full-precision denoiser into its fake-quantized twin.

    tensors: "<quantizer>/<scale|zero_point>" to float32 / int32 tensors; activations [T] or [1], weights [C_out].
        "<quantizer>/codes" to the integers (uint8, above 8 bits int32) of a weight that is not rounded to nearest.
    bits: "<quantizer>" to its bit width.
    coverage: one row a layer: name, kind, split, weight_bits, act_bits, and the reason where it was not quantized.
        dtype where operands are floating point numbers of that type, which need no parameters.
        Where rounding was learned, or errors compensated, also its unit, and the unit's mean squared errors
        `error_nearest` and `error_learned`.
    """

    tensors: Mapping[str, Tensor]
    bits: Mapping[str, int]
    coverage: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class SampleSet(Artifact):
    """Images drawn from seeds, and the latents of the first few at every call.

    images_NCHW: uint8. latents_NCHW: float32, what was decoded. labels_N: int64 (-1 where unconditional).
    trace_TNCHW: float32 [T, n, ...], the state after each call for the first n images.
    """

    seeds: tuple[int, ...]
    images_NCHW: Tensor
    latents_NCHW: Tensor
    labels_N: Tensor
    trace_TNCHW: Tensor


@dataclass(frozen=True, kw_only=True)
class StateTrajectories(Artifact):
    """x_TNCHW: float32 [T, N, ...], the state after each call in full precision."""

    x_TNCHW: Tensor
