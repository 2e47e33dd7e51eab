"""torch.compile on the real code: one graph for full calls, one for cached ones, no break, the same bits (eager)."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch._dynamo.utils import counters

from cq.core.call import CallIndex
from cq.core.denoiser import GuidedDenoiser
from cq.engine.compiled import compiled
from cq.models.dit import DiTCut
from cq.models.unet import UNetCut
from tests.tiny import tiny_transformer


def small_unet() -> UNetCut:
    """Two levels of one ResNet: what is traced grows with the layers."""
    torch.manual_seed(1)
    return UNetCut(
        UNet2DModel(
            sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 8), layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4, add_attention=False,
        ).eval()
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "site", "cond"),
    [
        (small_unet, "up_blocks.1.resnets.1", None),
        (lambda: DiTCut(tiny_transformer(blocks=2)), "blocks.1-2", torch.tensor([1, 2])),
    ],
    ids=["unet", "dit"],
)
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_full_and_cached_calls_are_two_graphs_without_a_break(network: Any, site: str, cond: Any) -> None:
    torch._dynamo.reset()
    counters.clear()
    plain = GuidedDenoiser(network=network(), sites=(site,), guidance=None, null_first=True, call_index=CallIndex())
    fast = compiled(plain, backend="eager")
    with torch.no_grad():
        for call, timestep in enumerate((900, 500, 100)):
            options: dict[str, Any] = {"call": call, "timestep": torch.tensor(timestep), "cond": cond}
            x_NCHW = torch.randn(2, 4, 8, 8)
            ours = fast(x_NCHW, reuse={}, **options)
            theirs = plain(x_NCHW, reuse={}, **options)
            assert torch.equal(ours.eps_NCHW, theirs.eps_NCHW)
            assert torch.equal(ours.features[site], theirs.features[site])
            assert torch.equal(fast(x_NCHW, reuse=ours.features, **options).eps_NCHW, theirs.eps_NCHW)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
