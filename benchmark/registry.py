"""Find attacks, defences, detectors, measures and models: entry points of packages, or `path/to/file.py:Class`.

Names are read without importing anything; a plug-in is imported when it is used. `ATTACK--ABLATION` is an attack with
something taken away, as the attack itself says.
"""

import ast
import functools
import hashlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal
from weakref import WeakKeyDictionary

from pydantic import ValidationError

from .contracts import Attack, Defence, Detector, Measure, Model
from .environment import version
from .errors import BadInput, BadSetting, UnknownName, first_problem, raised_in
from .files import content_sha256, sha256, short_hash

Kind = Literal["attack", "defence", "detector", "measure", "model"]
KINDS: dict[str, Kind] = {
    "attacks": "attack",
    "defences": "defence",
    "detectors": "detector",
    "measures": "measure",
    "models": "model",
}
"""Every kind by its plural."""
ABLATED = "--"
"""Between the name of an attack and that of an ablation."""
_LOCAL = "sidebench_local_"
"""Begins the module names of local files."""
_DIGEST = "__sidebench_sha256__"
"""Attribute of such a module: the SHA-256 of what was compiled."""
_PACKAGE = __name__.partition(".")[0]
_FOUND_AS: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_BASE: dict[Kind, type] = {
    "attack": Attack,
    "defence": Defence,
    "detector": Detector,
    "measure": Measure,
    "model": Model,
}
_MOST_MEANT = 5
"""Names of a file that a message lists."""
_BESIDE: set[str] = set()
"""Names of the modules that local files have imported from their folders."""


def names(kind: Kind) -> list[str]:
    """Return the registered names of one kind, sorted."""
    return sorted(_entry_points(kind))


def origin(kind: Kind, name: str) -> str:
    """Return `module:Class` of a registered name without importing it."""
    return _entry_points(kind)[name].value


def ships(kind: Kind, name: str) -> bool:
    """Return whether a registered plug-in is one of sidebench's own."""
    return origin(kind, name).startswith(f"{_PACKAGE}.")


def registered(kind: Kind, name: str) -> str:
    """Return a name that a run folder or a record gives, checked to be that of an installed plug-in.

    Folders and records are other people's data, and a name in them may spell a file: nothing that they point to is
    imported. A local `file.py:Class` runs only where the person at the command names it.

    Raises:
        BadInput: it names a local file.
        UnknownName: nothing is registered under this name.
    """
    if ".py" in name:
        raise BadInput(f"{kind} {name!r} is a local file: sidebench runs no code that a run folder or record names")
    base = split_ablation(name)[0] if kind == "attack" else name
    if base not in _entry_points(kind):
        raise UnknownName(kind, base, _entry_points(kind))
    return name


def split_ablation(name: str) -> tuple[str, str]:
    """Split the name of an attack, or `file.py:Class`, from that of an ablation; "" where there is none.

    Examples:
        >>> split_ablation("side--no-filter"), split_ablation("./my--own/mine.py:Mine")
        (('side', 'no-filter'), ('./my--own/mine.py:Mine', ''))
    """
    if name in _entry_points("attack"):
        return name, ""
    place, colon, last = name.rpartition(":") if ".py:" in name else ("", "", name)
    base, _, ablation = last.rpartition(ABLATED)
    return (f"{place}{colon}{base}", ablation) if base else (name, "")


def find(kind: Kind, name: str) -> Any:
    """Return the class registered under `name`, or the class of a local `file.py:Class`.

    A model may be a function too, which returns one.

    Raises:
        UnknownName: nothing is registered under this name, or the attack has no such ablation.
        BadInput: the file or the class in it cannot be loaded.
    """
    found = _find(kind, name)
    _FOUND_AS[found] = name
    return found


def found_as(plugin: type) -> str | None:
    """Return the name by which `find` finds this class in another process; None if it was never looked up."""
    return _FOUND_AS.get(plugin)


def _find(kind: Kind, name: str) -> Any:
    base, ablation = split_ablation(name)
    if kind == "attack" and ablation:
        return _ablated(find(kind, base), ablation)
    check_named_in_file(name)
    if is_local(name):
        loaded = _from_file(name, functions=kind == "model")
    else:
        points = _entry_points(kind)
        if name not in points:
            raise UnknownName(kind, name, points)
        try:
            loaded = points[name].load()
        except Exception as error:  # a plug-in's import may fail in any way; name the plug-in
            raise BadInput(f"{kind} {name!r} cannot be imported: {error!r}") from error
    if kind == "model":
        return _checked_model(name, loaded)
    if not (isinstance(loaded, type) and issubclass(loaded, _BASE[kind])):
        article = "an" if kind == "attack" else "a"
        raise BadInput(f"{name!r} is not {article} {kind}: it must be a subclass of sidebench.{_BASE[kind].__name__}")
    found: Any = loaded
    if missing := getattr(loaded, "__abstractmethods__", None):
        raise BadInput(f"{kind} {name!r} does not define {', '.join(sorted(missing))}")
    if unnamed := [key for key in ("name", "title", "paper") if not isinstance(getattr(loaded, key, None), str)]:
        raise BadInput(f"{kind} {name!r} has no {unnamed[0]}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", found.name):
        raise BadInput(f"{kind} {name!r}: the name {found.name!r} must be lower-case letters, digits, '-' and '_'")
    return loaded


def _checked_model(name: str, loaded: Any) -> Any:
    """Return what makes a model: a class, or a function that returns one."""
    if isinstance(loaded, type) and not issubclass(loaded, Model):
        wrap = ""
        if any(base.__module__.partition(".")[0] == "torch" for base in loaded.__mro__):
            wrap = "; it is a torch module, so name a function that returns sidebench.from_torch(module, ...)"
        raise BadInput(f"{name!r} is not a model: it must be a subclass of sidebench.Model, or return one{wrap}")
    if missing := getattr(loaded, "__abstractmethods__", None):
        raise BadInput(f"model {name!r} does not define {', '.join(sorted(missing))}")
    if not callable(loaded):
        raise BadInput(f"{name!r} is not a model but a {type(loaded).__name__}: name a class, or a function without ()")
    return loaded


def _ablated(attack: type[Attack], ablation: str) -> type[Attack]:
    """Return the attack without what the ablation takes away, under a name of its own."""
    if ablation not in attack.ablations:
        raise UnknownName(f"ablation of {attack.name}", ablation, attack.ablations)
    change = attack.ablations[ablation]
    values: dict[str, Any] = {
        "name": f"{attack.name}{ABLATED}{ablation}",
        "title": f"{attack.title}: {ablation.replace('-', ' ')}",
        "access": change.access or attack.access,
        "ablations": {},
        "__module__": attack.__module__,
        "__doc__": attack.__doc__,
    }
    return type(f"{attack.__name__}Ablated", (attack,), values)


def ablated_settings(name: str) -> Mapping[str, Any]:
    """Return the settings that the name of an ablation stands for; none for any other attack."""
    base, ablation = split_ablation(name)
    if not ablation:
        return {}
    found: Mapping[str, Any] = find("attack", base).ablations[ablation].settings
    return found


def kind_in_file(name: str) -> Kind:
    """Return what the class of a local `file.py:Class` is.

    Raises:
        BadInput: the file cannot be loaded, or the class is none of the five.
    """
    loaded = _from_file(name, functions=True)
    if isinstance(loaded, FunctionType):
        return "model"
    for kind, base in _BASE.items():
        if isinstance(loaded, type) and issubclass(loaded, base):
            return kind
    raise BadInput(f"{name!r} is none of {', '.join(f'sidebench.{base.__name__}' for base in _BASE.values())}")


def make_attack(name: str, settings: dict[str, Any]) -> Attack:
    """Build an attack with the given settings over its defaults; those of an ablation hold.

    Raises:
        BadSetting: a setting does not exist or has an impossible value.
    """
    cls = find("attack", name)
    attack: Attack = cls(check_settings(cls.Settings, {**settings, **ablated_settings(name)}, cls.name))
    return attack


def make_defence(name: str, settings: dict[str, Any]) -> Defence:
    """Build a defence with the given settings over its defaults.

    Raises:
        BadSetting: a setting does not exist or has an impossible value.
    """
    cls = find("defence", name)
    defence: Defence = cls(check_settings(cls.Settings, settings, cls.name))
    return defence


def make_detector(name: str, settings: dict[str, Any]) -> Detector:
    """Build a detector with the given settings over its defaults.

    Raises:
        BadSetting: a setting does not exist or has an impossible value.
    """
    cls = find("detector", name)
    detector: Detector = cls(check_settings(cls.Settings, settings, cls.name))
    return detector


def check_settings(schema: Any, settings: dict[str, Any], owner: str) -> Any:
    """Validate settings; the error names the first bad one, and close matches for an unknown one."""
    try:
        return schema(**settings)
    except ValidationError as error:
        found = first_problem(error)
        if found.unknown:
            raise UnknownName(f"setting of {owner}", found.key, schema.model_fields) from None
        if not found.key:  # a rule about several settings together
            raise BadSetting(f"{owner}: {found.message}") from None
        raise BadSetting(f"{owner}.{found.key} = {found.given!r}: {found.message}") from None


def make_measure(measure_id: str) -> Measure:
    """Build a measure from an id such as `nl2:n50:a0.5`.

    Raises:
        UnknownName: no measure is registered under its name.
        BadInput: it is the class of a local file, which no later command could make again from an id.
        BadSetting: an option is not one.
    """
    if ".py:" in measure_id:
        raise BadInput(f"measure {measure_id}: a measure is named by its id; pip install its package first")
    name, *options = measure_id.split(":")
    cls = find("measure", name)
    try:
        measure: Measure = cls(options or None)
    except ValueError as error:
        raise BadSetting(f"measure {measure_id!r}: {error}") from None
    return measure


def layers(measure: Measure) -> list[Measure]:
    """Return the measures whose code a measure's scores rest on: itself, and the one inside, if any."""
    inner = measure.round_trip_of
    return [measure, *([] if inner is None else layers(inner))]


def code_of(plugin: type) -> dict[str, str]:
    """Return which code a plug-in is: what must be equal for two runs of it to be the same.

    A local file is its name and SHA-256; an installed package its name and version and one SHA-256 over the names and
    contents of its Python files; what ships with sidebench is sidebench's version.
    """
    module = sys.modules[plugin.__module__]
    if module.__name__.partition(".")[0] == _PACKAGE:
        return {"package": _PACKAGE, "version": version(_PACKAGE)}
    file = Path(module.__file__ or "")
    if digest := getattr(module, _DIGEST, None):
        return {"file": file.name, "sha256": digest}
    top = sys.modules[module.__name__.partition(".")[0]]
    place = Path(top.__file__ or "")
    sources = sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [file]
    digests = [[source.relative_to(place.parent).as_posix(), sha256(source)] for source in sources]
    points = (point for kind in KINDS.values() for point in _entry_points(kind).values())
    dist = next((point.dist for point in points if point.module.partition(".")[0] == top.__name__), None)
    named = {"package": top.__name__} if dist is None else {"package": dist.name, "version": dist.version}
    return {**named, "sha256": content_sha256(digests)}


def source_of(plugin: type) -> Path:
    """Return the folder or file in which a plug-in's code lies, to find its lines in a traceback."""
    module = sys.modules[plugin.__module__]
    file = Path(module.__file__ or "")
    return file if hasattr(module, _DIGEST) or "." not in module.__name__ else file.parent


def _entry_points(kind: Kind) -> Mapping[str, importlib.metadata.EntryPoint]:
    return _read_entry_points(kind, tuple(sys.path))


@functools.lru_cache
def _read_entry_points(kind: Kind, _path: tuple[str, ...]) -> Mapping[str, importlib.metadata.EntryPoint]:
    """Read them from the packages on this path, once: that takes 13 ms, and one plan asks a dozen times."""
    return {point.name: point for point in importlib.metadata.entry_points(group=f"sidebench.{kind}s")}


def is_local(name: str) -> bool:
    """Return whether a name spells a local `file.py:Class`."""
    return ".py:" in name


def check_named_in_file(name: str) -> None:
    """Refuse a `file.py` without the name of what is meant in it; its source is read, nothing is imported.

    Raises:
        BadInput: with the functions and classes that the file defines.
    """
    path = Path(name)
    if path.suffix != ".py" or os.path.isdir(path):  # noqa: PTH112  Path.is_dir raises of a name that is too long
        return
    found = list(_defined(path))
    meant = " or ".join(f"{name}:{one}" for one in found[:_MOST_MEANT]) or f"{name}:NAME"
    what = "is a Python file" if os.path.isfile(path) else "is not there"  # noqa: PTH113
    raise BadInput(f"{name} {what}: name the class or function in the file too, {meant}")


def _defined(file: Path) -> Iterator[str]:
    """Yield the classes and functions that a file defines for others; none where it is missing or not Python."""
    try:
        nodes = ast.parse(file.read_bytes()).body
    except (OSError, SyntaxError, ValueError):
        return
    yield from (node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_")


def local_file(name: str) -> Path:
    """Return the file of a local `file.py:Class`.

    Raises:
        BadInput: there is no such file.
    """
    file = name.rpartition(":")[0]
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"no such file: {file} (wanted for {name})")
    return path


def sources_beside(file: Path) -> Iterator[Path]:
    """Yield a local file, and the modules and packages in its folder that it imports, and these in turn.

    A package is yielded whole. The source is read, nothing is imported.
    """
    seen, pending = set(), [file]
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        yield source
        for name in _imported(source):
            if (module := file.parent / f"{name}.py").is_file():
                pending.append(module)
            elif (file.parent / name / "__init__.py").is_file():
                pending += sorted((file.parent / name).rglob("*.py"))


def _imported(source: Path) -> Iterator[str]:
    """Yield the first part of every module that a file imports by its whole name; none of one that is not Python."""
    try:
        nodes = list(ast.walk(ast.parse(source.read_bytes())))
    except (OSError, SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


@contextmanager
def importing_beside(file: Path) -> Iterator[None]:
    """Let a local file import what lies in its folder, which comes last on the path: nothing in it hides a module."""
    folder, before = str(file.resolve().parent), set(sys.modules)
    sys.path.append(folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.reverse()
            sys.path.remove(folder)
            sys.path.reverse()
        for name in sys.modules.keys() - before:
            if (getattr(sys.modules[name], "__file__", None) or "").startswith(folder + os.sep):
                _BESIDE.add(name)


def _forget_beside() -> None:
    """Forget what local files imported from their folders: two may each hold a `network.py`, and one may change."""
    for name in _BESIDE:
        sys.modules.pop(name, None)
    _BESIDE.clear()


def _from_file(name: str, *, functions: bool = False) -> Any:
    path = local_file(name)
    file, _, cls = name.rpartition(":")
    # What is compiled is what was hashed: Python's own cache goes by the second, so an edit within the second that it
    # was made in would run as it was before. Another place or content is another module.
    try:
        source = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from None
    digest = hashlib.sha256(source).hexdigest()
    module = ModuleType(f"{_LOCAL}{path.stem}_{short_hash([str(path.resolve()), digest])}")
    module.__file__ = str(path)
    setattr(module, _DIGEST, digest)
    sys.modules[module.__name__] = module
    _forget_beside()
    try:
        with importing_beside(path):
            exec(compile(source, str(path), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # the user's own file may fail in any way; name it
        raise BadInput(f"{file} cannot be imported: {error!r}{raised_in(error, path)}") from error
    if not hasattr(module, cls):
        kinds = (type, FunctionType) if functions else type
        known = [key for key, value in vars(module).items() if isinstance(value, kinds)]
        raise UnknownName(f"{'class or function' if functions else 'class'} in {file}", cls, known)
    return getattr(module, cls)
