"""cq: joint caching and quantization of diffusion models."""

__version__ = "0.1.0"
