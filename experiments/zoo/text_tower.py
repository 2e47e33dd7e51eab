"""From the text tower of an open_clip model to transformers' `CLIPTextModel`, as Stable Diffusion takes it."""

import torch
from open_clip.model import CLIP
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel


def to_transformers(clip: CLIP, *, start: int, end: int) -> CLIPTextModel:
    """The same function of token ids: `last_hidden_state` is what open_clip pools and projects.

    clip: built with open_clip's default text tower (causal, GELU, pooled at the end token). start, end: ids of the
    two special tokens; `end` is the highest of the vocabulary, where open_clip looks for it.
    Equal but for rounding: open_clip computes query, key and value in one product, transformers in three.
    """
    blocks = clip.transformer.resblocks
    width = clip.token_embedding.embedding_dim
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=clip.vocab_size,
            hidden_size=width,
            intermediate_size=blocks[0].mlp.c_fc.out_features,
            projection_dim=clip.text_projection.shape[1],
            num_hidden_layers=len(blocks),
            num_attention_heads=blocks[0].attn.num_heads,
            max_position_embeddings=clip.context_length,
            hidden_act="gelu",
            layer_norm_eps=clip.ln_final.eps,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    weights = {
        "embeddings.token_embedding.weight": clip.token_embedding.weight,
        "embeddings.position_embedding.weight": clip.positional_embedding,
        "final_layer_norm.weight": clip.ln_final.weight,
        "final_layer_norm.bias": clip.ln_final.bias,
    }
    for i, block in enumerate(blocks):
        for name, tensor in _layer(block.state_dict()).items():
            weights[f"encoder.layers.{i}.{name}"] = tensor
    # before version 5 transformers kept the tower in an attribute of that name
    prefix = "text_model." if hasattr(model, "text_model") else ""
    position_ids = {name: kept for name, kept in model.state_dict().items() if name.endswith("position_ids")}
    model.load_state_dict({**{prefix + name: w.detach() for name, w in weights.items()}, **position_ids})
    return model.eval()


def _layer(block: dict[str, Tensor]) -> dict[str, Tensor]:
    """One block's weights under transformers' names."""
    names = {
        "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    found = {}
    for kind in ("weight", "bias"):
        for ours, theirs in names.items():
            found[f"{theirs}.{kind}"] = block[f"{ours}.{kind}"]
        for part, tensor in zip("qkv", torch.chunk(block[f"attn.in_proj_{kind}"], 3), strict=True):
            found[f"self_attn.{part}_proj.{kind}"] = tensor
    return found
