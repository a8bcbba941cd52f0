"""How `--help` lists the options of a command: in groups by what they are for, where there are many."""

from typing import Any

from typer.core import TyperCommand

GROUPS = {
    "What to attack": (
        *("attack", "model", "dataset", "split", "holdout", "dataset_config", "image_column", "caption_column"),
        *("label_column", "variant", "control", "pair", "allow_pickle", "detector", "negatives", "prompts"),
    ),
    "Defences and settings": ("defence", "set_", "tuned", "try_", "measure", "policy", "baseline", "bands", "copying"),
    "How much": ("tier", "candidates", "seed", "secret_seeds", "images", "steps", "references", "challenge", "draws"),
    "What is written": (
        *("out", "fresh", "fresh_attack", "force", "as_json", "with_images", "figures", "plot", "junit", "summary"),
        *("report", "sarif", "card", "annotations", "checkpoints", "readme", "track"),
    ),
    "Where it runs": ("device", "dtype", "micro_batch", "compiled", "engine", "workers", "plan_only", "silent_for"),
}
"""Options by what they are for, the names of the functions' parameters."""

OTHERS = "Other options"

FEW = 7
"""Options that need no groups."""


class Grouped(TyperCommand):
    """A command whose help has its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and a section for each group of options."""
        for title, rows in sections(self, ctx).items():
            with formatter.section(title):
                formatter.write_dl(rows)


def sections(command: TyperCommand, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return what is said of a command's arguments and options by the title of their group, in order."""
    shown = [(param, record) for param in command.get_params(ctx) if (record := param.get_help_record(ctx))]
    options = [(str(param.name), record) for param, record in shown if param.param_type_name != "argument"]
    found = {"Arguments": [record for param, record in shown if param.param_type_name == "argument"]}
    for name, record in options:
        found.setdefault(_group(name) if len(options) > FEW else "Options", []).append(record)
    return {title: found[title] for title in ("Arguments", "Options", *GROUPS, OTHERS) if found.get(title)}


def _group(name: str) -> str:
    return next((title for title, names in GROUPS.items() if name in names), OTHERS)
