"""Laws of the wiring: all that decides a stage is in its key and nothing else, and calibration sees no evaluation."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import cq.calibrate.loops
import cq.core.denoise
import cq.core.seeding
import cq.engine.simulate
import cq.run.pipeline
import cq.run.stages.corrections
from cq.core.acceleration import NO_CORRECTION, Acceleration, every_call
from cq.core.artifacts import Artifact, CacheSchedule, ChannelAffine, QuantParams, SampleSet
from cq.core.denoise import Trajectory
from cq.core.processes import arithmetic
from cq.core.seeding import image_seeds
from cq.core.store import Store
from cq.correct.corrected import corrected
from cq.models.latent import LatentDiffusion
from cq.models.stable_diffusion import TextModel
from cq.quantize.twin import fake_quantized
from cq.run.components import Components
from cq.run.context import Run
from cq.run.identity import described
from cq.run.stages.accelerated import Accelerated
from cq.run.stages.samples import Samples
from cq.run.stages.statistics import Statistics
from cq.run.stages.timing import TimedRuns
from cq.sample.generate import Sample
from cq.sampler.ddim import DDIM
from cq.sampler.plms import PLMS
from tests.quantize.trajectories import PTQ_8
from tests.run.test_stale import text_run
from tests.tiny_runs import composed, quick

CHOSEN = (
    "schedule=dps", "cost=residual", "quantize=minmax", "correct@correct.cache=channel_affine",
    "correct@correct.quant=channel_affine", "correct@correct.output=ptqd", "budget.num_steps=50", "predict=taylor1",
    "latency.repeats=1",
)  # fmt: skip
ORIGIN = {"model", "sampler", "sample.num_steps", "run_seed", "dtype", "precision"}
DECIDES = {  # stage to the components that decide it themselves, and not through the artefact of a stage before
    "statistics": {*ORIGIN, "strategy", "calibrate"},
    "schedule": {*ORIGIN, "strategy", "calibrate", "planner", "cost"},
    "cache_correction": {*ORIGIN, "predictor", "calibrate", "correct_cache"},
    "quant_params": {*ORIGIN, "predictor", "quantizer"},
    "quant_correction": {*ORIGIN, "predictor", "correct_quant", "quantizer"},
    "output_correction": {*ORIGIN, "predictor", "correct_output", "quantizer"},
    "acceleration": {  # which tells how it was made
        *ORIGIN,
        "predictor",
        "strategy",
        "calibrate",
        "planner",
        "cost",
        "quantizer",
        "correct_cache",
        "correct_quant",
        "correct_output",
    },
    "samples": {*ORIGIN, "predictor", "sample", "engine"},
    "samples_full_precision": {*ORIGIN, "sample", "baseline_steps", "baseline_sampler", "compile"}
    - {"sampler", "sample.num_steps"},
    "timing": {*ORIGIN, "predictor", "latency", "baseline_steps", "baseline_sampler", "engine"},
}
READS: dict[str, set[str]] = {  # stage to the stages before whose artefacts it reads
    "statistics": set(),
    "schedule": set(),
    "cache_correction": {"schedule"},
    "quant_params": {"schedule", "cache_correction"},
    "quant_correction": {"schedule", "cache_correction", "quant_params"},
    "output_correction": {"schedule", "cache_correction", "quant_params", "quant_correction"},
    "samples_full_precision": set(),
}
PARTS = {"schedule", "cache_correction", "quant_params", "quant_correction", "output_correction"}
READS |= dict.fromkeys(("acceleration", "samples", "timing"), PARTS)  # of the whole
DECIDES_NOTHING = {"store", "logger", "metrics", "protocol", "max_memory", "offload"}  # of what a stage stores


class Keys(Store):
    """A store where every artefact is there already: an arbitrary one of its kind, of its stage's `variant`."""

    def __init__(self, root: Path, variants: Mapping[str, int]) -> None:
        super().__init__(root)
        self.variants = variants
        self.keys: dict[str, str] = {}

    def get(self, stage: str, key: Mapping[str, Any], kind: type[Any], make: Callable[[Path], Any]) -> Any:
        self.keys[stage] = json.dumps(key, sort_keys=True)
        variant = self.variants.get(stage, 0)
        table = {"a": torch.full((50, 2, 1), float(variant))}
        nothing = torch.zeros(0)
        made: dict[type[Artifact], Callable[[], Artifact]] = {
            CacheSchedule: lambda: CacheSchedule(
                num_calls=50,
                refresh_calls=(0, 10 + variant % 2, 20, 35),
                planner="p",
                interval=None,
                phases=((0, ("a" * (1 + variant // 2),)),),
            ),
            ChannelAffine: lambda: ChannelAffine(schedule="", tables=table, r2={}),
            QuantParams: lambda: QuantParams(tensors=table, bits={"a": 8}, coverage=()),
            SampleSet: lambda: SampleSet(
                seeds=(), images_NCHW=nothing, latents_NCHW=nothing, labels_N=nothing, trace_TNCHW=nothing
            ),
        }
        if kind is Acceleration:
            return make(self.root)
        return made[kind]() if kind in made else None


@pytest.fixture(scope="module")
def parts(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Components:
    return Components.of(composed(quick(tiny_folder, tmp_path_factory.mktemp("wiring"), *CHOSEN))[0])


def keys(parts: Components, **variants: int) -> dict[str, str]:
    """Stage to its key, as the pipeline asks for it; nothing is computed."""
    store = Keys(parts.store.root, variants)

    def outcome(this: Run, _: SampleSet, __: SampleSet, acceleration: Acceleration) -> None:
        Statistics(this).get(acceleration)
        TimedRuns(this).get(acceleration)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Accelerated, "make", lambda self, before, shards: before)  # would load the model
        patch.setattr(cq.run.pipeline, "_outcome", outcome)
        cq.run.pipeline.run(dataclasses.replace(parts, store=store))
    return store.keys


def another(value: Any) -> Iterator[Any]:
    """Values beside this one: of a component those that differ in one field, or another component."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            for other in another(getattr(value, field.name)):
                try:
                    yield dataclasses.replace(value, **{field.name: other})
                except ValueError:  # which the component refuses
                    continue
        yield Other(inner=value)
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield value + 1
    elif value is None:
        yield 7


@dataclasses.dataclass(frozen=True)
class Other:
    """Does as another component does, under its own name."""

    inner: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def changed(parts: Components, name: str) -> list[Components]:
    """The parts with one thing changed, in every way that a field of it can be."""
    if name == "sample.num_steps":
        return [dataclasses.replace(parts, sample=dataclasses.replace(parts.sample, num_steps=25))]
    if name == "dtype":
        return [dataclasses.replace(parts, dtype="bfloat16")]
    if name == "precision":
        return [dataclasses.replace(parts, precision="tf32")]
    others = [*another(getattr(parts, name))]
    if name == "sample":
        others = [each for each in others if type(each) is Sample and each.num_steps == parts.sample.num_steps]
    assert others, f"nothing is known to change {name} to"
    return [dataclasses.replace(parts, **{name: each}) for each in others]


def test_every_part_of_a_run_has_its_place_in_the_law() -> None:
    """A part that is new decides some stages, or none; whoever adds it says which."""
    told = {name.partition(".")[0] for names in DECIDES.values() for name in names} | DECIDES_NOTHING
    assert told == {field.name for field in dataclasses.fields(Components)}
    assert DECIDES.keys() == READS.keys()


NAMES = sorted({name for names in DECIDES.values() for name in names} | {"max_memory", "offload"})


@pytest.mark.parametrize("name", NAMES)
def test_a_part_is_in_the_keys_of_the_stages_that_it_decides_and_in_no_other(parts: Components, name: str) -> None:
    before = keys(parts)
    assert before.keys() == DECIDES.keys()
    expected = {stage for stage, names in DECIDES.items() if name in names}
    for other in changed(parts, name):
        after = keys(other)
        differing = {stage for stage in before if after[stage] != before[stage]}
        if isinstance(other.predictor, Other):  # a forecast is data: whoever makes the same one asks the same
            assert differing == {"acceleration"}
            continue
        assert differing == expected, getattr(other, name.partition(".")[0])


VARIANTS = [(stage, 1) for stage in READS if any(stage in read for read in READS.values())]


@pytest.mark.parametrize(("before", "variant"), [*VARIANTS, ("schedule", 2)])  # other refreshes, and other sites
def test_an_artefact_is_in_the_keys_of_the_stages_that_read_it_and_in_no_other(
    parts: Components, before: str, variant: int
) -> None:
    plain, other = keys(parts), keys(parts, **{before: variant})
    differing = {stage for stage in plain if plain[stage] != other[stage]}
    assert differing == {stage for stage, read in READS.items() if before in read}


def test_what_is_compiled_and_not_quantized_draws_under_another_key(tiny_folder: Path, tmp_path: Path) -> None:
    plain = Components.of(composed(quick(tiny_folder, tmp_path, "schedule=uniform", "quantize=none"))[0])
    store = Keys(tmp_path, {})
    names = []
    for compile in (False, True):
        this = Run(dataclasses.replace(plain, store=store, compile=compile))
        Samples(this).drawn(this.unaccelerated)()
        names.append(store.keys["samples"])
    assert names[0] != names[1]


@pytest.mark.parametrize("what", ["threads", "cpu", "device"])
def test_what_rounding_depends_on_is_in_every_key(
    parts: Components, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = keys(parts)
    found = arithmetic()
    monkeypatch.setattr("cq.run.context.arithmetic", lambda: {**found, what: "another"})
    after = keys(parts)
    assert all(after[stage] != before[stage] for stage in before)


def test_other_weights_and_other_code_are_in_every_key(
    parts: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(parts)
    for target, value in (
        ("cq.run.context.source_digest", lambda module: f"of {module}"),
        ("cq.models.latent.LatentDiffusion.weights_digest", lambda self: "other"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, value)
            after = keys(parts)
        assert all(after[stage] != before[stage] for stage in before)


def test_equal_refreshes_of_two_planners_share_what_follows(tiny_folder: Path, tmp_path: Path) -> None:
    """A planner's name and its interval are labels; who plans is in the key of the plan alone."""
    (tmp_path / "plan.json").write_text("[0, 2, 4, 6, 8]")
    found = []
    quantized = ("quantize=minmax", "correct@correct.quant=channel_affine", "correct@correct.cache=channel_affine")
    for planner in (("schedule=uniform",), ("schedule=from_file", f"schedule.path={tmp_path}/plan.json")):
        config, _ = composed(quick(tiny_folder, tmp_path, *planner, *quantized))
        parts = Components.of(config)
        store = parts.store
        cq.run.pipeline.run(parts)
        found.append(store)
    assert found[0].digests["schedule"] != found[1].digests["schedule"]
    for stage in ("cache_correction", "quant_params", "quant_correction", "samples"):
        assert len([path for path in (tmp_path / "store" / stage).iterdir() if path.is_dir()]) == 1, stage


@dataclasses.dataclass(frozen=True)
class Observed:
    """A whole run, quantized, cached, forecast and corrected everywhere.

    seen: stage to kind (noise, classes, prompts) to the seeds or texts that were drawn. loops: stage to (refreshes,
    correction, forecast) of its loops. twins: stage to (parameters, correction) of the networks it quantized.
    """

    parts: Components
    acceleration: Acceleration
    digests: dict[str, str]
    seen: dict[str, dict[str, set[Any]]]
    loops: dict[str, set[Any]]
    twins: dict[str, set[Any]]
    noise: list[tuple[str, str]]


@pytest.fixture(scope="module")
def observed(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Observed:
    chosen = (
        *CHOSEN, "budget.num_steps=10", "sample.labels=drawn", "quantize.num_samples=3", "quantize.batch_size=2",
        "calibrate.num_samples=3", "seed=5", "+sampler@baseline.sampler=plms", "latency.batch_size=1",
    )  # fmt: skip
    folder = tiny_folders["sd"]
    parts = Components.of(text_run(folder, folder, tmp_path_factory.mktemp("observed"), *chosen)[0])
    out = Observed(parts, Acceleration(schedule=every_call(1)), {}, {}, {}, {}, [])
    stages = [""]
    timed, noise, labels, encode = (
        Store.timed,
        cq.core.seeding.initial_noise,
        cq.core.seeding.drawn_labels,
        TextModel._encode,
    )
    loop, quantize, correct = Trajectory, fake_quantized, corrected

    @contextmanager
    def named(self: Store, stage: str) -> Iterator[None]:
        stages.append("" if stage == "load" else stage)  # the model is tried out, which decides no number
        with timed(self, stage):
            yield
        stages.pop()

    def met(kind: str, values: Any) -> None:
        out.seen.setdefault(stages[-1], {}).setdefault(kind, set()).update(values)

    def noisy(seeds: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
        met("noise", seeds)
        return noise(seeds, shape)

    def labelled(seeds: tuple[int, ...], classes: tuple[int, ...]) -> torch.Tensor:
        met("classes", seeds)
        return labels(seeds, classes)

    def encoded(self: TextModel, texts: list[str]) -> torch.Tensor:
        met("prompts", set(texts) - {""})
        return encode(self, texts)

    def looped(*args: Any, acceleration: Acceleration, **rest: Any) -> Any:
        run = (acceleration.schedule.refresh_calls, acceleration.cache.digest, acceleration.forecast)
        out.loops.setdefault(stages[-1], set()).add(run)
        return loop(*args, acceleration=acceleration, **rest)

    def quantized(denoiser: Any, params: QuantParams, correction: ChannelAffine = NO_CORRECTION, **options: Any) -> Any:
        out.twins.setdefault(stages[-1], set()).add((params.digest, correction.digest))
        return quantize(denoiser, params, correction, **options)

    def deployed(denoiser: Any, correction: ChannelAffine) -> Any:
        out.noise.append((stages[-1], correction.digest))
        return correct(denoiser, correction)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "timed", named)
        for module in (cq.core.seeding, cq.calibrate.loops):
            patch.setattr(module, "initial_noise", noisy)
        for module in (cq.core.denoise, cq.calibrate.loops):
            patch.setattr(module, "Trajectory", looped)
        patch.setattr(cq.core.seeding, "drawn_labels", labelled)
        patch.setattr(TextModel, "_encode", encoded)
        for where in (cq.engine.simulate, cq.run.stages.corrections):
            patch.setattr(where, "fake_quantized", quantized)
        patch.setattr(cq.engine.simulate, "corrected", deployed)
        outcome = cq.run.pipeline.run(parts)
    assert outcome is not None
    return dataclasses.replace(out, acceleration=outcome.acceleration, digests=dict(outcome.digests))


def test_calibration_sees_none_of_the_evaluations_noise_classes_or_prompts(observed: Observed) -> None:
    parts = observed.parts
    evaluation = {*image_seeds("evaluation", run_seed=5, count=parts.sample.num_images)}
    calibration = {*image_seeds("calibration", run_seed=5, count=100)}
    texts = {name: {*parts.model.read_prompts(name)} for name in ("evaluation", "calibration")}  # type: ignore[attr-defined]
    assert {*DRAWN, *PREPARED, "statistics", "cache_correction"} <= observed.seen.keys()
    for stage, kinds in observed.seen.items():
        if stage in DRAWN:
            assert kinds == {"noise": evaluation, "classes": evaluation, "prompts": kinds["prompts"]}, stage
            assert kinds["prompts"] <= texts["evaluation"]
        elif stage:  # of counting operations only the shape of a condition matters
            assert kinds.keys() <= {"noise", "prompts"}, stage
            assert kinds["noise"] <= calibration, stage
            assert kinds["prompts"] <= texts["calibration"], stage


DRAWN = ("samples", "samples_full_precision")
PREPARED = ("quant_params", "quant_correction", "output_correction")


def test_every_stage_runs_its_loops_on_what_the_stages_before_it_made(observed: Observed) -> None:
    """What is gathered before there is a cache sees full calls; the rest the schedule, forecast and correction."""
    refreshes, digests = observed.acceleration.schedule.refresh_calls, observed.digests
    assert 1 < len(refreshes) < observed.acceleration.num_calls
    assert digests["cache_correction"] != NO_CORRECTION.digest
    deployed = (refreshes, digests["cache_correction"], observed.acceleration.forecast)
    for stage in (*PREPARED, "samples"):
        assert observed.loops[stage] == {deployed}, stage
    for stage in ("statistics", "cache_correction", "samples_full_precision"):
        ((calls, correction, _),) = observed.loops[stage]
        baseline = stage == "samples_full_precision"
        sampler = observed.parts.baseline_sampler if baseline else observed.parts.sampler
        assert calls == tuple(range(sampler.num_calls(10))), stage
        assert correction == NO_CORRECTION.digest, stage


def test_the_twin_is_made_with_the_corrections_that_are_known_by_then(observed: Observed) -> None:
    digests = observed.digests
    assert len({digests["quant_correction"], digests["output_correction"], NO_CORRECTION.digest}) == 3
    plain = (digests["quant_params"], NO_CORRECTION.digest)
    corrected = (digests["quant_params"], digests["quant_correction"])
    assert observed.twins["quant_correction"] == {plain}
    assert observed.twins["output_correction"] == observed.twins["samples"] == {corrected}
    assert {*observed.noise} == {("samples", digests["output_correction"])}


def test_baseline_images_are_drawn_by_the_baselines_own_solver_and_steps(parts: Components) -> None:
    """And stand for the run's own only where these are the same."""
    assert parts.is_baseline
    for change in ({"baseline_steps": 20}, {"baseline_sampler": PLMS()}, {"sampler": PLMS()}):
        assert not dataclasses.replace(parts, **change).is_baseline
    assert parts.sampler == DDIM()


def test_every_slot_of_a_configuration_becomes_the_part_of_its_name(tiny_folder: Path, tmp_path: Path) -> None:
    """What is chosen in a slot is built for that slot; no two slots are exchanged."""
    chosen = (
        "correct@correct.cache=channel_affine", "correct@correct.quant=offset_only", "correct@correct.output=ptqd",
        "sampler=ddim", "+sampler@baseline.sampler=plms", "predict=taylor1", "schedule=dps", "cost=residual",
        "quantize=minmax", "baseline.num_steps=20", "seed=3",
    )  # fmt: skip
    config, _ = composed(quick(tiny_folder, tmp_path, *chosen))
    parts = Components.of(config)
    slots = {
        "correct_cache": config.correct.cache, "correct_quant": config.correct.quant, "cost": config.cost,
        "correct_output": config.correct.output, "sampler": config.sampler, "predictor": config.predict,
        "baseline_sampler": config.baseline.sampler, "planner": config.schedule, "quantizer": config.quantize,
        "strategy": config.cache, "model": config.model, "calibrate": config.calibrate, "sample": config.sample,
        "latency": config.latency,
    }  # fmt: skip
    for name, node in slots.items():
        assert described(getattr(parts, name))["class"] == node["_target_"], name
    assert (parts.run_seed, parts.baseline_steps, parts.sample.num_steps) == (3, 20, 10)


def test_the_twin_is_deployed_on_the_corrected_cached_trajectory(tiny: LatentDiffusion) -> None:
    """Lockstep loops follow the schedule and its correction where deployed, and refresh at every call where not."""
    model = dataclasses.replace(tiny.load(), sampler=DDIM())
    loops = cq.calibrate.loops.Loops(model=model, num_steps=10, run_seed=0)
    schedule = CacheSchedule(num_calls=10, refresh_calls=(0, 5), planner="p", interval=None)
    channels = 8
    table = torch.stack([torch.full((10, channels), 2.0), torch.ones(10, channels)], dim=1)
    correction = ChannelAffine(schedule=schedule.identity, tables={tiny.site: table}, r2={})
    met: list[tuple[int, dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []

    class Watched:
        sites = model.denoiser.sites

        def __call__(self, x_NCHW: torch.Tensor, *, call: int, reuse: Any, **rest: Any) -> Any:
            out = model.denoiser(x_NCHW, call=call, reuse=reuse, **rest)
            met.append((call, dict(reuse), dict(out.features)))
            return out

    lockstep = loops.lockstep(
        Acceleration(schedule=schedule, cache=correction), dataclasses.replace(PTQ_8, num_samples=1)
    )
    assert [*lockstep(Watched(), deployed=True)] == [*range(10)]
    held: dict[str, torch.Tensor] = {}
    for call, reuse, features in met:
        assert bool(features) == (call in (0, 5)) == (not reuse)
        if reuse:
            assert torch.equal(reuse[tiny.site], 2 * held[tiny.site] + 1)
        held = features or held
    met.clear()
    assert [*lockstep(Watched(), deployed=False)] == [*range(10)]
    assert all(features and not reuse for _, reuse, features in met)
