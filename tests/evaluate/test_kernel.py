import pytest
import torch
from torch import Tensor

from cq.evaluate import kernel
from cq.evaluate.kernel import kernel_distance


def rows(count: int, seed: int, *, dim: int = 5) -> Tensor:
    return torch.randn(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 0.1 * seed


def ones(count: int) -> Tensor:
    return torch.ones(1, count, dtype=torch.float64)


def by_double_loop(x_NF: Tensor, y_MF: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return float(a @ b / len(a) + 1) ** 3

    n, m = len(x_NF), len(y_MF)
    xx = sum(k(x_NF[i], x_NF[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y_MF[i], y_MF[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(k(x, y) for x in x_NF for y in y_MF) / (n * m)
    return xx + yy - 2 * xy


@pytest.mark.parametrize("block", [3, 1000])
def test_distance_equals_a_double_loop_in_blocks_of_any_size(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "BLOCK", block)
    x_NF, y_MF = rows(11, 1), rows(8, 2)
    assert float(kernel_distance(ones(11), x_NF, y_MF)) == pytest.approx(by_double_loop(x_NF, y_MF), rel=1e-10)


def test_distance_equals_torchmetrics_for_sets_of_equal_size() -> None:
    from torchmetrics.image.kid import poly_mmd

    x_NF, y_MF = rows(40, 1), rows(40, 2)
    torch.testing.assert_close(kernel_distance(ones(40), x_NF, y_MF)[0], poly_mmd(y_MF, x_NF))


def test_mean_over_random_subsets_converges_to_the_distance() -> None:
    from torchmetrics.image.kid import poly_mmd

    x_NF, y_MF = rows(60, 1), rows(50, 4)
    generator = torch.Generator().manual_seed(0)
    subsets = torch.stack(
        [
            poly_mmd(
                y_MF[torch.randperm(50, generator=generator)[:20]], x_NF[torch.randperm(60, generator=generator)[:20]]
            )
            for _ in range(2000)
        ]
    )
    error = subsets.std() / 2000**0.5
    assert abs(float(kernel_distance(ones(60), x_NF, y_MF)) - float(subsets.mean())) < 4 * error


def test_resample_leaves_out_pairs_of_copies() -> None:
    x_NF, y_MF = rows(4, 1), rows(6, 2)
    counts_RN = torch.tensor([[2.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    copies = [0, 0, 2, 3]
    kernel_NN = (x_NF @ x_NF.T / 5 + 1) ** 3
    pairs = [(a, b) for a in copies for b in copies if a != b]
    within = sum(float(kernel_NN[a, b]) for a, b in pairs) / len(pairs)
    kernel_MM = (y_MF @ y_MF.T / 5 + 1) ** 3
    reference = float((kernel_MM.sum() - kernel_MM.diagonal().sum()) / 30)
    across = float(((x_NF[copies] @ y_MF.T / 5 + 1) ** 3).mean())
    expected = within + reference - 2 * across
    assert float(kernel_distance(counts_RN, x_NF, y_MF)) == pytest.approx(expected, rel=1e-12)


def test_distance_is_zero_on_average_for_one_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(300, 2, 30, 5, dtype=torch.float64, generator=generator)
    values = torch.cat([kernel_distance(ones(30), x_NF, y_MF) for x_NF, y_MF in draws])
    assert abs(float(values.mean())) < 3 * float(values.std()) / len(values) ** 0.5


def test_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="samples: 1 images"):
        kernel_distance(ones(1), rows(1, 1), rows(5, 2))
