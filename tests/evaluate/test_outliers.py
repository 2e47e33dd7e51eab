"""The median error and the count of outliers, against values given by hand."""

import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cq.core.artifacts import SampleSet
from cq.evaluate.outliers import Outliers
from cq.evaluate.protocol import EvaluationContext, Score
from cq.report.metrics import metric_title

Images = Callable[[int, int], Tensor]
Samples = Callable[[Tensor, Tensor], SampleSet]
ERRORS = (0.0, 0.125, 0.5, 0.25, 4.0, 0.0625)


@pytest.fixture
def scores(images: Images, samples: Samples) -> dict[str, Score]:
    theirs_NCHW = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours_NCHW = theirs_NCHW * (1 + torch.tensor(ERRORS))[:, None, None, None]
    pair = samples(images(6, 0), ours_NCHW), samples(images(6, 0), theirs_NCHW)
    context = EvaluationContext(samples=pair[0], baseline=pair[1], sampling={"steps": 10})
    return dict(Outliers(limit=0.3, resamples=200, bootstrap_seed=0).compute(context))


def test_the_median_image_and_the_images_above_the_limit(scores: dict[str, Score]) -> None:
    assert scores["latent_error_median_fp"].value == pytest.approx(statistics.median(ERRORS), rel=1e-5)
    assert scores["outliers_fp"].value == 2
    assert "above 0.3" in scores["outliers_fp"].protocol["definition"]
    for score in scores.values():
        assert score.low is not None
        assert score.high is not None
        assert 0 <= score.low < score.value < score.high


def test_they_have_titles_in_words() -> None:
    titles = [metric_title(key, "down") for key in Outliers.better]
    assert titles == [
        "latent error, relative (median) vs full precision (down)", "images far off vs full precision (down)",
    ]  # fmt: skip
