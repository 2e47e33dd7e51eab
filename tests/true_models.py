"""The published models at true size with random weights, as the folders that the adapters open."""

import gc
from pathlib import Path
from typing import Any

import torch

from cq.models.architecture import architecture, build_module
from tests.tiny import letter_tokenizer

ARCHITECTURES = {  # choice of conf/model to cq/models/architectures
    "ddpm_cifar10": "ddpm_cifar10", "ldm_bedroom256": "ldm_bedroom256", "ldm_church256": "ldm_church256",
    "ldm_imagenet256": "ldm_imagenet256", "sd_v1_4": "sd_v1", "dit_xl2_256": "dit_xl2_256",
}  # fmt: skip


def write_true(model: str, folder: Path) -> dict[str, int]:
    """Part to its number of parameters. Text models get a tokenizer of letters, for which any prompt will do."""
    sizes = {}
    for seed, (name, config) in enumerate(architecture(ARCHITECTURES[model]).items()):
        torch.manual_seed(seed)
        part: Any = build_module(config)
        part.save_pretrained(folder / name)
        if hasattr(part, "parameters"):
            sizes[name] = sum(p.numel() for p in part.parameters())
        del part
        gc.collect()
    if "text_encoder" in sizes:
        letter_tokenizer(folder, length=77).save_pretrained(folder / "tokenizer")
        (folder / "evaluation.txt").write_text("a cat\na dog\n")
        (folder / "calibration.txt").write_text("a cow\na pig\n")
    return sizes
