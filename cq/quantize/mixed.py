"""Weights of several widths: which layers round to how many bits, by their names."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch

from cq.core.denoiser import GuidedDenoiser
from cq.quantize.affine import MAX_BITS, MIN_BITS
from cq.quantize.edges import WideEdges
from cq.quantize.policy import LayerPolicy, refuse_unused


@dataclass(frozen=True, kw_only=True)
class MixedWidths(WideEdges):
    """`WideEdges` with bits of their own for the weights of some layers; all others have `weight_bits`.

    widths: name pattern to bits; the first that fits a layer holds; None for none. The first and the last layer have
    keys of their own. `cq.quantize.widths` finds widths by measurement, experiments/widths runs them.
    """

    widths: Mapping[str, int] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for pattern, bits in self._widths.items():
            if not MIN_BITS <= bits <= MAX_BITS:
                raise ValueError(
                    f"quantize.widths[{pattern!r}]={bits}: must lie in {MIN_BITS}..{MAX_BITS}. 8 and 4 are usual."
                )

    @property
    def _widths(self) -> Mapping[str, int]:
        return self.widths or {}

    def check_layers(self, names: frozenset[str]) -> None:
        """Raise ValueError for a pattern of `exclude` or `widths` that no layer has."""
        super().check_layers(names)
        refuse_unused(
            [each for each in self._widths if not any(fnmatch(name, each) for name in names)], names, "widths"
        )

    def _policies(self, denoiser: GuidedDenoiser) -> list[LayerPolicy]:
        edges = denoiser.network.edges()
        return [
            replace(policy, weight_bits=self._bits(policy))
            if policy.kind != "attention" and policy.name not in edges else policy
            for policy in super()._policies(denoiser)
        ]  # fmt: skip

    def _bits(self, policy: LayerPolicy) -> int:
        found = (bits for pattern, bits in self._widths.items() if fnmatch(policy.name, pattern))
        return next(found, policy.weight_bits)
