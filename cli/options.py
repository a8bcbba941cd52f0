"""Options that several commands have, each with its help, declared once."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from ..benchmark.errors import BadSetting
from . import output

# ---- What to work on --------------------------------------------------------------------------------

Pairs = Annotated[list[str] | None, Argument(metavar="PAIR...", help="Names of pairs, or pair files (.yaml).")]
PairWithRecipe = Annotated[str, Argument(metavar="PAIR", help="A pair with a recipe.")]
Model = Annotated[
    str | None,
    Option(
        metavar="REPO[@REV]",
        help="Another model than the pair's: a repository, a folder, FILE.py:NAME, a registered name, or "
        "control:copycat|heldout|mixture:P.",
    ),
]
Dataset = Annotated[
    str | None, Option(metavar="REPO[@REV]", help="Instead of a pair: the data of --model, or a folder of them.")
]
Split = Annotated[str | None, Option(help="With --dataset: the split that the model was trained on.")]
Holdout = Annotated[str | None, Option(help="With --dataset: a split that it was not trained on.")]
DatasetConfig = Annotated[
    str | None, Option(help="With --dataset: the configuration of the data, where there are several.")
]
ImageColumn = Annotated[str | None, Option(help="With --dataset: the column of images, where it is not the only one.")]
CaptionColumn = Annotated[str | None, Option(help="With --dataset: the column of captions.")]
LabelColumn = Annotated[str | None, Option(help="With --dataset: the column of class labels.")]
Variant = Annotated[str | None, Option(help="With --dataset: which of the model's weights, such as fp16.")]
Control = Annotated[
    str | None,
    Option(
        metavar="iid|surrogate",
        help="With --holdout: iid if that split is a random part of the same images and was not trained on, which you "
        "claim and every result repeats; default: surrogate.",
    ),
]
AllowPickle = Annotated[bool, Option("--allow-pickle", help="Load pickled weights where there are no safetensors.")]

ConfigFile = Annotated[
    Path | None,
    Option(
        "--config",
        metavar="FILE.yaml",
        help="Take the options from this file, whose keys are theirs; what the command line says wins, and "
        "--no-fresh, --no-json and the like turn off what it turns on.",
    ),
]

# ---- How much ---------------------------------------------------------------------------------------

Tier = Annotated[
    str | None,
    Option(
        help="Candidates of each attack and seed: smoke (256), quick (1,024, the default), standard (10,000), paper "
        "(50,000) or full (1,048,576)."
    ),
]
Candidates = Annotated[int | None, Option(help="Number of candidates, instead of a tier.")]
Seeds = Annotated[list[int] | None, Option(help="Run seed; may be given several times.")]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:N or mps.")]
Engine = Annotated[
    str | None, Option(metavar="ray[:ADDRESS]", help="Make and score the images on Ray's workers; default: here.")
]
Workers = Annotated[
    int | None, Option(min=1, help="With --engine: workers, each with the model in memory; default: 2.")
]


def _keep_tracebacks(wanted: bool) -> None:
    output.TRACEBACKS = output.TRACEBACKS or wanted


Traceback = Annotated[
    bool, Option("--traceback", help="Show where an error comes from, line by line.", callback=_keep_tracebacks)
]

# ---- What earlier commands wrote --------------------------------------------------------------------

Run = Annotated[Path, Argument(metavar="RUN", help="A run folder.")]
FinishedRun = Annotated[Path, Argument(metavar="RUN", help="A finished run folder.")]
PairOfRun = Annotated[str | None, Option(help="The run's pair file, if it is not a shipped pair.")]
Records = Annotated[Path, Option(help="Folder of records.")]
RECORDS = Path("leaderboards/records")
"""Where records are unless `--records` says otherwise: a checkout of sidebench's repository."""

# ---- What to write ----------------------------------------------------------------------------------
#
# One rule: `--out` is where the folder or file goes that a command is for. What it can write besides is named by its
# kind, and the word means the same in every command: `--report FILE.html`, `--figures FOLDER`, `--summary FILE.md`.

OutOfRun = Annotated[Path, Option(metavar="FOLDER", help="Folder in which the run folder is made.")]
Figures = Annotated[
    Path | None, Option(metavar="FOLDER", help="Write each plot as SVG and PNG into this folder, which is made.")
]

OldPlot = Annotated[Path | None, Option("--plot", hidden=True)]
OLD_PLOT = "--plot FILE is an old spelling, which still works; --figures FOLDER writes this plot with the others"
Force = Annotated[bool, Option("--force", help="Replace files that sidebench did not write.")]
AsJson = Annotated[bool, Option("--json", help="Print JSON on stdout; everything else goes to stderr.")]
SUMMARY, FULL, NONE = "summary", "full", "none"
"""What `--json` of a run is followed by; alone it stands for the first, and `--no-json` for the last."""


def _known_form(form: str | None) -> str | None:
    if form not in (None, SUMMARY, FULL, NONE):
        raise BadSetting(f"--json {form}: is no form of it; there is --json, and --json {FULL}")
    return None if form == NONE else form


RunAsJson = Annotated[
    str | None,
    Option(
        "--json",
        callback=_known_form,
        metavar="[full]",
        help="Print JSON on stdout, of a run a summary; `--json full`: all of metrics.json. The rest goes to stderr.",
    ),
]
