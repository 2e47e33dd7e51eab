"""Whether integers would pay on a card: the arithmetic of what is timed, and the sentence. On a card: test_gpu.py."""

import torch
from torch import nn

from cq.engine.card import Timed, columns, sentence, timed


def test_the_columns_times_the_weight_are_the_convolution() -> None:
    codes = torch.randint(-128, 128, (2, 16, 6, 4), dtype=torch.int8).contiguous(memory_format=torch.channels_last)
    weight = torch.randint(-64, 64, (8, 16, 3, 3), dtype=torch.int8)  # of 7 bits no instruction set saturates
    found = torch._int_mm(columns(codes), weight.permute(0, 2, 3, 1).reshape(8, -1).t())
    wanted = nn.functional.conv2d(codes.double(), weight.double(), padding=1)
    assert torch.equal(found.view(2, 6, 4, 8).permute(0, 3, 1, 2).double(), wanted)


def test_the_sentence_weighs_layers_by_their_time() -> None:
    rows = (
        Timed(name="a", bf16=1.0, product=2.0, whole=3.0),
        Timed(name="b", bf16=3.0, product=1.0, whole=3.0),
    )  # fmt: skip
    assert "on CARD int8 products take 0.75 of the time of bf16, and 1.50 with" in sentence(rows, "CARD")


def test_every_layer_is_timed_three_ways() -> None:
    rows = timed(torch.device("cpu"), smaller=16)
    assert len(rows) == 8
    assert all(min(row.bf16, row.product, row.whole) > 0 for row in rows)
