import json
import math

import pytest
import torch

from cq.core.artifacts import SampleSet
from cq.evaluate.protocol import EvaluationContext, Score


def score(value: float, **protocol: object) -> Score:
    return Score(value=value, low=None, high=None, better="down", protocol=protocol)


def test_fingerprint_depends_on_the_protocol_alone() -> None:
    assert score(1.0, guidance=3.0, eta=0.0).fingerprint == score(2.0, eta=0.0, guidance=3.0).fingerprint
    assert score(1.0, guidance=3.0).fingerprint != score(1.0, guidance=1.5).fingerprint


def test_scores_survive_json() -> None:
    document = json.loads(json.dumps(score(1.5, metric="x").as_json(), allow_nan=False))
    assert document["value"] == 1.5
    assert document["low"] is None
    assert document["fingerprint"] == score(1.5, metric="x").fingerprint


def test_a_record_keeps_six_digits_of_a_curve_and_all_of_a_value() -> None:
    third, curve = 1 / 3, (1 / 3, 2e-9 / 3, 123456.789, 0.0)
    told = Score(value=third, low=None, high=None, better="up", protocol={"metric": "x"}, curve=curve).as_json()
    assert told["curve"] == [0.333333, 6.66667e-10, 123457.0, 0.0]
    assert told["value"] == third


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"frechet_own.*not a finite number"):
        score(value, metric="frechet_own")


def test_sampling_may_not_overwrite_what_the_metric_states() -> None:
    empty = torch.zeros(2, 1, 4, 4)
    samples = SampleSet(
        seeds=(0, 1), images_NCHW=empty.byte(), latents_NCHW=empty, labels_N=torch.zeros(2), trace_TNCHW=empty[None]
    )
    context = EvaluationContext(samples=samples, baseline=None, sampling={"num_images": 5})
    with pytest.raises(ValueError, match="num_images"):
        context.protocol("x", {})
