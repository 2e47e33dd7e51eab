"""What decides a component's numbers beside its fields: what the files hold that it names, and its own source.

A file of the package that is as it was committed, or as the wheel installed it, is told by its name alone. Every other
one counts with its content: a file of yours always, one of the package where it was changed, a module where it or one
that it imports is yours, of what is allowed beside it (`cq.run.own`), or was changed. So what was recorded with
committed code keeps its name.
"""

import ast
import dataclasses
import hashlib
import importlib.util
import json
import os
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_origin

from cq.core.checksum import file_digest
from cq.core.contracts import ReadsContent
from cq.models.locate import HUB, SCHEME, locate
from cq.run import own
from cq.run.building import component_named
from cq.run.origin import PACKAGE, git, wheel_files

# Fields of words that may be a folder's name, too.
WORDS = ("name", "data", "source", "site", "device", "backbone", "pretrained")
REFUSES_ONLY = "cq.run.preflight"  # what only refuses decides no number, and would tie every stage to every metric


def described(component: Any) -> dict[str, Any]:
    """A component as JSON: its class and fields, nested components included, and what else decides its numbers."""
    kind = type(component)
    out: dict[str, Any] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    for field in dataclasses.fields(component):
        value = getattr(component, field.name)
        out[field.name] = _described(value)
    if isinstance(component, ReadsContent):
        out["content"] = component.content_digest()
    elif files := files_named(kind, {field.name: getattr(component, field.name) for field in dataclasses.fields(kind)}):
        out["files"] = files
    if (source := source_digest(kind.__module__)) is not None:
        out["source"] = source
    return out


def _described(value: Any) -> Any:
    """A field: a component, components by name, or JSON."""
    if isinstance(value, Mapping):
        return {name: _described(inside) for name, inside in value.items()}
    return described(value) if dataclasses.is_dataclass(value) else value


def beside(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What decides a run beside its resolved configuration: files by key, sources by module; {} where nothing does."""
    files: dict[str, str] = {}
    sources = {"cq.run.pipeline": source_digest("cq.run.pipeline")}
    for key, node in _components(config, ""):
        module = node["_target_"].rpartition(".")[0]
        try:
            kind = component_named(node["_target_"], key)
        except ValueError:  # of a record whose component is gone; a configuration with one is refused
            continue
        sources[module] = source_digest(module)
        files |= {f"{key}.{field}": digest for field, digest in files_named(kind, node).items()}
    found = {"files": files, "sources": {module: digest for module, digest in sources.items() if digest is not None}}
    return {name: entries for name, entries in found.items() if entries}


def owners(config: Mapping[str, Any]) -> list[str]:
    """Whose components a configuration names beside those of `cq`: packages, or modules of a folder."""
    targets = [node["_target_"] for _, node in _components(config, "")]
    return sorted({target.partition(".")[0] for target in targets if own.owner(target)})


def _components(node: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield key, node
        for name, value in node.items():
            yield from _components(value, f"{key}.{name}" if key else str(name))


def files_named(kind: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Field to digest of the file or folder that it names, or the files; without those that are as committed.

    Any text that is `zoo:NAME`, `hub:NAME` or the path of something there names a file. Left out are the weights of a
    model, which have a digest of their own, and fields that choose among words.
    """
    out: dict[str, str] = {}
    for field in dataclasses.fields(kind):
        words = get_origin(field.type) is Literal or field.name in WORDS
        if words or (field.name == "weights" and hasattr(kind, "weights_digest")):
            continue
        value = values.get(field.name)
        texts = value if isinstance(value, list | tuple) else [value]
        found = [digest for text in texts if isinstance(text, str) if (digest := _content(text)) is not None]
        if found:
            out[field.name] = found[0] if len(found) == 1 else _digest(found)
    return out


def _content(text: str) -> str | None:
    """Digest of the file or folder that a text names; None where it names none, or one that is as committed."""
    try:
        path = locate(text) if text.startswith((SCHEME, HUB)) else Path(text).expanduser()
        if not text or not path.exists():
            return None
        if path.is_file():
            return changed(path)
        below = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
        seen = [file for file in below if not any(part.startswith(".") or part == "__pycache__" for part in file.parts)]
        digests = {str(file): changed(path / file) for file in seen}
    except (ValueError, OSError):  # no path, or not to be read: whoever reads it refuses it
        return None
    return _digest(digests) if any(digests.values()) else None


def changed(path: Path) -> str | None:
    """SHA-256 (hex) of a file; None where it is one of the package and as committed."""
    path = path.absolute()
    if path.is_relative_to(PACKAGE):
        told, content = _committed().get(str(path.relative_to(PACKAGE))), path.read_bytes()
        if path.is_symlink() and _as_git(os.fsencode(named := path.readlink())) == told:  # of git: a link is its path
            return changed(Path(os.path.normpath(path.parent / named)))
        if told in (_as_git(content), _as_wheel(content)):
            return None
    stat = path.stat()
    return _sha256(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@cache
def _sha256(path: Path, *_: int) -> str:
    """Of a file in the state that its numbers tell."""
    return file_digest(path)


@cache
def _committed() -> Mapping[str, str]:
    """Path below the package to its hash, as git or the wheel's list of files writes it; {} outside both."""
    if listed := wheel_files(PACKAGE):
        return listed
    lines = (line.split("\t", 1) for line in git(PACKAGE, "ls-tree", "-r", "-z", "HEAD", "--", ".").split("\0") if line)
    return {name: about.split()[2] for about, name in lines}


def _as_git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _as_wheel(content: bytes) -> str:
    return urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


@cache
def source_digest(module: str) -> str | None:
    """Names the source of a module and of all that it imports of the package; None where that is as committed.

    From a module that is yours or was changed the modules outside the package count, too, that are not installed or are
    allowed. Found once a process: what was imported does not change when its file does.
    """
    found: dict[str, str] = {}
    met, left = set(), [module]
    while left:
        name = left.pop()
        path = _file_of(name)
        inside = path is not None and path.is_relative_to(PACKAGE)
        if name in met or name == REFUSES_ONLY or path is None or (inside and not changed_modules()):
            continue
        met.add(name)
        digest = changed_modules().get(path) if inside else changed(path)
        if digest is not None:
            found[name] = digest
        follow = (each for each in _imports(path, name) if digest is not None or each.startswith(f"{PACKAGE.name}."))
        left += [*follow, name.rpartition(".")[0]]
    return _digest(found) if found else None


@cache
def changed_modules() -> Mapping[Path, str]:
    """Every module of the package that is not as committed."""
    return {path: digest for path in sorted(PACKAGE.rglob("*.py")) if (digest := changed(path)) is not None}


def code_digest() -> str | None:
    """Names all code and yaml that is yours and allowed, or of the package and not as committed; None for none."""
    homes = [each.home for each in own.owned()]
    files = [file for home in homes for file in ([home] if home.is_file() else sorted(home.rglob("*")))]
    found = {str(path): digest for path, digest in changed_modules().items()}
    found |= {str(path): digest for path in files if path.suffix in (".py", ".yaml") and (digest := changed(path))}
    return _digest(found) if found else None


@cache
def _file_of(module: str) -> Path | None:
    """The source of a module of the package, or of one that is not installed or is allowed; None for any other."""
    top, *rest = module.split(".")
    if top == PACKAGE.name:
        home = PACKAGE
    elif not top or top in sys.stdlib_module_names:
        return None
    else:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
        places = [] if spec is None else [*(spec.submodule_search_locations or [])]
        if spec is None or not (places or spec.has_location):
            return None
        home = Path(places[0]) if places else Path(str(spec.origin)).with_suffix("")
        allowed = {name.partition(".")[0] for each in own.owned() for name in each.modules}
        if top not in allowed and {"site-packages", "dist-packages"} & set(home.parts):
            return None
    path = home.joinpath(*rest)
    return next((file for file in (path / "__init__.py", path.with_name(f"{path.name}.py")) if file.is_file()), None)


@cache
def _imports(path: Path, module: str) -> tuple[str, ...]:
    """Dotted names that a module imports anywhere, but for type checking; some are names within a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def of(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for child in node.orelse if for_types else ast.iter_child_nodes(node):  # type: ignore[attr-defined]
            yield from of(child)

    try:
        return tuple(of(ast.parse(path.read_bytes())))
    except SyntaxError:  # nobody has imported it
        return ()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
