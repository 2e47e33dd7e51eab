import math

import pytest
import torch

from cq.evaluate.inception_score import inception_score


def test_score_equals_its_formula_image_by_image() -> None:
    logits_NK = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)) * 3
    probabilities = logits_NK.double().softmax(1)
    marginal = probabilities.mean(0)
    total = 0.0
    for row in probabilities:
        total += sum(float(p * (p.log() - m.log())) for p, m in zip(row, marginal, strict=True))
    assert float(inception_score(logits_NK, torch.ones(20))) == pytest.approx(math.exp(total / 20), rel=1e-12)


def test_sure_and_even_answers_score_the_number_of_classes() -> None:
    logits_NK = torch.eye(5).repeat(3, 1) * 1000  # log-probabilities of -1000 must not become nan
    assert float(inception_score(logits_NK, torch.ones(15))) == pytest.approx(5.0)


def test_one_answer_for_all_images_scores_one() -> None:
    assert float(inception_score(torch.tensor([[0.0, 2.0, 1.0]] * 6), torch.ones(6))) == pytest.approx(1.0)


def test_weights_count_copies() -> None:
    logits_NK = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    weighted = inception_score(logits_NK, torch.tensor([2.0, 0.0, 1.0, 1.0]))
    torch.testing.assert_close(weighted, inception_score(logits_NK[[0, 0, 2, 3]], torch.ones(4)))
