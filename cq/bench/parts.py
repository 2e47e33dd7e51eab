"""Where the time of a call goes, by kind of operator: PyTorch's profiler, and modules that say what they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from cq.core.denoiser import Denoiser

KINDS = ("product", "quantize", "norm", "attention", "activation", "other")
MARK = "part:"
ENGINE = "engine"  # a module of ours: its operators are products, or what stands around them
PRODUCTS = ("qconv", "qlinear", "convolution", "addmm", "linear", "aten::mm", "aten::bmm", "aten::matmul")
BY_OPERATOR = {"silu": "activation", "gelu": "activation", "group_norm": "norm", "layer_norm": "norm"}
LAYERS = ("Conv2d", "Linear", "PackedConv2d", "PackedLinear")
ACTIVATIONS = ("SiLU", "GELU", "GEGLU", "ApproximateGELU", "FP32SiLU")


def shares(denoiser: Denoiser, call: Callable[[], object]) -> dict[str, float]:
    """Seconds of one call by kind; what the profiler itself costs is among them, so only their shares count."""
    with marked(backbone_of(denoiser)), profile(activities=[ProfilerActivity.CPU]) as measured:
        call()
    found = dict.fromkeys(KINDS, 0.0)
    for event in measured.events():
        found[kind_of(event.name, _module_of(event))] += event.self_cpu_time_total / 1e6
    return found


def kind_of(operator: str, module: str) -> str:
    """The kind of one operator. module: of the nearest module around it that says what it is, "" for none."""
    if operator.startswith(MARK):
        own = operator.removeprefix(MARK)
        return "quantize" if own == ENGINE else own
    product = any(name in operator for name in PRODUCTS)
    if module == ENGINE:
        return "product" if product else "quantize"
    if module:
        return module
    if product:
        return "product"
    return next((kind for name, kind in BY_OPERATOR.items() if name in operator), "other")


def kind_of_module(module: nn.Module) -> str:
    """What its own operators are; "" where they are named by themselves."""
    name = type(module).__name__
    if name in LAYERS:
        return "product"
    if type(module).__module__.startswith("cq."):
        return ENGINE
    if hasattr(module, "to_q") and hasattr(module, "processor"):
        return "attention"
    if name in ACTIVATIONS:
        return "activation"
    return "norm" if "Norm" in name else ""


def network_of(denoiser: Denoiser) -> Any:
    """The network with its cut points, whatever was put around its denoiser."""
    inner: Any = denoiser
    while not hasattr(inner, "network"):
        inner = inner.denoiser
    return inner.network


def backbone_of(denoiser: Denoiser) -> Any:
    """The diffusers module in it."""
    return network_of(denoiser).backbone


@contextmanager
def marked(network: nn.Module) -> Iterator[None]:
    """Within the block every module that is of a kind stands in the profile under its name."""
    open_: list[Any] = []
    handles = []

    def before(kind: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            open_.append(record_function(f"{MARK}{kind}"))
            open_[-1].__enter__()

        return enter

    def after(*_: Any) -> None:
        open_.pop().__exit__(None, None, None)

    for module in network.modules():
        if kind := kind_of_module(module):
            handles += [module.register_forward_pre_hook(before(kind)), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _module_of(event: Any) -> str:
    around = event.cpu_parent
    while around is not None and not around.name.startswith(MARK):
        around = around.cpu_parent
    return "" if around is None else str(around.name).removeprefix(MARK)
