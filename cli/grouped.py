"""How `--help` lists the options of a command: in groups by what they are for, where there are many."""

import re
import textwrap
from collections.abc import Iterator
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

LONGEST_NAME = 28
"""Letters of the column of names; what is said of a longer one begins in the next line."""

FEW = 7
"""Options that need no groups."""


class Grouped(TyperCommand):
    """A command whose help has its options in groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, and a section for each group of options."""
        for title, rows in sections(self, ctx).items():
            with formatter.section(title):
                for line in _in_columns(rows, formatter.width - formatter.current_indent):
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


def sections(command: TyperCommand, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """Return what is said of a command's arguments and options by the title of their group, in order."""
    records = [(param, param.get_help_record(ctx)) for param in command.get_params(ctx)]
    shown = [(param, (_plainly(record[0]), record[1])) for param, record in records if record]
    options = [(str(param.name), record) for param, record in shown if param.param_type_name != "argument"]
    found = {"Arguments": [record for param, record in shown if param.param_type_name == "argument"]}
    for name, record in options:
        found.setdefault(_group(name) if len(options) > FEW else "Options", []).append(record)
    return {title: found[title] for title in ("Arguments", "Options", *GROUPS, OTHERS) if found.get(title)}


TYPES = {"str": "TEXT", "int": "N", "float": "X", "path": "PATH", "Path": "PATH"}


def _plainly(option: str) -> str:
    """Return an option with what it takes in a word.

    >>> _plainly("--seed <list[int]>"), _plainly("--workers <int range>"), _plainly("--set KEY=VALUE")
    ('--seed N', '--workers N', '--set KEY=VALUE')
    """
    return re.sub(r"<(?:list\[)?(\w+)(?: range)?\]?>", lambda found: TYPES.get(found[1], found[1].upper()), option)


def _in_columns(rows: list[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield lines of two columns, names and what is said of them; no word is broken, at a hyphen neither."""
    left = min(max(len(name) for name, _ in rows), LONGEST_NAME)
    for name, said in rows:
        # A hyphen that belongs to an option or a file would be read as that of a divided word.
        lines = textwrap.wrap(said, width - left - 2, break_on_hyphens=False, break_long_words=False)
        if len(name) > left:
            yield name
        else:
            lines = [f"{name:<{left}}  {(lines or [''])[0]}".rstrip(), *lines[1:]]
            yield lines.pop(0)
        yield from (f"{'':{left + 2}}{line}" for line in lines)


def _group(name: str) -> str:
    return next((title for title, names in GROUPS.items() if name in names), OTHERS)
