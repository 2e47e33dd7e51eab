"""What may import what, and the few rules about files that keep the package legible."""

import ast
from pathlib import Path

import pytest

import cq

PACKAGE = Path(cq.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# from left to right: an import points left, or stays within its own room
ORDER = (
    "core", "sampler", "cache", "predict", "cost", "models", "calibrate", "schedule", "correct", "quantize", "engine",
    "sample", "evaluate", "run", "bench", "report", "adapt", "search", "laws", "cli",
)  # fmt: skip
ROOMS = [room for room in ORDER if (PACKAGE / room).is_dir()]
DOORS = ("__init__", "__main__")  # what lies beside the rooms: the Python API and the command
LONGEST = 350
NO_NAMES = ("utils", "util", "helpers", "helper", "common", "misc")


def name_of(path: Path) -> str:
    """`evaluate.frechet` for cq/evaluate/frechet.py."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports_of(path: Path) -> set[str]:
    """Modules of the package that a file imports anywhere: inside functions and for type checking, too."""
    modules = {name_of(module) for module in MODULES}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "cq":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}".removeprefix("cq.")
                found.add(whole if whole in modules else str(node.module).removeprefix("cq."))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("cq.") for alias in node.names if alias.name.startswith("cq.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: imports by full name"
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_left(path: Path) -> None:
    source = name_of(path).split(".")[0]
    if source in DOORS:
        return
    assert source in ORDER, "a module stands in a room, and a room has a place in ORDER"
    targets = {target: target.split(".")[0] for target in imports_of(path) - {"cq"}}
    assert sorted(target for target, room in targets.items() if ORDER.index(room) > ORDER.index(source)) == []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_no_cycle(room: str) -> None:
    """Modules of a room may import each other, in one order."""
    left = {name_of(path): imports_of(path) for path in (PACKAGE / room).rglob("*.py")}
    order: set[str] = set()
    while left:
        ready = {name for name, needs in left.items() if not needs & set(left) - {name}}
        assert ready, f"a cycle among {sorted(left)}"
        order |= ready
        left = {name: needs for name, needs in left.items() if name not in ready}


def test_torch_is_not_needed_to_look_at_a_configuration() -> None:
    """Import time of the command line: what it imports at the top of a file must not import torch there."""
    heavy = ("torch", "diffusers", "wandb", "torchmetrics", "safetensors", "matplotlib", "pandas")
    light = ["cli/run", "cli/check", "cli/jobs", "cli/table", "cli/convert", "core/store", "core/phases",
             "models/headers", "models/latent", "models/sites", "models/stored", "models/pixel", "models/transformer",
             "models/stable_diffusion", "models/sdxl", "models/pixart_sigma", "models/component", "models/folder",
             "models/release", "models/architecture", "models/diffusion",
             "sample/generate",
             *(f"run/{name}" for name in ("config", "building", "own", "tables", "rows", "compose", "identity",
                                          "components", "preflight", "ledger", "record", "tracking")),
             *(f"{part}/{path.stem}" for part in ("schedule", "cache", "sampler")
               for path in (PACKAGE / part).glob("*.py"))]  # fmt: skip
    for name in light:
        for node in ast.parse((PACKAGE / f"{name}.py").read_text()).body:
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] in heavy for alias in node.names), name
            elif isinstance(node, ast.ImportFrom):
                assert str(node.module).split(".")[0] not in heavy, name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_has_a_telling_name_a_docstring_and_a_page_or_a_few(path: Path) -> None:
    assert path.stem not in NO_NAMES
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    if path.name == "__init__.py" and path.parent != PACKAGE:
        assert text == ""
    else:
        assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "report"], ids=name_of)
def test_only_the_report_prints(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls)
