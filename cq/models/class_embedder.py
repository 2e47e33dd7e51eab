"""Class labels as cross-attention context, with a null class for guidance (as LDM's ImageNet model)."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn


class ClassEmbedder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """labels int64 [N] in 0..num_classes to a context [N, 1, dim]; `num_classes` itself is the null class."""

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(self, num_classes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes + 1, dim)

    @property
    def null_class(self) -> int:
        return int(self.config.num_classes)

    def forward(self, labels_N: Tensor) -> Tensor:
        if labels_N.dtype != torch.int64:
            raise ValueError(f"class labels have dtype {labels_N.dtype}; they must be int64.")
        context_N1C: Tensor = self.embedding(labels_N)[:, None]
        return context_N1C
