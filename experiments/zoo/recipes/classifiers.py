"""The three classifiers: feature network, judge, and the perceptual loss of the first stage.

They differ in seed and size and never share a role: what trains a generator does not score it, and
what defines the Frechet distance does not say whether the asked class was drawn.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cq.evaluate.classifier import Classifier
from experiments.zoo.data import fashion_mnist


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """Cross-entropy with label smoothing on shifted, mirrored images."""

    name: str
    width: int
    blocks: int
    stride: int
    seed: int
    num_steps: int
    root: Path
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 5e-2
    ema_decay: float = 0.999

    def model(self) -> nn.Module:
        model: nn.Module = Classifier(width=self.width, blocks=self.blocks, stride=self.stride)
        return model

    def data(self) -> tuple[Tensor, ...]:
        return fashion_mnist("train", self.root)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        images, labels = batch
        images = _augment(images, generator).contiguous(memory_format=torch.channels_last)
        return nn.functional.cross_entropy(model(images).logits_NK, labels, label_smoothing=0.05)

    @torch.no_grad()
    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, Classifier)
        images, labels = fashion_mnist("t10k", self.root)
        logits = torch.cat([model(to_unit(part)).logits_NK for part in torch.split(images, 500)])
        model.to(memory_format=torch.contiguous_format).half().save_pretrained(folder / self.name)
        return {"test_accuracy": (logits.argmax(1) == labels).double().mean().item()}


def to_unit(images_uint8: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1."""
    return images_uint8.float() / 127.5 - 1


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    shift = torch.randint(-2, 3, (2,), generator=generator)
    images = torch.roll(to_unit(images), (int(shift[0]), int(shift[1])), (2, 3))  # the border is black
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)
