"""Find attacks, defences and measures: entry points of installed packages, or `path/to/file.py:Class`.

Names are read without importing anything; a plug-in is imported when it is used. `ATTACK--ABLATION` is an attack with
something taken away, as the attack itself says.
"""

import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from .contracts import Attack, Defence, Measure
from .errors import BadInput, BadSetting, UnknownName, first_problem

Kind = Literal["attack", "defence", "measure"]
KINDS: dict[str, Kind] = {"attacks": "attack", "defences": "defence", "measures": "measure"}
"""Every kind by its plural."""
ABLATED = "--"
"""Between the name of an attack and that of an ablation."""
_BASE: dict[Kind, type] = {"attack": Attack, "defence": Defence, "measure": Measure}


def names(kind: Kind) -> list[str]:
    """Return the registered names of one kind, sorted."""
    return sorted(_entry_points(kind))


def origin(kind: Kind, name: str) -> str:
    """Return `module:Class` of a registered name without importing it."""
    return _entry_points(kind)[name].value


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
    base = name.rpartition(ABLATED)[0] if kind == "attack" and name not in _entry_points(kind) else ""
    if (base or name) not in _entry_points(kind):
        raise UnknownName(kind, base or name, _entry_points(kind))
    return name


def find(kind: Kind, name: str) -> Any:
    """Return the class registered under `name`, or the class of a local `file.py:Class`.

    Raises:
        UnknownName: nothing is registered under this name, or the attack has no such ablation.
        BadInput: the file or the class in it cannot be loaded.
    """
    base, ablated, ablation = name.rpartition(ABLATED)
    if kind == "attack" and ablated and name not in _entry_points(kind):
        return _ablated(find(kind, base), ablation)
    if ".py:" in name:
        loaded = _from_file(name)
    else:
        points = _entry_points(kind)
        if name not in points:
            raise UnknownName(kind, name, points)
        try:
            loaded = points[name].load()
        except Exception as error:  # a plug-in's import may fail in any way; name the plug-in
            raise BadInput(f"{kind} {name!r} cannot be imported: {error!r}") from error
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
    base, ablated, ablation = name.rpartition(ABLATED)
    if not ablated or name in _entry_points("attack"):
        return {}
    found: Mapping[str, Any] = find("attack", base).ablations[ablation].settings
    return found


def kind_in_file(name: str) -> Kind:
    """Return what the class of a local `file.py:Class` is.

    Raises:
        BadInput: the file cannot be loaded, or the class is none of the three.
    """
    loaded = _from_file(name)
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


def _entry_points(kind: Kind) -> dict[str, importlib.metadata.EntryPoint]:
    return {point.name: point for point in importlib.metadata.entry_points(group=f"sidebench.{kind}s")}


def _from_file(name: str) -> Any:
    file, _, cls = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise BadInput(f"no such file: {file} (wanted for {name})")
    module_name = f"sidebench_local_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise BadInput(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own file may fail in any way; name it
        raise BadInput(f"{file} cannot be imported: {error!r}") from error
    if not hasattr(module, cls):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UnknownName(f"class in {file}", cls, classes)
    return getattr(module, cls)
