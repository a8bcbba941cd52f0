"""What a mistyped command line may have meant: options that other tools call otherwise, and an example."""

import difflib
from typing import Any

from .examples import EXAMPLES

ELSEWHERE = {
    "candidates": ("samples", "images", "size", "count", "number", "n", "budget"),
    "seed": ("random", "rng"),
    "attack": ("method", "methods"),
    "defence": ("defend", "mitigation"),
    "measure": ("metric", "metrics", "similarity", "distance"),
    "model": ("checkpoint", "weights", "pipeline", "m"),
    "dataset": ("data", "d"),
    "split": ("train",),
    "holdout": ("held", "test", "validation", "val", "heldout"),
    "set": ("setting", "param", "params", "hyperparameters", "option", "options", "s"),
    "device": ("gpu", "cuda", "cpu", "gpus"),
    "dtype": ("precision", "half", "fp16", "bf16", "float16", "bfloat16"),
    "micro-batch": ("batch", "batch-size", "bs", "b"),
    "workers": ("jobs", "processes", "j"),
    "out": ("output", "outdir", "dir", "folder", "path", "save", "o", "report", "html"),
    "figures": ("plot", "plots", "pictures"),
    "json": ("format",),
    "fresh": ("restart", "overwrite", "resume", "clean"),
    "force": ("overwrite", "yes", "y", "f"),
    "as": ("name", "submitter", "user"),
    "tuned": ("curve", "best"),
    "config": ("file", "yaml", "c"),
}
"""By option: words that stand for it in other tools. The first of a command's options that fits is named."""

_COUNTED = ("num", "number", "n", "max", "total")
"""Words before another one that say nothing of their own: `--num-samples`."""


def no_such_option(error: Any) -> str:
    """Return one line about an option that a command has not, with the one that may have been meant."""
    command = error.ctx.command if error.ctx else None
    known = [text for one in getattr(command, "params", ()) for text in one.opts if text.startswith("--")]
    meant = likely(error.option_name, [option.removeprefix("--") for option in known])
    hint = f"did you mean --{meant}? " if meant else ""
    return f"no such option {error.option_name}: {hint}`{_called(error.ctx)} --help` lists them"


def likely(given: str, known: list[str]) -> str | None:
    """Return which of the known options a word stands for; None where none is near.

    >>> [likely(word, ["split", "candidates", "json"]) for word in ("--samples", "-n", "--num-images", "--jsn", "--x")]
    ['candidates', 'candidates', 'candidates', 'json', None]
    """
    word = given.lstrip("-").replace("_", "-").lower()
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    if close:
        return close[0]
    first, _, rest = word.partition("-")
    # The whole word says most: a batch-size is no size.
    for said in (word, rest) if first in _COUNTED else (word, first, rest):
        for option, others in ELSEWHERE.items():
            if option in known and said in (option, *others):
                return option
    return None


def with_example(message: str, context: Any) -> str:
    """Return a message about something missing with a command that has it."""
    lines = EXAMPLES.get(_called(context).removeprefix("sidebench "))
    return f"{message.rstrip('.')}; for example: {lines[0]}" if lines else message


def _called(context: Any) -> str:
    """Return the command as a user writes it, whatever the program was started by."""
    names: list[str] = []
    while context is not None and context.parent is not None:
        names, context = [str(context.info_name), *names], context.parent
    return " ".join(["sidebench", *names])
