"""Post-training quantization with several weight scales an output channel."""

from dataclasses import dataclass, replace
from typing import Annotated

from cq.core.denoiser import GuidedDenoiser
from cq.core.values import Within
from cq.quantize.edges import WideEdges
from cq.quantize.policy import LayerPolicy


@dataclass(frozen=True, kw_only=True)
class Grouped(WideEdges):
    """`WideEdges` whose inner layers have a scale and zero point for every few input channels of an output channel.

    weight_group: how many channels share them at most, in groups of one size, but for the last. Fewer make finer grids
    and more to store, which is counted. Usual for weights of language models (GPTQ, arXiv:2210.17323, has it as
    grouping). Integer kernels have one scale an output channel: engines compute such layers in float32 on their grids,
    just as they are simulated.
    """

    weight_group: Annotated[int, Within(1, 10**6, "32")]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_group < 1:
            raise ValueError(f"quantize.weight_group={self.weight_group}: must be at least 1; 32 is usual.")

    def _policies(self, denoiser: GuidedDenoiser) -> list[LayerPolicy]:
        edges = denoiser.network.edges()
        return [
            replace(policy, weight_group=self.weight_group)
            if policy.quantized and policy.kind != "attention" and policy.name not in edges else policy
            for policy in super()._policies(denoiser)
        ]  # fmt: skip
