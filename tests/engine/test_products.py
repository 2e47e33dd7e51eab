"""Integer layers are exact under every instruction set, and say so where a torch cannot run them."""

import os
import subprocess
import sys

import pytest
import torch

from cq.engine import kernels
from cq.engine.kernels import Product, missing, to_codes
from cq.quantize.affine import quantize
from tests.engine import products

ISAS = ("AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")


def test_layers_are_exact_as_this_machine_multiplies() -> None:
    torch.manual_seed(0)
    assert len(list(products.errors(kernels.weight_bits()))) > 200


@pytest.mark.parametrize("isa", ISAS)
def test_layers_are_exact_under_an_instruction_set(isa: str) -> None:
    """The set is read once a process. A processor without it takes the best one that it has below."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.products"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[2]) > 200
    if isa in ("AVX2", "AVX512_CORE"):
        assert done.stdout.split()[1] == "7", "two products saturate 16 bits where no instruction adds four to 32"


@pytest.mark.parametrize("bits", [4, 7, 8])
@pytest.mark.parametrize("scale", [0.37, 0.5, 1e-3])
def test_codes_are_those_of_the_simulation(scale: float, bits: int) -> None:
    last = 2**bits - 1
    halves = (torch.arange(-600, 600) + 0.5) * scale
    far = torch.tensor([1e30, -1e30, torch.inf, -torch.inf, 3e7 * scale, -3e7 * scale, 0.0, -0.0])
    x = torch.cat([torch.randn(3001) * 50 * scale, halves, far])
    for zero_point in (0, 1, last // 2, last):
        codes = to_codes(x, scale, zero_point, bits, torch.contiguous_format)
        want = quantize(x, torch.tensor(scale), torch.tensor(zero_point), bits)
        assert codes.dtype == torch.uint8
        assert torch.equal(codes.int(), want)


@pytest.mark.parametrize("sides", [(6, 6, 9, 24), (24, 7, 30)], ids=["few places first", "many places first"])
def test_a_weight_is_held_once_a_size_of_image_and_once_for_few_places(sides: tuple[int, ...]) -> None:
    bits = kernels.weight_bits()
    codes = torch.randint(0, 2**bits, (8, 4, 3, 3))
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    product = Product(codes, torch.full((8,), 100), bits, options, exact_bits=bits)
    for count, side in enumerate(sides):
        held = len({each if 2 * each**2 > kernels.FEW_PLACES else 0 for each in sides[: count + 1]})
        x = torch.randint(0, 256, (2, 4, side, side), dtype=torch.uint8)
        out = product(x, 1.0, 128, torch.ones(8), None)
        want = torch.nn.functional.conv2d(x.double() - 128, codes.double() - 100, padding=1)
        assert torch.equal(out.double(), want)
        assert product.num_bytes == held * 9 * 4 * 9, "9 channels: the last is of ones, for zero points"


@pytest.mark.parametrize("learned_zero", [False, True], ids=["around zero", "zero points"])
@pytest.mark.parametrize("option", [("stride", (2, 1)), ("padding", (1, 0)), ("dilation", (1, 2))], ids=str)
def test_a_product_of_windows_is_the_convolution_bit_for_bit(
    option: tuple[str, tuple[int, int]], learned_zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = kernels.weight_bits()
    codes, zero_point = torch.randint(1, 2**bits, (6, 5, 3, 2)), 2 ** (bits - 1) - 9 * learned_zero
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1} | dict([option])
    product = Product(codes, torch.full((6,), zero_point), bits, options, exact_bits=bits)
    x = torch.randint(0, 256, (2, 5, 7, 9), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        scale_O, bias_O = torch.linspace(0.001, 0.1, 6), torch.linspace(-1, 1, 6)
        out = product(x, 0.3, 117, scale_O, bias_O)
        return out, product(x, 0.3, 117, scale_O, None, onto=out.clone())

    windows = both()
    monkeypatch.setattr(kernels, "FEW_PLACES", 0)
    assert all(map(torch.equal, windows, both()))
    assert windows[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", sorted(kernels.SIGNATURES))
def test_another_signature_is_said_in_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "SIGNATURES", {name: "weight something_new"})
    assert missing().startswith(f"onednn::{name} of this torch ({torch.__version__}) takes (")
    assert missing().endswith("and not (weight something_new)")
    monkeypatch.setattr(kernels, "SIGNATURES", {"qsomething": ""})
    assert missing() == f"this torch ({torch.__version__}) has no operator onednn::qsomething"


def test_a_torch_without_onednn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    assert "built without oneDNN" in missing()
