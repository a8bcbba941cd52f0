"""sidebench: privacy evaluation of diffusion models.

The public Python API is the list below; each name is imported when it is first used, because torch
takes seconds and `sidebench --help` must not wait for it.

    from sidebench import load_pair, plan_run, execute

    plan = plan_run(load_pair("digits"), attacks=["carlini-uncond"], candidates=256)
    result = execute(plan)
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Ablation": "contracts",
    "Attack": "contracts",
    "AttackState": "contracts",
    "BlackBoxModel": "contracts",
    "Budget": "contracts",
    "Defence": "contracts",
    "DefendedModel": "sampling.defended",
    "Generated": "contracts",
    "Measure": "contracts",
    "Model": "contracts",
    "ModelSpec": "contracts",
    "OracleModel": "contracts",
    "Settings": "contracts",
    "Step": "contracts",
    "Victim": "contracts",
    "WhiteBoxModel": "contracts",
    "Candidates": "candidates",
    "BadInput": "errors",
    "SidebenchError": "errors",
    "Pair": "data.pair",
    "load_pair": "data.pair",
    "load_references": "data.references",
    "load_model": "models",
    "check_attack": "runs.check_attack",
    "check_defence": "runs.check_defence",
    "check_measure": "runs.check_measure",
    "plan_run": "runs.plan",
    "execute": "runs.runner",
    "read_run": "results.run_folder",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sidebench' has no attribute {name!r}")
    return getattr(importlib.import_module(f".benchmark.{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
