"""The correction of the noise prediction: what it is fitted to, and what it does to a denoiser."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from cq.core.acceleration import NO_CORRECTION, NOISE
from cq.core.artifacts import ChannelAffine, QuantParams
from cq.core.contracts import Corrector
from cq.core.denoiser import Denoiser
from cq.core.moments import PairMoments
from cq.core.seeding import initial_noise
from cq.correct.channel_affine import ChannelAffineFit
from cq.correct.corrected import CorrectedDenoiser, corrected
from cq.correct.fit import residual_sum_of_squares
from cq.correct.none import NoCorrection
from cq.correct.offset_only import OffsetOnly
from cq.correct.ptqd import PTQD
from cq.correct.tables import fit_tables
from cq.quantize.output_moments import output_moments
from cq.run.ledger import execute
from tests.quantize.trajectories import CACHED, CALLS, TinyRuns
from tests.tiny_runs import composed, quick

CORRECTORS: list[Corrector] = [PTQD(), ChannelAffineFit(min_variance=1e-10), OffsetOnly()]


def moments_of(runs: TinyRuns, params: QuantParams) -> PairMoments:
    return output_moments(runs.model.denoiser, runs.twin(params), runs, num_calls=CALLS)


def fitted(corrector: Corrector, moments: PairMoments) -> ChannelAffine:
    return fit_tables(corrector, CACHED, lambda: {NOISE: moments}, biases={NOISE: None}, identity_at_full=False)


def test_moments_are_of_both_networks_on_the_full_precision_trajectory(runs: TinyRuns, params: QuantParams) -> None:
    found = moments_of(runs, params)
    plain, twin = runs.model.denoiser, runs.twin(params)
    rows: list[PairMoments] = [PairMoments.of(*[torch.zeros(1, 4, 1, 1)] * 2)] * CALLS
    for seeds in runs.seeds:
        before = [initial_noise(seeds, (4, 8, 8)), *(step.x_NCHW for step in runs.steps(plain, seeds))]
        cond = runs.model.condition(torch.tensor([seed % 10 for seed in seeds]))
        held: dict[str, Tensor] = {}
        for call, timestep in enumerate(runs.model.noise_scheduler(CALLS).timesteps):
            reuse = {} if call in CACHED.refresh_calls else held
            options: dict[str, Any] = {"call": call, "timestep": timestep, "cond": cond, "reuse": reuse}
            with torch.no_grad():
                exact, quantized = plain(before[call], **options), twin(before[call], **options)
            held = dict(exact.features) or held
            row = PairMoments.of(quantized.eps_NCHW, exact.eps_NCHW)
            rows[call] = row if seeds == runs.seeds[0] else rows[call] + row
    expected = PairMoments.stack(rows)
    for name in PairMoments.__dataclass_fields__:
        assert_close(getattr(found, name), getattr(expected, name), rtol=1e-12, atol=0)


def test_every_corrector_lowers_the_error_of_the_prediction_at_every_call(runs: TinyRuns, params: QuantParams) -> None:
    moments = moments_of(runs, params)
    ones, zeros = torch.ones(CALLS, 4), torch.zeros(CALLS, 4)
    before = residual_sum_of_squares(moments, ones, zeros).sum(1)
    assert (before > 0).all()
    for corrector in CORRECTORS:
        table = fitted(corrector, moments).tables[NOISE].double()
        after = residual_sum_of_squares(moments, table[:, 0], table[:, 1]).sum(1)
        assert (after < before).all(), corrector


def test_without_a_correction_the_denoiser_is_the_very_same(runs: TinyRuns, params: QuantParams) -> None:
    twin = runs.twin(params)
    nothing = fitted(NoCorrection(), moments_of(runs, params))
    assert nothing == NO_CORRECTION
    assert corrected(twin, nothing) is twin


def test_a_corrected_denoiser_corrects_the_guided_prediction_and_passes_maps_on(
    runs: TinyRuns, params: QuantParams
) -> None:
    twin = runs.twin(params)
    table = torch.randn(CALLS, 2, 4)
    wrapped = corrected(twin, ChannelAffine(schedule="", tables={NOISE: table}, r2={}))
    assert isinstance(wrapped, CorrectedDenoiser)
    assert isinstance(wrapped, Denoiser)
    assert wrapped.sites == twin.sites
    x, cond = torch.randn(2, 4, 8, 8), runs.model.condition(torch.tensor([3, 4]))
    for call in range(CALLS):
        options: dict[str, Any] = {"call": call, "timestep": torch.tensor(300), "cond": cond, "reuse": {}}
        with torch.no_grad():
            plain, mended = twin(x, **options), wrapped(x, **options)
        gain, offset = table[call][:, None, :, None, None]
        assert_close(mended.eps_NCHW, gain * plain.eps_NCHW + offset)
        assert all(torch.equal(mended.features[site], plain.features[site]) for site in twin.sites)


def test_gain_one_and_offset_zero_leave_the_prediction_as_it_is(runs: TinyRuns, params: QuantParams) -> None:
    twin = runs.twin(params)
    identity = torch.tensor([1.0, 0.0])[:, None].expand(CALLS, 2, 4).contiguous()
    wrapped = corrected(twin, ChannelAffine(schedule="", tables={NOISE: identity}, r2={}))
    steps = [list(runs.steps(denoiser, (0, 1))) for denoiser in (twin, wrapped)]
    assert all(torch.equal(a.x_NCHW, b.x_NCHW) for a, b in zip(*steps, strict=True))


def test_a_run_with_a_corrected_output_draws_other_images_and_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = quick(tiny_folder, tmp_path, "quantize=minmax", "quantize.num_samples=2", "quantize.batch_size=2")
    plain = execute(*composed(arguments))
    mended = execute(*composed([*arguments, "correct@correct.output=ptqd"]))
    assert (plain.choices["correct_output"], mended.choices["correct_output"]) == ("none", "ptqd")
    assert plain.artifacts["quant_params"] == mended.artifacts["quant_params"]
    assert plain.artifacts["output_correction"] != mended.artifacts["output_correction"]
    assert plain.images_digest != mended.images_digest


def test_full_precision_has_no_output_to_correct(tiny_folder: Path, tmp_path: Path) -> None:
    arguments = quick(tiny_folder, tmp_path, "schedule=uniform")
    plain, same = (execute(*composed([*arguments, *more])) for more in ([], ["correct@correct.output=ptqd"]))
    assert plain.images_digest == same.images_digest
    assert plain.artifacts["samples"] == same.artifacts["samples"]
