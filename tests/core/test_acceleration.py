"""The Acceleration: what decides a number and what does not, what is refused, and what comes back from a folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cq.core.acceleration import NO_CORRECTION, NOISE, Acceleration, every_call
from cq.core.artifacts import CacheSchedule, ChannelAffine, QuantParams
from cq.predict.forecast import forecast_of
from cq.predict.last import Last
from cq.predict.taylor import Taylor

CALLS = 6
SCHEDULE = CacheSchedule(num_calls=CALLS, refresh_calls=(0, 2, 3), planner="test", interval=3)
CODES = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
ROW = {"kind": "conv", "split": 0, "weight_bits": 8, "act_bits": 8, "reason": ""}


def affine(name: str, value: float = 0.5) -> ChannelAffine:
    table = torch.full((CALLS, 2, 3), value)
    return ChannelAffine(schedule=SCHEDULE.identity, tables={name: table}, r2={name: torch.rand(CALLS, 3)})


def whole() -> Acceleration:
    """With every part."""
    reason = "excluded by quantize.exclude='b'"
    return Acceleration(
        schedule=replace(SCHEDULE, phases=((0, ("up.0", "up.1")), (4, ("up.1",)))),
        forecast=forecast_of(SCHEDULE, Taylor(order=1, differences="divided")),
        cache=ChannelAffine(schedule="", tables={"up.0": torch.rand(CALLS, 2, 3)}, r2={}),
        params=QuantParams(
            tensors={"a.weight0/scale": torch.rand(2), "a.weight0/codes": CODES}, bits={"a.weight0": 8},
            coverage=({"name": "a", **ROW}, {"name": "b", **ROW, "reason": reason, "weight_bits": 32, "act_bits": 32}),
        ),
        quant=ChannelAffine(schedule="", tables={"a": torch.rand(CALLS, 2, 3)}, r2={}),
        output=ChannelAffine(schedule="", tables={NOISE: torch.rand(CALLS, 2, 4)}, r2={}),
        made_from={"model": {"network": "UNet2DModel", "sites": ["up.0"]}, "sampler": {"timesteps": [9.0, 5.5]}},
    )  # fmt: skip


@pytest.mark.parametrize("made", [whole(), Acceleration(schedule=SCHEDULE), Acceleration(schedule=every_call(2))])
def test_it_comes_back_from_a_folder_bit_for_bit(made: Acceleration, tmp_path: Path) -> None:
    made.save(tmp_path / "new" / "folder")
    found = Acceleration.load(tmp_path / "new" / "folder")
    assert found.digest == made.digest
    assert found.identity == made.identity
    assert (found.schedule, found.forecast, found.made_from) == (made.schedule, made.forecast, made.made_from)
    assert found.params.coverage == made.params.coverage


def test_any_changed_byte_of_any_file_is_refused(tmp_path: Path) -> None:
    whole().save(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["README.md", "artifact.json", "tensors.safetensors"]
    for path in files:
        written = path.read_bytes()
        for position in range(0, len(written), max(1, len(written) // 60)):
            changed = bytearray(written)
            changed[position] ^= 1
            path.write_bytes(bytes(changed))
            with pytest.raises(ValueError, match=r"cannot be read|changed or damaged|is missing"):
                Acceleration.load(tmp_path)
        path.write_bytes(written)
    assert Acceleration.load(tmp_path).quantized


def test_half_a_folder_is_no_acceleration(tmp_path: Path) -> None:
    """The document comes last; what is written over is none until all of it is there."""
    whole().save(tmp_path)
    for name in ("artifact.json", "tensors.safetensors", "README.md"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(ValueError, match=r"cannot be read|changed or damaged|is missing"):
            Acceleration.load(tmp_path)
        (tmp_path / name).write_bytes(kept)


def test_labels_and_origin_decide_no_number() -> None:
    made = whole()
    same = replace(made, schedule=replace(made.schedule, planner="other", interval=None), made_from={})
    assert same.identity == made.identity
    assert same.digest != made.digest


CHANGES: dict[str, dict[str, Any]] = {
    "refreshes": {"schedule": replace(whole().schedule, refresh_calls=(0, 2, 5)), "forecast": ()},
    "phases": {"schedule": replace(whole().schedule, phases=((0, ("up.1",)),))},
    "forecast": {"forecast": ()},
    "cache": {"cache": NO_CORRECTION},
    "params": {"params": QuantParams(tensors={}, bits={"a.weight0": 4}, coverage=())},
    "quant": {"quant": NO_CORRECTION},
    "output": {"output": NO_CORRECTION},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_part_decides_its_identity(name: str) -> None:
    made = whole()
    assert replace(made, **CHANGES[name]).identity != made.identity


def test_where_nothing_is_reused_nothing_of_the_cache_counts() -> None:
    every = Acceleration(schedule=every_call(CALLS))
    phased = Acceleration(schedule=replace(every_call(CALLS), phases=((0, ("a",)),)), cache=affine_of_any("a"))
    assert not every.caches
    assert phased.identity == every.identity


def affine_of_any(name: str) -> ChannelAffine:
    return ChannelAffine(schedule="", tables={name: torch.rand(CALLS, 2, 3)}, r2={})


def test_plain_reuse_is_the_default_forecast() -> None:
    plain = Acceleration(schedule=SCHEDULE)
    assert plain.forecast == forecast_of(SCHEDULE, Last()) == ((), (1.0,), (), (), (1.0,), (1.0,))
    assert plain.reuses_as_is
    assert plain.depth == 1
    assert not whole().reuses_as_is
    assert whole().depth == 2


def test_what_does_not_belong_together_is_refused() -> None:
    other = CacheSchedule(num_calls=CALLS, refresh_calls=(0,), planner="test", interval=None)
    for part in ("cache", "quant", "output"):
        strange: dict[str, Any] = {part: affine("a")}
        with pytest.raises(ValueError, match=rf"{part}: was fitted for schedule .* Fit it again"):
            Acceleration(schedule=other, **strange)
        short: dict[str, Any] = {part: ChannelAffine(schedule="", tables={"a": torch.ones(CALLS - 1, 2, 3)}, r2={})}
        with pytest.raises(ValueError, match=rf"{part}: its tables are not for {CALLS} calls"):
            Acceleration(schedule=SCHEDULE, **short)
    with pytest.raises(ValueError, match="has 2 rows, and the schedule 6 calls"):
        Acceleration(schedule=SCHEDULE, forecast=((), (1.0,)))
    with pytest.raises(ValueError, match="weights at every reused call"):
        Acceleration(schedule=SCHEDULE, forecast=forecast_of(other, Last()))


def test_a_page_says_what_a_person_asks() -> None:
    page = whole().describe()
    assert "3 of 6 calls run the whole network" in page
    assert "#.##.." in page
    assert "| a | conv | W8A8 |  |" in page
    assert "| b | conv | full | excluded by quantize.exclude='b' |" in page
    assert "from call 4 on, reused at: `up.1`" in page
    for words in (
        "- cache, `up.0`: 3 channels, gains",
        "- quant, `a`",
        f"- output, `{NOISE}`",
        "- model, network: UNet2DModel",
    ):
        assert words in page
    assert "Every layer computes in full precision" in Acceleration(schedule=SCHEDULE).describe()
