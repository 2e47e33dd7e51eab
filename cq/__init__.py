"""cq: joint caching and quantization of diffusion models."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cq.adapt.accelerate import accelerate
    from cq.adapt.acceleration import Acceleration, load, remove
    from cq.run.own import allow

__version__ = "0.1.0"
__all__ = ["Acceleration", "accelerate", "allow", "load", "remove"]
HOMES = {"accelerate": "adapt.accelerate", "allow": "run.own"}


def __getattr__(name: str) -> Any:
    """The Python API, imported when it is asked for: it brings torch, and a look at a configuration needs none."""
    if name not in __all__:
        raise AttributeError(f"module 'cq' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"cq.{HOMES.get(name, 'adapt.acceleration')}"), name)
