"""Shards: what was written comes back, or nothing does."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cq.core.shards import read, write

TENSORS = {
    "images": torch.arange(12, dtype=torch.uint8).reshape(3, 4),
    "latents": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
    "trace": torch.zeros(4, 0, 2),
}


def same(found: dict[str, Tensor] | None) -> bool:
    return (
        found is not None
        and found.keys() == TENSORS.keys()
        and all(torch.equal(found[n], t) and found[n].dtype == t.dtype for n, t in TENSORS.items())
    )


def test_what_was_written_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "a", TENSORS)
    assert same(read(tmp_path / "a"))
    write(tmp_path / "a", {"turned": TENSORS["latents"].T})  # a view in another memory order, over what was there
    found = read(tmp_path / "a")
    assert found is not None
    assert torch.equal(found["turned"], TENSORS["latents"].T)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert caplog.text == ""


def test_where_there_is_none_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read(tmp_path / "a") is None
    assert caplog.text == ""


def test_no_flipped_bit_anywhere_gives_other_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write(path, TENSORS)
    whole = path.read_bytes()
    refused = 0
    logging.disable()
    try:
        for position in range(len(whole)):
            content = bytearray(whole)
            content[position] ^= 1 << position % 8
            path.write_bytes(content)
            found = read(path)
            assert found is None or same(found)  # the padding of the header holds nothing
            refused += found is None
    finally:
        logging.disable(logging.NOTSET)
    assert refused > 0.9 * len(whole)


@pytest.mark.parametrize("size", [0, 5, 60, -1])
def test_a_shard_that_was_cut_off_is_not_used(size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a"
    write(path, TENSORS)
    path.write_bytes(path.read_bytes()[:size])
    assert read(path) is None
    assert f"{path}: this shard is damaged" in caplog.text


def test_a_shard_without_a_checksum_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those of an earlier version."""
    save_file(TENSORS, tmp_path / "a")
    assert read(tmp_path / "a") is None
    assert "checksum" in caplog.text
