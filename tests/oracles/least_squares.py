"""Per-channel least squares the slow way: one call of torch.linalg.lstsq per channel."""

import torch
from torch import Tensor


def lstsq_per_channel(source_NCX: Tensor, target_NCX: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset [C] with target ~= gain * source + offset, float64."""
    gains, offsets = [], []
    for c in range(source_NCX.shape[1]):
        x = source_NCX[:, c].double().flatten()
        y = target_NCX[:, c].double().flatten()
        design = torch.stack([x, torch.ones_like(x)], dim=1)
        gain, offset = torch.linalg.lstsq(design, y[:, None]).solution.flatten()
        gains.append(gain)
        offsets.append(offset)
    return torch.stack(gains), torch.stack(offsets)
