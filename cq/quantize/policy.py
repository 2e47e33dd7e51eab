"""Which layers are quantized, at what width, split where: a table made from the network, as data."""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Any, Literal

from torch import nn

from cq.core.denoiser import CutNetwork

AttentionChoice = bool | Literal["bfloat16"]


@dataclass(frozen=True, kw_only=True)
class LayerPolicy:
    """How one layer is quantized.

    kind: conv, linear or attention. split: main-path channels of a concatenated input, or 0.
    reason: why the layer stays in full precision; empty where it is quantized.
    dtype: of the operands, where they are floating point numbers of fewer bits; empty for integers.
    weight_group: how many input channels share a weight scale at most; 0 where all of an output channel do.
    input_range: what its inputs' range is multiplied by, around zero. dynamic: whose values share a scale that is found
    as they come, a token's or an image's; empty where calibration fixes the scales.
    """

    name: str
    kind: str
    split: int
    weight_bits: int
    act_bits: int
    reason: str
    dtype: str = ""
    input_range: float = 1.0
    dynamic: str = ""
    weight_group: int = 0

    @property
    def quantized(self) -> bool:
        return not self.reason

    def row(self) -> dict[str, Any]:
        """The coverage report's row."""
        width = (self.weight_bits, self.act_bits) if self.quantized else (32, 32)
        return {
            "name": self.name, "kind": self.kind, "split": self.split,
            "weight_bits": width[0], "act_bits": width[1], "reason": self.reason,
            **({"dtype": self.dtype} if self.dtype else {}),
            **({"dynamic": self.dynamic} if self.dynamic else {}),
            **({"weight_group": self.weight_group} if self.weight_group else {}),
        }  # fmt: skip


def layer_policies(
    network: CutNetwork,
    *,
    weight_bits: int,
    act_bits: int,
    edge_bits: int,
    softmax_bits: int,
    split: bool,
    attention: AttentionChoice,
    exclude: tuple[str, ...],
) -> list[LayerPolicy]:
    """Every Conv2d and Linear, and both matrix products of every attention, in module order.

    First and last layer get `edge_bits`; softmax outputs `softmax_bits` (recorded as the attention's
    weight_bits, q, k and v as its act_bits), all 16 in bfloat16. Raises ValueError where an `exclude` pattern matches
    nothing, or, with attention in bfloat16, all that has parameters.
    """
    edges = network.edges()
    splits = network.splits() if split else {}
    policies = []
    unused = set(exclude)
    for name, module in network.backbone.named_modules():
        is_attention = _is_attention(module)
        if not isinstance(module, nn.Conv2d | nn.Linear) and not is_attention:
            continue
        matches = [pattern for pattern in exclude if fnmatch(name, pattern)]
        unused -= set(matches)
        reason = f"excluded by quantize.exclude={matches[0]!r}" if matches else ""
        if is_attention:
            if not attention:
                reason = "quantize.attention=false"
            dtype = attention if isinstance(attention, str) and not reason else ""
            widths = (16, 16) if dtype else (softmax_bits, act_bits)
            policies.append(
                LayerPolicy(
                    name=name, kind="attention", split=0, weight_bits=widths[0], act_bits=widths[1], reason=reason,
                    dtype=dtype,
                )
            )  # fmt: skip
        else:
            kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
            bits = (edge_bits, edge_bits) if name in edges else (weight_bits, act_bits)
            policies.append(
                LayerPolicy(
                    name=name,
                    kind=kind,
                    split=splits.get(name, 0),
                    weight_bits=bits[0],
                    act_bits=bits[1],
                    reason=reason,
                )
            )
    refuse_unused(unused, [policy.name for policy in policies])
    if any(policy.dtype for policy in policies):
        refuse_all(exclude, [policy.name for policy in policies if not policy.dtype])
    return policies


def refuse_all(exclude: Collection[str], names: Collection[str]) -> None:
    """Raise ValueError where the patterns of quantize.exclude match every one of `names`."""
    if exclude and all(any(fnmatch(name, pattern) for pattern in exclude) for name in names):
        raise ValueError(
            f"quantize.exclude={list(exclude)}: leaves no layer to quantize. For full precision use quantize=none."
        )


def refuse_unused(patterns: Collection[str], names: Collection[str], key: str = "exclude") -> None:
    """Raise ValueError where `patterns`, those of quantize.KEY that match none of `names`, is not empty."""
    if patterns:
        near = get_close_matches(min(patterns).strip("*"), sorted(names), n=1, cutoff=0.0)
        raise ValueError(
            f"quantize.{key}={sorted(patterns)}: no layer has such a name. Patterns match whole names, such as "
            f"{near[0] if near else 'conv_in'!r}; * stands for any text."
        )


def _is_attention(module: nn.Module) -> bool:
    return hasattr(module, "to_q") and hasattr(module, "processor")
