"""The figures of a run's page: its schedule, error by call, corrections, layers, and images."""

import math
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from cq.report.looks import PALETTE, new_figure
from cq.run.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from cq.core.artifacts import ChannelAffine
    from cq.evaluate.diagnosis import Diagnosis

CALL = "call of the denoiser (0 is the noisiest)"
ERROR = "relative error of the latents"
GRID = "#E5E5E5"
LAYERS = 16  # that are drawn
GAP = 2  # pixels between images
MAGNIFIED = 96  # pixels to which small images are enlarged, at least
PERCENT = 100.0


def schedule_figure(record: RunRecord) -> "Figure":
    """A bar a call: tall where the whole network runs, low where maps are reused."""
    calls, refreshes = record.schedule["num_calls"], set(record.schedule["refresh_calls"])
    figure = new_figure(9.0, 1.5)
    axes = figure.subplots()
    whole = [call for call in range(calls) if call in refreshes]
    reused = [call for call in range(calls) if call not in refreshes]
    width = 0.8 if calls <= 120 else 1.0
    axes.bar(whole, 1.0, width, color=PALETTE[1], label=f"whole network ({len(whole)})")
    axes.bar(reused, 0.35, width, color=PALETTE[5], label=f"reuses a map ({len(reused)})")
    axes.set_xlim(-1, calls)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(CALL)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False)
    return figure


def error_figure(record: RunRecord, curve: Sequence[float], errors_TN: "Tensor | None") -> "Figure":
    """Error after each call; cached calls are shaded. errors_TN: of single images, a thin line each."""
    figure = new_figure(9.0, 3.6)
    axes = figure.subplots()
    refreshes, calls = list(record.schedule["refresh_calls"]), len(curve)
    for start, end in zip(refreshes, [*refreshes[1:], calls], strict=True):
        if end - start > 1:
            axes.axvspan(start + 0.5, end - 0.5, color=PALETTE[5], alpha=0.13, linewidth=0)
    if errors_TN is not None and len(errors_TN) == calls:
        for place, errors_T in enumerate(errors_TN.T.tolist()):
            label = f"{errors_TN.shape[1]} images" if place == 0 else None
            axes.plot(*_positive(errors_T), color="#888888", linewidth=0.6, alpha=0.6, label=label)
    axes.plot(*_positive(curve), color=PALETTE[1], linewidth=2.0, label="mean")
    axes.set_yscale("log")
    axes.set_xlim(-1, calls)
    axes.set_xlabel(f"{CALL}; shaded: a map is reused")
    axes.set_ylabel(ERROR)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.legend(loc="lower right", frameon=False)
    return figure


def _positive(curve: Sequence[float]) -> tuple[list[int], list[float]]:
    """Calls and values: a logarithmic axis has no place for an error of exactly zero."""
    calls = [call for call, value in enumerate(curve) if value > 0 and math.isfinite(value)]
    return calls, [curve[call] for call in calls]


def correction_figure(correction: "ChannelAffine", name: str) -> "Figure":
    """Gain and offset of one table by call and channel; white is no correction."""
    from matplotlib.colors import CenteredNorm, TwoSlopeNorm

    table_T2C = correction.tables[name].float()
    figure = new_figure(9.0, 3.0)
    parts: Any = figure.subplots(1, 2, sharey=True)
    for axes, values_TC, title in zip(parts, table_T2C.unbind(1), ("gain", "offset"), strict=True):
        low, high = float(values_TC.nan_to_num(1.0).min()), float(values_TC.nan_to_num(1.0).max())
        norm: Any = CenteredNorm(0.0)
        if title == "gain":
            norm = TwoSlopeNorm(1.0, min(low, 0.99), max(high, 1.01))
        options: Any = {"aspect": "auto", "cmap": "RdBu_r", "interpolation": "nearest", "origin": "lower"}
        image = axes.imshow(values_TC.T.numpy(), norm=norm, **options)
        figure.colorbar(image, ax=axes, pad=0.02)
        axes.set_title(title)
        axes.set_xlabel("call")
    parts[0].set_ylabel("channel")
    return figure


def layer_figure(diagnosis: "Diagnosis") -> "Figure":
    """The layers with the largest share of error, and the relative error of every layer in the network's order."""
    share_L, error_L = diagnosis.share_L, diagnosis.relative_error_L
    order = share_L.argsort(descending=True)[:LAYERS].tolist()
    figure = new_figure(9.0, 2.6 + 0.2 * len(order))
    parts: Any = figure.subplots(2, 1, height_ratios=(0.2 * len(order) + 0.4, 2.0))
    upper, lower = parts
    upper.barh(range(len(order)), [PERCENT * float(share_L[place]) for place in order], color=PALETTE[1])
    upper.set_yticks(range(len(order)), [diagnosis.layers[place] for place in order])
    upper.set_ylim(len(order) - 0.4, -0.6)
    upper.tick_params(axis="y", length=0)
    upper.set_xlabel("share of all layers' relative squared error, %")
    places = list(range(len(error_L)))
    lower.bar(places, [PERCENT * float(value) for value in error_L], 0.8, color="#999999")
    lower.bar(order, [PERCENT * float(error_L[place]) for place in order], 0.8, color=PALETTE[1])
    lower.set_xlim(-1, len(places))
    lower.set_xlabel("layer, from the network's first to its last")
    lower.set_ylabel("relative error, %")
    return figure


def image_grid(ours_NCHW: "Tensor", theirs_NCHW: "Tensor") -> tuple[bytes, int]:
    """A PNG of full precision, the run and their difference, one row each and one seed a column; and the amplification.

    Differences are around mid-grey, times the power of two at which the largest still fits.
    """
    import torch

    difference = ours_NCHW.int() - theirs_NCHW.int()
    largest = int(difference.abs().max())
    factor = 2 ** int(math.log2(127 / largest)) if 0 < largest <= 127 else 1
    shown = (difference * factor + 128).clamp(0, 255).to(torch.uint8)
    zoom = max(1, -(-MAGNIFIED // ours_NCHW.shape[-1]))
    rows = [_row(images, zoom) for images in (theirs_NCHW, ours_NCHW, shown)]
    gap = torch.full((rows[0].shape[0], GAP, rows[0].shape[2]), 255, dtype=torch.uint8)
    return _png(torch.cat([rows[0], gap, rows[1], gap, rows[2]], 1)), factor


def _row(images_NCHW: "Tensor", zoom: int) -> "Tensor":
    """Side by side, [C, H, W]."""
    import torch

    large = images_NCHW.repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    gap = torch.full((*large.shape[1:3], GAP), 255, dtype=torch.uint8)
    parts = [part for image in large for part in (image, gap)]
    return torch.cat(parts[:-1], 2)


def _png(image_CHW: "Tensor") -> bytes:
    from PIL import Image

    array = image_CHW[0].numpy() if image_CHW.shape[0] == 1 else image_CHW.permute(1, 2, 0).numpy()
    with BytesIO() as buffer:
        Image.fromarray(array).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()
