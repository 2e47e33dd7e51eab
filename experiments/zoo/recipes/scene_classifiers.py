"""The three networks that look at scenes: judge, feature network, and the perceptual loss of the first stage.

Like the classifiers of garments, they differ in seed and size and never share a role.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cq.evaluate.classifier import Classifier
from experiments.zoo.data import fashion_mnist
from experiments.zoo.recipes.classifiers import to_unit
from experiments.zoo.recipes.precision import mixed_precision
from experiments.zoo.scenes import ATTRIBUTES, Share, attributes, draw_scenes, scenes


@dataclass(frozen=True, kw_only=True)
class SceneClassifierRecipe:
    """Item, item colour, ground colour and position at once: a cross-entropy each, on scenes drawn anew every step."""

    name: str
    width: int
    blocks: int
    stride: int
    seed: int
    num_steps: int
    share: Share  # of the combinations: all for what judges, the trained ones for what helps to train
    root: Path
    bf16: bool = True
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 5e-2
    ema_decay: float = 0.999

    def model(self) -> nn.Module:
        model: nn.Module = Classifier(
            in_channels=3, width=self.width, blocks=self.blocks, stride=self.stride,
            num_classes=sum(ATTRIBUTES.values()),
        )  # fmt: skip
        return model

    def data(self) -> tuple[Tensor, ...]:
        return fashion_mnist("train", self.root)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        garments, labels = batch
        mirrored = torch.rand(len(garments), generator=generator) < 0.5
        garments = torch.where(mirrored[:, None, None, None], garments.flip(3), garments)
        drawn = draw_scenes(garments, labels, share=self.share, contrastive=False, generator=generator)
        images = to_unit(drawn.images_NCHW).contiguous(memory_format=torch.channels_last)
        with mixed_precision(self.bf16):
            logits = model(images).logits_NK
        total = torch.zeros(())
        for part, wanted in zip(by_attribute(logits.float()), attributes()[drawn.which_N].unbind(1), strict=True):
            total = total + nn.functional.cross_entropy(part, wanted, label_smoothing=0.05)
        return total

    @torch.no_grad()
    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, Classifier)
        shown = scenes("t10k", self.root, indices=range(10_000), seed=self.seed, share="held_out")
        right = agreement(model, shown.images_NCHW, shown.which_N).double().mean(0).tolist()
        model.to(memory_format=torch.contiguous_format).half().save_pretrained(folder / self.name)
        return {f"held_out_{name}_accuracy": share for name, share in zip(ATTRIBUTES, right, strict=True)}


def by_attribute(logits_NK: Tensor) -> tuple[Tensor, ...]:
    """The logits of item, item colour, ground colour and position."""
    return torch.split(logits_NK, list(ATTRIBUTES.values()), dim=1)


@torch.no_grad()
def agreement(network: Classifier, images_NCHW: Tensor, which_N: Tensor) -> Tensor:
    """bool [N, 4]: whether `network` finds the item, the colours and the position that were asked for."""
    logits = torch.cat([network(to_unit(part)).logits_NK for part in torch.split(images_NCHW, 500)])
    found = torch.stack([part.argmax(1) for part in by_attribute(logits)], 1)
    return found == attributes()[which_N]
