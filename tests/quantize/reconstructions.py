"""A reconstruction with every option written out, as short as can be: six units of the tiny latent diffusion U-Net."""

from dataclasses import replace

from cq.quantize.reconstruct import Reconstruct
from tests.quantize.trajectories import PTQ_8

UNITS = ["time_embedding", "conv_in", *(f"up_blocks.2.resnets.{i}" for i in range(3)), "conv_out"]
RECONSTRUCT = Reconstruct(
    base=replace(PTQ_8, weight_bits=3, exclude=("down*", "mid*", "up_blocks.[01]*")),
    units="block",
    targets="full",
    iterations=3,
    batch_rows=8,
    learning_rate=0.1,
    learned_scales="none",
    scale_learning_rate=0.001,
    regulariser=30.0,
    beta=(20.0, 2.0),
    warm_up=0.2,
    num_states=8,
    refresh_share=0.5,
    wait=None,
    seed=0,
)
