"""Small CLIPs (arXiv:2103.00020), trained with open_clip on scenes and their captions.

Two of them that share nothing: the text tower of `clip_text` conditions sd_mini, and `clip_judge` scores what sd_mini
draws. Both are written as open_clip reads them, with `local-dir:FOLDER`.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.zoo.data import fashion_mnist
from experiments.zoo.recipes.classifiers import to_unit
from experiments.zoo.recipes.precision import mixed_precision
from experiments.zoo.scenes import Share, attributes, draw_scenes, scenes
from experiments.zoo.tokens import CONTEXT, caption_tokens, vocabulary, write_tokenizer

MAX_LOGIT_SCALE = math.log(100)  # as CLIP: the temperature never falls below 0.01


@dataclass(frozen=True, kw_only=True)
class ClipRecipe:
    """The symmetric contrastive loss over batches in which every caption stands once.

    Two scenes of one caption in a batch would be each other's negatives; no batch has them. `name` and `seed` keep
    the two models apart, as do their sizes.
    """

    root: Path
    name: str
    seed: int
    share: Share  # of the captions: the trained ones for what conditions a model, all for what judges it
    patch: int  # side in pixels
    image_width: int
    image_layers: int
    text_width: int
    text_layers: int
    num_steps: int
    embed_dim: int = 64
    bf16: bool = True
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 5e-2
    ema_decay: float = 0.999

    def settings(self) -> dict[str, Any]:
        """The keyword arguments of open_clip's `CLIP`, which are also the `model_cfg` of its configuration files."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": 32, "patch_size": self.patch, "width": self.image_width, "layers": self.image_layers,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": CONTEXT, "vocab_size": len(vocabulary()), "width": self.text_width,
                "heads": self.text_width // 32, "layers": self.text_layers,
            },
        }  # fmt: skip

    def model(self) -> nn.Module:
        model: nn.Module = CLIP(**self.settings())
        return model

    def data(self) -> tuple[Tensor, ...]:
        return fashion_mnist("train", self.root)

    def loss(self, model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        assert isinstance(model, CLIP)
        drawn = draw_scenes(*batch, share=self.share, contrastive=True, generator=generator)
        tokens = caption_tokens()[drawn.which_N]
        with mixed_precision(self.bf16):
            seen = model.encode_image(to_unit(drawn.images_NCHW))
            read = model.encode_text(tokens)
        seen, read = (nn.functional.normalize(part.float(), dim=1) for part in (seen, read))
        loss: Tensor = ClipLoss()(seen, read, model.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp())
        return loss

    @torch.no_grad()
    def export(self, model: nn.Module, folder: Path) -> dict[str, float]:
        assert isinstance(model, CLIP)
        figures = self.figures(model)
        home = folder / self.name
        write_tokenizer(home)
        config = {
            # the tokenizer is read from the folder itself, whatever name stands here, as long as one does
            "model_cfg": {**self.settings(), "text_cfg": {**self.settings()["text_cfg"], "hf_tokenizer_name": "."}},
            "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
        }
        (home / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
        weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, home / "open_clip_model.safetensors")
        return {"parameters": float(sum(p.numel() for p in model.parameters())), **figures}

    def figures(self, model: CLIP) -> dict[str, float]:
        """How often the nearest of all captions is right, and right in item or item colour, for test scenes."""
        model.eval()
        read = model.encode_text(caption_tokens(), normalize=True)
        found = {}
        shares: tuple[Share, ...] = ("trained", "held_out")
        for share in shares:
            shown = scenes("t10k", self.root, indices=range(2000), seed=self.seed, share=share)
            seen = [model.encode_image(to_unit(part), normalize=True) for part in torch.split(shown.images_NCHW, 500)]
            nearest = (torch.cat(seen) @ read.T).argmax(1)
            same = attributes()[nearest] == attributes()[shown.which_N]
            found[f"{share}_caption_accuracy"] = same.all(1).double().mean().item()
            found[f"{share}_item_accuracy"] = same[:, 0].double().mean().item()
            found[f"{share}_colour_accuracy"] = same[:, 1].double().mean().item()
        return found
