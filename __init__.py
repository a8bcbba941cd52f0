"""sidebench: privacy evaluation of diffusion models.

The public Python API is the table below; each name is imported when it is first used, because torch
takes seconds and `sidebench --help` must not wait for it.

    import sidebench

    result = sidebench.run("digits", attacks=["carlini-uncond"], candidates=256)
    print(result.verdict)
    result.table()

`run`, `tune`, `ablate`, `compare`, `gate` and `leaderboard` are the commands of these names. What they are made of can
be called one by one, too: `plan_run`, `execute`, `write_report`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    # Words: what an attack, a defence or a measure is written with.
    "Attack": "contracts",
    "AttackState": "contracts",
    "Ablation": "contracts",
    "Budget": "contracts",
    "Candidates": "candidates",
    "Generated": "contracts",
    "Step": "contracts",
    "Settings": "contracts",
    "BlackBoxModel": "contracts",
    "PromptedModel": "contracts",
    "QueriedModel": "contracts",
    "WhiteBoxModel": "contracts",
    "AdapterPlan": "contracts",
    "TrainableModel": "contracts",
    "OracleModel": "contracts",
    "Defence": "contracts",
    "Detector": "contracts",
    "DefendedModel": "sampling.defended",
    "VictimFacts": "contracts",
    "Measure": "contracts",
    "Band": "contracts",
    "Neighbours": "contracts",
    "Model": "contracts",
    "ModelSpec": "contracts",
    # Pairs: a model and the images that it was trained on.
    "Pair": "data.pair",
    "load_pair": "data.pair",
    "References": "data.references",
    "load_references": "data.references",
    "load_model": "models",
    "from_torch": "models.torch_module",
    "pair_of": "models.pair_from_names",
    # Runs: plan, carry out, read again.
    "RunPlan": "runs.plan",
    "plan_run": "runs.plan",
    "RunResult": "runs.runner",
    "execute": "runs.runner",
    "RunFolder": "results.run_folder",
    "read_run": "results.run_folder",
    "Metrics": "results.schema",
    "load_metrics": "results.schema",
    "rescore": "results.rescore",
    "write_report": "reports.page",
    "first_screen": "reports.screen",
    "compare_runs": "reports.compare.compare_runs",
    # Checks: does a plug-in keep its contract?
    "check_attack": "runs.check_attack",
    "check_defence": "runs.check_defence",
    "check_detector": "runs.check_detector",
    "check_measure": "runs.check_measure",
    "check_model": "runs.check_model",
    "NotConformant": "runs.check_attack",
    # Metrics: torchmetrics classes.
    "AverageMemorizationScore": "measures.metrics",
    "UniqueMemorizationScore": "measures.metrics",
    "UniqueBestMatchScore": "measures.metrics",
    # Errors.
    "SidebenchError": "errors",
    "BadInput": "errors",
    "BadSetting": "errors",
    "TooFew": "errors",
    "UnknownName": "errors",
}

_COMMANDS = ("run", "show", "tune", "ablate", "compare", "gate", "leaderboard")
"""What the command does, as functions."""

_MODULES = {
    **{name: f"benchmark.{module}" for name, module in _HOME.items()},
    **dict.fromkeys(_COMMANDS, "notebook.commands"),
}

__all__ = ["__version__", *_MODULES]

# The same names for type checkers and editors, which do not run `__getattr__`. A test compares both lists.
if TYPE_CHECKING:
    from .benchmark.candidates import Candidates as Candidates
    from .benchmark.contracts import Ablation as Ablation
    from .benchmark.contracts import AdapterPlan as AdapterPlan
    from .benchmark.contracts import Attack as Attack
    from .benchmark.contracts import AttackState as AttackState
    from .benchmark.contracts import Band as Band
    from .benchmark.contracts import BlackBoxModel as BlackBoxModel
    from .benchmark.contracts import Budget as Budget
    from .benchmark.contracts import Defence as Defence
    from .benchmark.contracts import Detector as Detector
    from .benchmark.contracts import Generated as Generated
    from .benchmark.contracts import Measure as Measure
    from .benchmark.contracts import Model as Model
    from .benchmark.contracts import ModelSpec as ModelSpec
    from .benchmark.contracts import Neighbours as Neighbours
    from .benchmark.contracts import OracleModel as OracleModel
    from .benchmark.contracts import PromptedModel as PromptedModel
    from .benchmark.contracts import QueriedModel as QueriedModel
    from .benchmark.contracts import Settings as Settings
    from .benchmark.contracts import Step as Step
    from .benchmark.contracts import TrainableModel as TrainableModel
    from .benchmark.contracts import VictimFacts as VictimFacts
    from .benchmark.contracts import WhiteBoxModel as WhiteBoxModel
    from .benchmark.data.pair import Pair as Pair
    from .benchmark.data.pair import load_pair as load_pair
    from .benchmark.data.references import References as References
    from .benchmark.data.references import load_references as load_references
    from .benchmark.errors import BadInput as BadInput
    from .benchmark.errors import BadSetting as BadSetting
    from .benchmark.errors import SidebenchError as SidebenchError
    from .benchmark.errors import TooFew as TooFew
    from .benchmark.errors import UnknownName as UnknownName
    from .benchmark.measures.metrics import AverageMemorizationScore as AverageMemorizationScore
    from .benchmark.measures.metrics import UniqueBestMatchScore as UniqueBestMatchScore
    from .benchmark.measures.metrics import UniqueMemorizationScore as UniqueMemorizationScore
    from .benchmark.models import load_model as load_model
    from .benchmark.models.pair_from_names import pair_of as pair_of
    from .benchmark.models.torch_module import from_torch as from_torch
    from .benchmark.reports.compare.compare_runs import compare_runs as compare_runs
    from .benchmark.reports.page import write_report as write_report
    from .benchmark.reports.screen import first_screen as first_screen
    from .benchmark.results.rescore import rescore as rescore
    from .benchmark.results.run_folder import RunFolder as RunFolder
    from .benchmark.results.run_folder import read_run as read_run
    from .benchmark.results.schema import Metrics as Metrics
    from .benchmark.results.schema import load_metrics as load_metrics
    from .benchmark.runs.check_attack import NotConformant as NotConformant
    from .benchmark.runs.check_attack import check_attack as check_attack
    from .benchmark.runs.check_defence import check_defence as check_defence
    from .benchmark.runs.check_detector import check_detector as check_detector
    from .benchmark.runs.check_measure import check_measure as check_measure
    from .benchmark.runs.check_model import check_model as check_model
    from .benchmark.runs.plan import RunPlan as RunPlan
    from .benchmark.runs.plan import plan_run as plan_run
    from .benchmark.runs.runner import RunResult as RunResult
    from .benchmark.runs.runner import execute as execute
    from .benchmark.sampling.defended import DefendedModel as DefendedModel
    from .notebook.commands import ablate as ablate
    from .notebook.commands import compare as compare
    from .notebook.commands import gate as gate
    from .notebook.commands import leaderboard as leaderboard
    from .notebook.commands import run as run
    from .notebook.commands import show as show
    from .notebook.commands import tune as tune
else:
    # Hidden from type checkers: a module with `__getattr__` has every name for them, misspelt ones too.
    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
        import difflib

        close = difflib.get_close_matches(name, __all__, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        # With a name and no object, Python adds no second suggestion of its own.
        raise AttributeError(f"module 'sidebench' has no attribute {name!r}{hint}", name=name)


def __dir__() -> list[str]:
    return __all__
