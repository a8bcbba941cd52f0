"""What `sidebench list` and `sidebench show` print."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from . import registry
from .errors import UnknownName
from .pairs import load_pair, pair_names

KINDS: dict[str, registry.Kind] = {"attacks": "attack", "defences": "defence", "measures": "measure"}


class Description(NamedTuple):
    """One thing as plain data and as text."""

    data: dict[str, Any]
    text: str


def listing(kind: str) -> list[dict[str, str]]:
    """Return name and origin of everything of a kind; nothing is imported for it.

    Raises:
        UnknownName: there is no such kind.
    """
    if kind == "pairs":
        pairs = [load_pair(name) for name in pair_names()]
        return [
            {
                "name": pair.name,
                "title": pair.title,
                "control": pair.control,
                "checked": "yes" if pair.verified else "no: nobody has run it against the real Hub",
            }
            for pair in pairs
        ]
    if kind not in KINDS:
        raise UnknownName("kind", kind, ["pairs", *KINDS])
    return [{"name": name, "from": registry.origin(KINDS[kind], name)} for name in registry.names(KINDS[kind])]


def as_text(rows: list[dict[str, str]], kind: str) -> str:
    """Return a listing as a table."""
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="plain") if rows else f"no {kind} are registered"


def describe(name: str) -> Description:
    """Describe a pair, an attack, a defence or a run folder.

    Raises:
        UnknownName: it is none of these.
    """
    if (Path(name) / "manifest.json").is_file():
        return _run(name)
    if name in pair_names() or name.endswith((".yaml", ".yml")):
        return _pair(name)
    if name in registry.names("defence"):
        return _defence(name)
    if name in registry.names("attack") or ".py:" in name:
        return _attack(name)
    known = [*pair_names(), *registry.names("attack"), *registry.names("defence")]
    raise UnknownName("pair, attack, defence or run folder", name, known)


def _pair(name: str) -> Description:
    import yaml

    pair = load_pair(name)
    data = pair.model_dump(
        mode="json", exclude={"model": {"location"}, "reference_model": {"location"}, "data": {"path"}}
    )
    return Description(data, yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100).rstrip())


def _attack(name: str) -> Description:
    cls = registry.find("attack", name)
    return _method(cls, {"access": cls.access})


def _defence(name: str) -> Description:
    cls = registry.find("defence", name)
    return _method(cls, {"level": cls.level, "needs the training images": "yes" if cls.uses_training else "no"})


def _method(cls: Any, traits: dict[str, str]) -> Description:
    settings = [
        {
            "setting": key,
            "default": json.dumps(field.get_default(), default=str),
            "meaning": " ".join((field.description or "").split()),
        }
        for key, field in cls.Settings.model_fields.items()
    ]
    data = {
        "name": cls.name,
        "title": cls.title,
        "paper": cls.paper,
        **traits,
        "models": sorted(cls.conditionings),
        "settings": settings,
    }
    lines = [f"{cls.name}: {cls.title} ({cls.paper})", *(f"{key}: {value}" for key, value in traits.items())]
    lines += [f"models: conditioning {', '.join(data['models'])}", ""]
    lines += [" ".join((cls.__doc__ or "").split()), ""]
    lines += [f"  {s['setting']} = {s['default']}{'  ' + s['meaning'] if s['meaning'] else ''}" for s in settings]
    return Description(data, "\n".join(lines).rstrip())


def _run(path: str) -> Description:
    from .report.tables import load_metrics, probe_flags, text_tables, verdicts
    from .store import read_run

    folder = read_run(path)
    manifest = folder.manifest() or {}
    head = [f"run {manifest.get('run_id')}"]
    head += [f"  {name}: {unit['settings']}" for name, unit in manifest.get("units", {}).items()]
    if not (folder.path / "metrics.json").exists():
        return Description(manifest, "\n".join([*head, "unfinished: run the same command again"]))
    metrics = load_metrics(folder)
    flags = probe_flags(folder)
    text = "\n".join([*head, "", text_tables(metrics, flags, every_measure=True), "", *verdicts(metrics)])
    found = {**metrics.model_dump(by_alias=True), "flags": [*metrics.flags, *flags]}
    return Description({"manifest": manifest, "metrics": found}, text)
