"""What `sidebench list` and `sidebench show` print."""

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import registry
from ..data.pair import IN_TRAINING, TRAINING_DEFENCES, Recipe, load_pair, pair_names, recipe_field
from ..errors import UnknownName
from ..registry import KINDS
from .class_facts import class_facts
from .layout import reader_width, wrapped

if TYPE_CHECKING:
    from ..results.run_folder import RunFolder


class Description(NamedTuple):
    """One thing as plain data and as text."""

    data: dict[str, Any]
    text: str


def listing(kind: str) -> list[dict[str, str]]:
    """Return everything of a kind with what it says of itself and where it is from; nothing is imported for it.

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
    rows = [_listed(KINDS[kind], name) for name in registry.names(KINDS[kind])]
    if kind == "defences":
        rows += [
            {
                "name": IN_TRAINING + name,
                "title": f"sidebench train PAIR {option}",
                "level": "training",
                "paper": "",
                "from": "",
            }
            for name, option in TRAINING_DEFENCES.items()
        ]
    return rows


SAID: dict[registry.Kind, tuple[str, ...]] = {
    "attack": ("title", "access", "paper"),
    "defence": ("title", "level", "paper"),
    "detector": ("title", "paper"),
    "measure": ("title", "paper"),
    "model": (),
}
"""What a listing says of each kind, by the attributes of the classes."""


def _listed(kind: registry.Kind, name: str) -> dict[str, str]:
    origin = registry.origin(kind, name)
    facts = class_facts(origin)
    return {"name": name, **{key: facts.get(key, "") for key in SAID[kind]}, "from": origin}


def as_text(rows: list[dict[str, str]], kind: str) -> str:
    """Return a listing as a table; where a class is defined is shown for plug-ins of others, and in JSON for all."""
    from tabulate import tabulate

    if not rows:
        return f"no {kind} are registered"
    origins = [row.get("from", "") for row in rows]
    foreign = ["" if origin.startswith("sidebench.") else origin for origin in origins]
    shown = [{key: value for key, value in row.items() if key != "from"} for row in rows]
    if any(foreign):
        shown = [{**row, "from": origin} for row, origin in zip(shown, foreign, strict=True)]
    over = _widest_line(tabulate(shown, headers="keys", tablefmt="plain")) - reader_width()
    if over > 0:
        widths = {name: max(len(row[name]) for row in shown) for name in shown[0]}
        longest = max(widths, key=lambda name: widths[name])
        most = max(widths[longest] - over, 20)
        folded = ("\n".join(textwrap.wrap(row[longest], most, break_on_hyphens=False)) for row in shown)
        shown = [{**row, longest: text} for row, text in zip(shown, folded, strict=True)]
    return tabulate(shown, headers="keys", tablefmt="plain")


def _widest_line(text: str) -> int:
    return max(map(len, text.split("\n")))


def describe(name: str, *, every_table: bool = False) -> Description:
    """Describe a pair, attack, defence, detector, measure (by its id), model of somebody's own or run folder.

    Of a run folder, what the run printed first, and its summary as data; with `every_table` all that it says.

    Raises:
        UnknownName: it is none of these.
    """
    if (Path(name) / "manifest.json").is_file():
        return _run(name, every_table)
    if name in pair_names() or name.endswith((".yaml", ".yml")):
        return _pair(name)
    if option := TRAINING_DEFENCES.get(name.removeprefix(IN_TRAINING)):
        return _training_defence(name.removeprefix(IN_TRAINING), option)
    kind = _kind_of(name)
    if kind is None:
        from ..results.run_folder import may_be_run, read_run

        if may_be_run(name):
            read_run(name)  # says what is wrong with it
        known = [*pair_names(), *(known for kind in KINDS.values() for known in registry.names(kind))]
        raise UnknownName("pair, attack, defence, detector, measure or run folder", name, known)
    describing = {
        "attack": _attack,
        "defence": _defence,
        "detector": _detector,
        "measure": _measure,
        "model": _model,
    }
    return describing[kind](name)


def _kind_of(name: str) -> registry.Kind | None:
    if ".py:" in name:
        return registry.kind_in_file(name)
    registered: dict[registry.Kind, str] = dict.fromkeys(KINDS.values(), name)
    registered["measure"] = name.partition(":")[0]
    return next((kind for kind, own in registered.items() if own in registry.names(kind)), None)


def _pair(name: str) -> Description:
    import yaml

    pair = load_pair(name)
    unlocated: Any = {"location": True, "lora": {"location"}}
    data = pair.model_dump(mode="json", exclude={"model": unlocated, "reference_model": unlocated, "data": {"path"}})
    return Description(data, yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100).rstrip())


def _attack(name: str) -> Description:
    cls = registry.find("attack", name)
    return _method(cls, {"access": cls.access})


def _defence(name: str) -> Description:
    cls = registry.find("defence", name)
    return _method(cls, {"level": cls.level, "needs the training images": "yes" if cls.uses_training else "no"})


def _detector(name: str) -> Description:
    cls = registry.find("detector", name)
    return _method(cls, {"reads cross-attention": "yes" if cls.attends else "no"})


def _training_defence(name: str, option: str) -> Description:
    about = " ".join((Recipe.model_fields[recipe_field(option)].description or "").split())
    data = {"name": IN_TRAINING + name, "option": f"sidebench train PAIR {option}", "about": about}
    text = f"{data['name']}: a defence in training, part of the victim that `{data['option']}` makes\n\n{about}"
    return Description(data, text)


def _measure(name: str) -> Description:
    measure = registry.find("measure", name)() if ".py:" in name else registry.make_measure(name)
    data = {
        "id": measure.id,
        "title": measure.title,
        "paper": measure.paper,
        "space": measure.space,
        "closer match": "smaller score" if measure.distance else "larger score",
        "pairs stored down to": measure.floor,
        "bands": {band.name: [band.low, band.high] for band in measure.bands},
    }
    bands = ", ".join(f"{band.name} {band.low:g} to {band.high:g}" for band in measure.bands)
    lines = [f"{measure.id}: {measure.title} ({measure.paper})"]
    lines += [f"{key}: {data[key]}" for key in ("space", "closer match", "pairs stored down to")]
    lines += [f"bands, closest first: {bands or 'none; its thresholds are calibrated'}", ""]
    return Description(data, "\n".join([*lines, " ".join((measure.__doc__ or "").split())]))


def _model(name: str) -> Description:
    """Describe a model of somebody's own, which is built for it."""
    from ..contracts import ModelSpec
    from ..models import load_model

    model = load_model(ModelSpec(family="pixel", location=name))
    data = {
        "images": "x".join(str(size) for size in model.image_shape),
        "conditioning": model.conditioning,
        "predicts": model.prediction_type,
        "timesteps": model.num_train_timesteps,
        "operations of a call": model.flops_per_sample(),
        "SHA-256": model.spec.sha256,
    }
    lines = [f"{name}: a model", *(f"{key}: {value}" for key, value in data.items())]
    return Description({"name": name, **data}, "\n".join(lines))


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
    return Description(data, "\n".join(wrapped(line, reader_width()) for line in lines).rstrip())


def _run(path: str, every_table: bool) -> Description:
    from ..results.run_folder import believing, read_run

    return believing(_read_run)(read_run(path), every_table)


def _read_run(folder: "RunFolder", every_table: bool) -> Description:
    from ..results.schema import load_metrics
    from . import screen
    from .summary import summary
    from .tables import model_line, probe_flags, text_tables, verdicts

    manifest = folder.manifest() or {}
    head = [f"run {manifest.get('run_id')}"]
    head += [f"  {line}" for line in [model_line(folder)] if line]
    head += [f"  {name}: {unit['settings']}" for name, unit in manifest.get("units", {}).items()]
    if not (folder.path / "metrics.json").exists():
        return Description(manifest, "\n".join([*head, "unfinished: run the same command again"]))
    metrics = load_metrics(folder)
    flags = probe_flags(folder)
    if not every_table:
        text = screen.first_screen(folder, metrics, screen.seconds_of(folder), screen.terminal_width())
        return Description(summary(folder, metrics), text)
    width = reader_width()
    said = [wrapped(line, width) for line in (*verdicts(metrics), _all_of_it(folder))]
    text = "\n".join([*(wrapped(line, width) for line in head), "", text_tables(metrics, flags, width), "", *said])
    found = {**metrics.model_dump(by_alias=True), "flags": [*metrics.flags, *flags]}
    return Description({"manifest": manifest, "metrics": found}, text)


def _all_of_it(folder: "RunFolder") -> str:
    return f"every figure, not rounded: {folder.path / 'metrics.json'}, and by row {folder.path / 'metrics.csv'}"
