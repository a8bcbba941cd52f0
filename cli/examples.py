"""Examples of every command, which `--help` shows; a test sees that each can be parsed."""

import re

LONGEST = 70
"""Letters of a command in one line."""

START = (
    ("sidebench run digits", "attack a model that ships with sidebench and leaks; a minute or a few"),
    (
        "sidebench run --model OWNER/MODEL --dataset OWNER/IMAGES --split train --holdout test",
        "attack a model of the Hub",
    ),
    ("sidebench gate digits --policy example", "does it leak more than a policy allows?"),
)
"""What to do first."""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "run": ("sidebench run digits", "sidebench run digits --attack side --candidates 4096 --seed 0 --seed 1 --seed 2"),
    "worker": ("sidebench worker runs/digits-f3ab7605", "sidebench worker runs/digits-f3ab7605 --device cuda:1"),
    "score-images": (
        "sidebench score-images generated/ digits",
        "sidebench score-images made.npz --dataset OWNER/IMAGES --split train --holdout test --control iid",
    ),
    "plan": (
        "sidebench plan stable-diffusion",
        "sidebench plan --model OWNER/MODEL --dataset OWNER/IMAGES --split train",
    ),
    "fetch": ("sidebench fetch ddpm-cifar10", "sidebench fetch --weights dinov2_large=facebook/dinov2-large"),
    "list": ("sidebench list attacks", "sidebench list pairs"),
    "show": ("sidebench show side", "sidebench show runs/digits-f3ab7605 --all"),
    "report": (
        "sidebench report runs/digits-f3ab7605",
        "sidebench report runs/digits-f3ab7605 --with-images --figures plots",
    ),
    "compare": (
        "sidebench compare runs/digits-f3ab7605 runs/digits-eta-1a2b3c4d",
        "sidebench compare runs/digits-f3ab7605 runs/digits-eta-1a2b3c4d --out compared.html --figures plots",
    ),
    "score": (
        "sidebench score runs/digits-f3ab7605 --bands near=0:0.4,far=0.4:0.8",
        "sidebench score runs/digits-f3ab7605 --copying",
    ),
    "label": ("sidebench label runs/digits-f3ab7605", "sidebench label runs/digits-f3ab7605 --per-set 50"),
    "gate": (
        "sidebench gate runs/digits-f3ab7605 --policy policy.yaml",
        "sidebench gate digits --policy example --engine ray --workers 2",
    ),
    "replay": (
        "sidebench replay runs/digits-f3ab7605 17",
        "sidebench replay runs/digits-f3ab7605 17 --attack side --seed 0",
    ),
    "train": ("sidebench train digits", "sidebench train digits --split-seed 7 --shift 1 --out victims/digits-7"),
    "new": ("sidebench new attack my-attack", "sidebench new model my-model --out packages/my-model"),
    "tune": ("sidebench tune digits --attack side", "sidebench tune digits --attack side --engine ray --workers 4"),
    "ablate": (
        "sidebench ablate digits --attack side",
        "sidebench ablate digits --attack side --engine ray --workers 2",
    ),
    "detect": (
        "sidebench detect glyphs",
        "sidebench detect glyphs --detector noise-norm --detector dsm --set dsm.noises=4 --negatives names.txt",
    ),
    "bench": ("sidebench bench --workers", "sidebench bench --accelerator --out gpu.json"),
    "theory": ("sidebench theory", "sidebench theory digits --draws 32"),
    "doctor": ("sidebench doctor", "sidebench doctor --json"),
    "leaderboard add": (
        'sidebench leaderboard add runs/digits-f3ab7605 --as "your name"',
        'sidebench leaderboard add runs/digits-f3ab7605 --as "your name" --attack side --tuning curve.json',
    ),
    "leaderboard check": (
        "sidebench leaderboard check records/",
        "sidebench leaderboard check record.json --run runs/digits-f3ab7605 --challenge 32",
    ),
    "leaderboard publish": (
        "sidebench leaderboard publish --repo OWNER/RESULTS --dry-run",
        "sidebench leaderboard publish --repo OWNER/RESULTS --send",
    ),
    "leaderboard eval-result": (
        "sidebench leaderboard eval-result record.json --model OWNER/MODEL --dataset OWNER/RESULTS",
        "sidebench leaderboard eval-result record.json --model OWNER/MODEL --dataset OWNER/RESULTS --send",
    ),
    "leaderboard build": (
        "sidebench leaderboard build --records records --out site",
        "sidebench leaderboard build --records records --readme README.md --check",
    ),
}
"""By command, two each."""


def start_here() -> str:
    """Return what `sidebench` alone says first."""
    steps = (f"\b\n{_folded(command)}\n      {what}" for command, what in START)
    return "\n\n".join(["\b\nStart here:", *steps])


def examples_of(command: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(map(_folded, EXAMPLES[command]))


def _folded(command: str) -> str:
    """Return a command two spaces in; a long one goes on in the next line, so that no terminal cuts an option in two.

    >>> print(_folded("sidebench run --model OWNER/MODEL --dataset OWNER/IMAGES --split train --holdout test"))
      sidebench run --model OWNER/MODEL --dataset OWNER/IMAGES --split train \\
          --holdout test
    """
    lines = [""]
    for part in re.split(r" (?=--)", command):
        if lines[-1] and len(lines[-1]) + len(part) + 1 > LONGEST:
            lines.append(part)
        else:
            lines[-1] = f"{lines[-1]} {part}".strip()
    return "  " + " \\\n      ".join(lines)
