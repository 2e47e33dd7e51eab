"""Strategies: which sites when."""

import pytest

from cq.cache.cut import CutPoint
from cq.cache.delta_dit import DeltaDiT
from cq.cache.fora import FORA
from cq.core.phases import all_sites, sites_at
from cq.models.dit import DiTCut
from tests.tiny import tiny_transformer


def test_delta_dit_skips_rear_blocks_early_and_front_blocks_late() -> None:
    phases = DeltaDiT(skipped=4, boundary=0.4, keep=1).phases(default="", blocks=8, num_calls=50)
    assert phases == ((0, ("blocks.3-7",)), (20, ("blocks.1-5",)))
    assert sites_at(phases, 19) == ("blocks.3-7",)
    assert sites_at(phases, 20) == ("blocks.1-5",)
    assert all_sites(phases) == ("blocks.3-7", "blocks.1-5")


@pytest.mark.parametrize(("boundary", "site"), [(0.0, "blocks.0-2"), (1.0, "blocks.6-8")])
def test_a_boundary_at_an_end_leaves_one_phase(boundary: float, site: str) -> None:
    assert DeltaDiT(skipped=2, boundary=boundary, keep=0).phases(default="", blocks=8, num_calls=10) == ((0, (site,)),)


def test_fora_names_both_parts_of_every_block() -> None:
    ((first, sites),) = FORA().phases(default="", blocks=2, num_calls=10)
    assert (first, sites) == (0, ("blocks.0.attn", "blocks.0.mlp", "blocks.1.attn", "blocks.1.mlp"))


def test_the_cut_point_is_the_models_own() -> None:
    assert CutPoint().phases(default="blocks.1-7", blocks=8, num_calls=3) == ((0, ("blocks.1-7",)),)


def test_what_no_model_could_honour_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cache\.skipped=8: with cache\.keep=1 this needs 9 blocks"):
        DeltaDiT(skipped=8, boundary=0.5, keep=1).phases(default="", blocks=8, num_calls=10)
    with pytest.raises(ValueError, match=r"cache\.boundary=1\.5"):
        DeltaDiT(skipped=1, boundary=1.5, keep=1)
    network = DiTCut(tiny_transformer())
    with pytest.raises(ValueError, match="blocks 0 to 4"):
        network.check(("blocks.1-6",))
    with pytest.raises(ValueError, match="blocks 0 to 4"):
        network.check(("blocks.5.mlp",))
    with pytest.raises(ValueError, match="ranges of blocks"):
        network.check(("up_blocks.0.resnets.1",))


def test_the_readers_of_a_range_are_the_next_blocks_projections() -> None:
    network = DiTCut(tiny_transformer())
    assert network.readers(("blocks.1-4",)) == [f"transformer_blocks.4.attn1.to_{x}" for x in "qkv"]
    assert network.readers(("blocks.1-5",)) == ["proj_out_2"]
    assert network.readers(("blocks.2-2", "blocks.3.attn")) == []
