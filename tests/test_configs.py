"""Every yaml composes and builds; each lists exactly the fields of its class, so each can be overridden."""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from cq.laws.choices import component_node, components, names, nodes
from cq.run.components import Components
from cq.run.config import CONF, Paths, RunConfig
from cq.run.tables import experiments, read_table
from tests.families import WRITERS, component
from tests.tiny_runs import composed

GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
SLOTS = {  # groups used under other names
    "bench": (),  # of `cq bench`: tests/bench
    "correct": ("correct@correct.cache", "correct@correct.quant", "correct@correct.output"), "metric": (),
    "hydra": (),  # tests/test_launchers.py
    "protocol": (),  # wants models of its own: tests/evaluate/test_paper_protocol.py
    "search": (),  # tests/search
    "table": (),  # the group `experiment`, below
}  # fmt: skip
COMPONENTS = components()
TINY = {family: component(family, Path()) for family in WRITERS}
FOR_THE_OUTPUT = tuple(f"correct@correct.{slot}=closed_loop" for slot in ("cache", "quant"))  # made for the last slot
TRANSFORMERS = ("cache=delta_dit", "cache=fora")  # what a U-Net cannot be built with
DEFAULTS_ALLOWED = {"cq.quantize.none.FullPrecision"}  # has no number of its own; the pipeline asks it for two


def slots() -> list[tuple[str, str]]:
    return [(slot, group) for group in GROUPS for slot in SLOTS.get(group, (group,))]


def choices() -> list[str]:
    found = [f"{slot}={name}" for slot, group in slots() for name in names(group)]
    return [choice for choice in found if choice not in FOR_THE_OUTPUT]


def row_node(experiment: str) -> Mapping[str, Any]:
    """What a table says of a row; composing the whole configuration for that takes far longer."""
    table, _, row = experiment.partition("/")
    return read_table(table).rows[row]


def family_of(model: str) -> str:
    """The family whose component the yaml names; of two of one class the one without guidance if it has none."""
    node = component_node("model", model)
    return next(
        family
        for family, tiny in TINY.items()
        if node._target_ == f"{type(tiny).__module__}.{type(tiny).__qualname__}"
        and (tiny.guidance is None) == (node.get("guidance") is None)
    )


def grey(model: str) -> bool:
    """Whether the tiny model in its place draws in grey."""
    return TINY[family_of(model)].image_shape[0] == 1


def tiny_weights(model: str, folders: dict[str, Path]) -> list[str]:
    """Overrides that put a tiny model of its family in the place of a zoo model, cut where the tiny one can be."""
    family = family_of(model)
    tiny, node = component(family, folders[family]), component_node("model", model)
    fields = ["weights", "site", "image_shape", "prompts"]
    if not node.weights.startswith("zoo:"):  # a published one: with nothing that is checked against it
        fields += ["latent_shape", "num_classes", "release"]
    values = {field: getattr(tiny, field) for field in fields if field in node}
    written = {field: str(list(value)) if isinstance(value, tuple) else value for field, value in values.items()}
    return [f"model.{field}={'null' if value is None else value}" for field, value in written.items()]


@pytest.fixture
def root(tmp_path: Path) -> list[str]:
    """Every folder under one that may be written."""
    (tmp_path / "schedule.json").write_text('{"num_calls": 50, "refresh_calls": [0, 20]}')
    return [f"paths.{field.name}={tmp_path}/{field.name}" for field in dataclasses.fields(Paths)]


@pytest.mark.usefixtures("judges_at_hand")
@pytest.mark.parametrize("choice", choices())
def test_every_choice_composes_and_builds(
    choice: str, root: list[str], tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Beside the defaults of the root, and with the steps that `centred_power` was made for; and lists its fields."""
    arguments = [*root, "budget.num_steps=50", "budget.cache_interval=5"]
    group, _, name = choice.partition("=")
    model = name if group == "model" else "dit_mini" if choice in TRANSFORMERS else "ldm_mini"
    arguments += [f"model={model}", *([] if group == "model" else [choice]), *tiny_weights(model, tiny_folders)]
    if choice in ("sample=smoke", "sample=images64", "sample=images100"):
        arguments.append("evaluate=paired")  # too few images for the default
    if choice in ("evaluate=adm", "evaluate=adm_text", "evaluate=inception"):
        arguments.append("sample.num_images=2049")  # what their Frechet distances need
    if group == "model" and not grey(model):
        arguments.append("evaluate=fidelity")  # these tiny models draw in colour
    if choice == "schedule=from_file":
        arguments.append(f"schedule.path={tmp_path}/schedule.json")
    config, found = composed(arguments)
    assert found[group] == name
    Components.of(config)
    if (group.partition("@")[0], name) in COMPONENTS:
        check_fields(OmegaConf.to_container(OmegaConf.select(config, group.partition("@")[2] or group)))


def check_fields(document: Any) -> None:
    """That a choice, with what it inherits, lists every field of its class and nothing else."""
    found = list(nodes(document))
    assert found
    assert found[0] is document
    for node in found:
        module, _, kind = str(node["_target_"]).rpartition(".")
        fields = dataclasses.fields(getattr(importlib.import_module(module), kind))
        if node["_target_"] not in DEFAULTS_ALLOWED:
            assert all(f.default is f.default_factory is dataclasses.MISSING for f in fields), node["_target_"]
            assert sorted(set(node) - {"_target_"}) == sorted(field.name for field in fields)
        assert getattr(importlib.import_module(module), kind).__dataclass_params__.frozen


@pytest.mark.parametrize(("group", "name"), [each for each in COMPONENTS if each[0] not in {g for _, g in slots()}])
def test_a_choice_of_no_slot_lists_every_field_of_its_class_and_nothing_else(group: str, name: str) -> None:
    check_fields(OmegaConf.to_container(component_node(group, name)))


OWN: dict[str, tuple[str, int]] = {  # sampler and steps of our models that are named and nothing else
    "ldm_mini": ("ddim", 250), "ldm_uncond_mini": ("ddim", 100), "ddpm_mini": ("ddim", 100), "dit_mini": ("ddim", 50),
    "sd_mini": ("plms", 50), "ddpm_cifar10": ("ddim_quadratic", 100), "ldm_bedroom256": ("ddim", 100),
    "ldm_church256": ("ddim", 100), "ldm_imagenet256": ("ddim", 250), "sd_v1_4": ("plms", 50), "sd_v1_5": ("plms", 50),
    "sdxl": ("euler", 50), "dit_xl2_256": ("ddim", 50), "pixart_sigma": ("dpmpp", 20),
}  # fmt: skip


@pytest.mark.parametrize("model", names("model"))
def test_a_model_brings_its_own_sampler_and_steps_and_can_be_cached_with_them(
    model: str, root: list[str], tiny_folders: dict[str, Path]
) -> None:
    arguments = [*root, f"model={model}", *tiny_weights(model, tiny_folders), "evaluate=fidelity"]
    config, found = composed([*arguments, "schedule=uniform"])
    assert model not in OWN or (found["sampler"], config.sample.num_steps) == OWN[model]
    assert config.budget.cache_interval < config.budget.num_steps
    Components.of(config)
    config, found = composed([*arguments, "sampler=dpmpp", "budget.num_steps=25", "debug=smoke", "schedule=none"])
    assert (found["sampler"], config.sample.num_steps) == ("dpmpp", 25)  # the command line has the last word


def model_of(experiment: str) -> str:
    overrides = {key: name for entry in row_node(experiment)["defaults"] for key, name in entry.items()}
    return str(overrides.get("override /model", "ldm_mini"))


@pytest.mark.parametrize("experiment", experiments())
def test_every_experiment_composes_and_builds_with_its_own_numbers(
    experiment: str, root: list[str], tiny_folders: dict[str, Path]
) -> None:
    """The first of every table at every scale, too."""
    first = experiment == next(name for name in experiments() if name.startswith(experiment.partition("/")[0]))
    for scale in ["", *(f"scale={name}" for name in names("scale") if first)]:
        _compose_and_build(experiment, [*root, *([scale] if scale else [])], tiny_folders)


def _compose_and_build(experiment: str, arguments: list[str], tiny_folders: dict[str, Path]) -> None:
    model = model_of(experiment)
    arguments = [*arguments, f"experiment={experiment}", *tiny_weights(model, tiny_folders)]
    if not grey(model):
        arguments.append("evaluate=fidelity")
    config, _ = composed(arguments)
    Components.of(config)
    table, _, name = experiment.partition("/")
    assert (config.row.table, config.row.name) == (table, name)


@pytest.mark.parametrize("name", names("paths"))
def test_a_choice_of_paths_names_every_path(name: str) -> None:
    document = OmegaConf.to_container(OmegaConf.load(CONF / "paths" / f"{name}.yaml"))
    assert isinstance(document, dict)
    assert set(document) == {field.name for field in dataclasses.fields(Paths)}
    assert not any(Path(value).is_absolute() for value in document.values())


def test_the_root_gives_a_value_to_every_key_of_the_schema() -> None:
    config, _ = composed([])
    assert OmegaConf.missing_keys(config) == set()
    assert set(config) == {field.name for field in dataclasses.fields(RunConfig)}


def test_debug_smoke_shrinks_any_experiment() -> None:
    config, found = composed(["experiment=table5/quant_dps_dec", "debug=smoke"])
    assert (found["sample"], found["calibrate"], found["logger"]) == ("smoke", "smoke", "none")
    assert config.budget.num_steps == 10
    config, _ = composed(["experiment=table2/fewer_steps_50", "debug=smoke"])
    assert (config.sample.num_steps, config.baseline.num_steps) == (10, 10)


@pytest.mark.parametrize("scale", [None, *names("scale")])
@pytest.mark.parametrize("name", [name for name in experiments() if "fewer steps" in row_node(name)["row"]["label"]])
def test_a_row_of_fewer_steps_takes_those_of_its_label_at_every_scale(name: str, scale: str | None) -> None:
    config, _ = composed([f"experiment={name}", *([f"scale={scale}"] if scale else [])])
    assert f"fewer steps: {config.sample.num_steps}," in config.row.label
    assert config.baseline.num_steps == config.budget.num_steps
