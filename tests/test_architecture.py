"""What may import what, and the few rules about files that keep the package legible."""

import ast
from pathlib import Path

import pytest

import cq

PACKAGE = Path(cq.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# from left to right: an import points left, or stays within its own package
ORDER = (
    "config", "sampler", "cache", "predict", "models", "denoise", "calibrate", "schedule", "cost", "correct",
    "quantize", "sample", "evaluate", "report",
)  # fmt: skip
EVERYBODY = (  # the nouns: anyone may import these
    "artifacts", "captions", "contracts", "failures", "phases", "record", "store", "heads", "shards", "seeding",
    "processes", "origin", "sealed", "values",
)  # fmt: skip
NOUNS_MAY = {"contracts": ("calibrate.moments",)}  # and they import each other only, but for this
OF_THE_ZOO = ("zoo.locate", "zoo.classifier")  # what the rest may import from the zoo
TOP = (  # these put the others together
    "identity", "components", "outcome", "preflight", "stages", "memory", "pipeline", "ledger", "tracking", "plan",
    "table", "score", "prompts", "convert", "commands", "unread", "__main__",
)  # fmt: skip
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


def allowed(source: str, target: str) -> bool:
    package, other = source.split(".")[0], target.split(".")[0]
    if package == other or (target == "commands" and source.endswith("__main__")):  # every command line ends alike
        return True
    if other == "zoo":
        return target in OF_THE_ZOO
    if package == "zoo" or package in TOP:
        return other not in TOP or package in TOP
    if package in EVERYBODY:
        return other in EVERYBODY or target in NOUNS_MAY.get(package, ())
    if other in EVERYBODY or (other == "commands" and source.endswith(".__main__")):
        return True
    return other in ORDER and ORDER.index(other) < ORDER.index(package)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_left(path: Path) -> None:
    source = name_of(path)
    assert source.split(".")[0] in (*ORDER, *EVERYBODY, *TOP, "zoo", "__init__"), "give the module a place in ORDER"
    wrong = sorted(target for target in imports_of(path) if not allowed(source, target))
    assert wrong == []


def test_the_order_has_no_cycle_among_the_top_modules() -> None:
    """Top modules may import each other, in one order."""
    order: list[str] = []
    left = {name: imports_of(PACKAGE / f"{name}.py") & set(TOP) for name in TOP}
    while left:
        ready = sorted(name for name, needs in left.items() if needs <= set(order))
        assert ready, f"a cycle among {sorted(left)}"
        order += ready
        left = {name: needs for name, needs in left.items() if name not in ready}


def test_torch_is_not_needed_to_look_at_a_configuration() -> None:
    """Import time of the command line: what it imports at the top of a file must not import torch there."""
    heavy = ("torch", "diffusers", "wandb", "torchmetrics", "safetensors", "matplotlib", "pandas")
    light = ["__main__", "config", "identity", "components", "preflight", "ledger", "store", "heads", "record",
             "tracking", "table",
             "models/latent", "models/sites", "models/stored", "models/pixel", "models/transformer",
             "models/stable_diffusion", "models/sdxl", "models/pixart_sigma", "models/release", "models/architecture",
             "models/diffusion", "convert", "phases", "sample/generate",
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


@pytest.mark.parametrize("path", [path for path in MODULES if "report" not in path.parts], ids=name_of)
def test_only_the_report_prints(path: Path) -> None:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not any(isinstance(call, ast.Name) and call.id == "print" for call in calls)
