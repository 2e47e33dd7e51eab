"""Post-training quantization with room at the edges: where noise enters, and where the prediction leaves."""

from dataclasses import dataclass, replace
from typing import Annotated

from cq.core.denoiser import GuidedDenoiser
from cq.core.values import Within
from cq.quantize.policy import LayerPolicy
from cq.quantize.ptq import PTQ, check_bits


@dataclass(frozen=True, kw_only=True)
class WideEdges(PTQ):
    """`PTQ` whose first and last layer round finer, and clip only what lies far beyond what calibration saw.

    A small calibration set has not seen the extreme values of starting noise: one that is clipped in the first layer
    spoils the whole image. What the last layer rounds goes into the state as it is, where no later layer damps it.

    edge_input_bits, edge_input_range: of both layers' inputs, the range in units of the observer's, around zero; a
    dynamic one, which clips nothing, stays as it is.
    last_weight_bits: of the last layer; `edge_bits` is left for the weights of the first. Above 8 bits nothing is
    multiplied in integers: engines compute such a layer in float32 on its grids, just as it is simulated.
    """

    edge_input_bits: int
    edge_input_range: Annotated[float, Within(1, 100, "2")]
    last_weight_bits: int

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bits(self, "edge_input_bits", "last_weight_bits")

    def _policies(self, denoiser: GuidedDenoiser) -> list[LayerPolicy]:
        edges, last = denoiser.network.edges(), denoiser.network.units()[-1]
        return [
            replace(
                policy, act_bits=self.edge_input_bits, input_range=self.edge_input_range,
                weight_bits=self.last_weight_bits if policy.name == last else policy.weight_bits,
            )
            if policy.name in edges else policy
            for policy in super()._policies(denoiser)
        ]  # fmt: skip
