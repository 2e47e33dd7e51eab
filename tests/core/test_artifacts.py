"""Artefacts come back as they were written, or not at all."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cq.core.artifacts import (
    Artifact,
    CacheSchedule,
    ChannelAffine,
    QuantParams,
    SampleSet,
    TrajectoryStatistics,
    digest_of_tensor,
)
from cq.core.checksum import digest_of
from cq.laws.drift import drifting_maps, statistics_of


def schedule() -> CacheSchedule:
    return CacheSchedule(num_calls=6, refresh_calls=(0, 2, 3), planner="optimal", interval=None)


def affine() -> ChannelAffine:
    tables = {"up_blocks.2.resnets.2": torch.randn(6, 2, 3), "b": torch.randn(6, 2, 1)}
    return ChannelAffine(schedule=schedule().identity, tables=tables, r2={"b": torch.rand(6, 1)})


def quant_params() -> QuantParams:
    return QuantParams(
        tensors={"a/scale": torch.rand(3), "a/zero_point": torch.arange(3, dtype=torch.int32)},
        bits={"a": 8},
        coverage=({"name": "a", "kind": "conv", "split": 0, "weight_bits": 8, "act_bits": 8, "reason": ""},),
    )


def sample_set() -> SampleSet:
    return SampleSet(
        seeds=(3, 4),
        images_NCHW=torch.randint(256, (2, 1, 4, 4), dtype=torch.uint8),
        latents_NCHW=torch.randn(2, 4, 2, 2),
        labels_N=torch.tensor([7, -1]),
        trace_TNCHW=torch.zeros(3, 0, 4, 2, 2),  # no image was traced
    )


EXAMPLES: dict[str, Any] = {
    "schedule": schedule,
    "schedule of phases": lambda: dataclasses.replace(schedule(), phases=((0, ("a", "b")), (3, ("c",)))),
    "statistics": lambda: statistics_of(drifting_maps(4, seed=0), window=2),
    "correction": affine,
    "no correction": lambda: ChannelAffine(schedule="", tables={}, r2={}),
    "quantization": quant_params,
    "full precision": lambda: QuantParams(tensors={}, bits={}, coverage=()),
    "samples": sample_set,
}
every_kind = pytest.mark.parametrize("make", EXAMPLES.values(), ids=EXAMPLES)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict) and left and isinstance(next(iter(left.values())), Tensor):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    return type(left) is type(right) and bool(left == right)


@every_kind
def test_an_artefact_comes_back_as_it_was_written(make: Any, tmp_path: Path) -> None:
    artifact = make()
    artifact.save(tmp_path)
    loaded = type(artifact).load(tmp_path)
    for field in dataclasses.fields(artifact):
        assert same(getattr(loaded, field.name), getattr(artifact, field.name)), field.name
    assert loaded.digest == artifact.digest


@pytest.mark.parametrize("name", ["artifact.json", "tensors.safetensors"])
def test_any_byte_changed_in_either_file_is_refused_with_the_remedy(name: str, tmp_path: Path) -> None:
    quant_params().save(tmp_path)
    path = tmp_path / name
    written = path.read_bytes()
    for position in range(len(written)):
        changed = bytearray(written)
        changed[position] ^= 1 << position % 8
        path.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match=r"Delete .*; the stage is computed again on the next run"):
            QuantParams.load(tmp_path)
    path.write_bytes(written)
    assert QuantParams.load(tmp_path).bits == {"a": 8}


@pytest.mark.parametrize("name", ["artifact.json", "tensors.safetensors"])
@pytest.mark.parametrize("cut", [0, 10, None], ids=["empty", "cut short", "missing"])
def test_a_file_that_is_cut_short_or_missing_is_refused_with_the_remedy(
    name: str, cut: int | None, tmp_path: Path
) -> None:
    sample_set().save(tmp_path)
    if cut is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"Delete .*; the stage is computed again on the next run"):
        SampleSet.load(tmp_path)


def test_an_artefact_of_another_kind_is_refused(tmp_path: Path) -> None:
    ChannelAffine(schedule="", tables={}, r2={}).save(tmp_path)
    for kind in (CacheSchedule, QuantParams, TrajectoryStatistics):
        with pytest.raises(ValueError, match=f"the stored {kind.__name__}"):
            kind.load(tmp_path)


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, Tensor):
        changed = value.flatten().clone()
        changed[-1:] = 1 - changed[-1:]
        return changed.view(value.shape) if value.numel() else value.flatten(1)
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        if not value:  # the one tuple that may be empty: phases
            return ((0, ("site",)),)
        return (*value[:-1], value[-1] + 1) if isinstance(value[-1], int) else value[:-1]
    if isinstance(value, dict):
        key = next(iter(value))
        return {**value, key: other(value[key])}
    return 5 if value is None else value + 1


@pytest.mark.parametrize("name", ["schedule", "statistics", "correction", "quantization", "samples"])
def test_the_digest_changes_with_every_field(name: str) -> None:
    artifact: Artifact = EXAMPLES[name]()
    for field in dataclasses.fields(artifact):
        changed = dataclasses.replace(artifact, **{field.name: other(getattr(artifact, field.name))})
        assert changed.digest != artifact.digest, field.name


def test_the_digest_changes_with_the_name_of_a_table() -> None:
    table = torch.ones(2, 2, 1)
    digests = {ChannelAffine(schedule="", tables={name: table}, r2={}).digest for name in ("a", "b")}
    digests.add(ChannelAffine(schedule="", tables={}, r2={"a": table}).digest)
    assert len(digests) == 3


def test_equal_content_has_equal_digests_however_it_lies_in_memory() -> None:
    x = torch.randn(3, 4)
    assert digest_of_tensor(x.T.contiguous().T) == digest_of_tensor(x)
    assert digest_of({"b": 1, "a": [1.5, None]}) == digest_of({"a": (1.5, None), "b": 1})


def test_the_digest_of_a_tensor_sees_dtype_and_shape() -> None:
    x = torch.zeros(4)
    tensors = (x, x.view(2, 2), x.int(), x[:3], torch.tensor(0.0), torch.zeros(0), torch.zeros(2, 0))
    assert len({digest_of_tensor(tensor) for tensor in tensors}) == len(tensors)


@pytest.mark.parametrize("calls", [(), (1, 2), (0, 2, 2), (0, 3, 1), (0, 6)])
def test_an_impossible_schedule_is_refused(calls: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="refresh_calls="):
        CacheSchedule(num_calls=6, refresh_calls=calls, planner="test", interval=None)


def test_a_schedule_knows_where_each_call_reads_and_its_longest_group() -> None:
    assert schedule().sources == (0, 0, 2, 3, 3, 3)
    assert schedule().longest_group == 3


def test_a_correction_is_gain_times_map_plus_offset_of_its_call() -> None:
    tables = {"a": torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[2.0, 3.0], [1.0, -1.0]]])}
    correction = ChannelAffine(schedule="", tables=tables, r2={})
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(correction.apply(x, name="a", call=0), x)
    expected = torch.stack([2 * x[:, 0] + 1, 3 * x[:, 1] - 1], dim=1)
    torch.testing.assert_close(correction.apply(x, name="a", call=1), expected, rtol=1e-6, atol=1e-6)  # fused or not
    assert correction.apply(x, name="b", call=1) is x
    tokens = correction.apply(x.flatten(2), name="a", call=1)
    assert torch.equal(tokens, correction.apply(x, name="a", call=1).flatten(2))


def test_a_correction_keeps_the_memory_layout_of_the_map() -> None:
    """The layout decides which kernels run next, and with them the last bits."""
    correction = ChannelAffine(schedule="", tables={"a": torch.tensor([[[1.0] * 4, [0.0] * 4]])}, r2={})
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 4, 5, 5).contiguous(memory_format=layout)
        assert correction.apply(x, name="a", call=0).stride() == x.stride()


def test_every_artefact_of_the_package_is_as_it_was_written() -> None:
    from cq.evaluate.reference import ReferenceStatistics
    from cq.models.locate import WEIGHTS

    found = sorted(path.parent for path in WEIGHTS.rglob("artifact.json"))
    assert [folder.name for folder in found] == ["reference", "scene_reference"]
    assert [ReferenceStatistics.load(folder).count for folder in found] == [60_000, 12_000]
