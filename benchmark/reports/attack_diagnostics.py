"""What an attack's own preparation says of itself, read from the JSON of its stored state.

A state may hold any values. The ones that a report knows, whoever wrote them: `cohesions` (of all clusters),
`sizes` (of those that are left), `classes`, `queries` (prompts that were sent), `training` (figures by name) and
`by_timestep` (rows with `t`, `accuracy`, `confidence`, `calibration_error`, and perhaps `closed_form`: the accuracy of
the classifier that needs no training). Values that are no such thing are left out, not guessed at.
"""

import math
from collections.abc import Sequence
from typing import Any

from ..files import read_info
from ..results.run_folder import RunFolder

_ROW = ("t", "accuracy", "confidence", "calibration_error")


def read(folder: RunFolder, unit: str) -> dict[str, Any]:
    """Return what a unit's state says, of the keys above; empty where it says nothing."""
    info = read_info(folder.state_file(unit)).get("state")
    if not isinstance(info, dict):
        return {}
    found: dict[str, Any] = {key: info[key] for key in ("cohesions", "sizes") if _numbers(info.get(key))}
    if _number(info.get("classes")) and info["classes"] > 0:
        found["classes"] = int(info["classes"])
    if _number(info.get("queries")) and info["queries"] > 0:
        found["queries"] = int(info["queries"])
    if isinstance(info.get("training"), dict):
        found["training"] = {str(key): value for key, value in info["training"].items() if _number(value)}
    rows = info.get("by_timestep")
    if isinstance(rows, list) and rows and all(isinstance(row, dict) and _row(row) for row in rows):
        known = (*_ROW, "closed_form") if all(_number(row.get("closed_form")) for row in rows) else _ROW
        found["by_timestep"] = [{key: row[key] for key in known} for row in rows]
    return found


def table_rows(units: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Return one row per unit whose state says something; `units` has by label what `read` found.

    Queries have a column where an attack sends prompts.
    """
    rows, asking = [], any("queries" in info for info in units.values())
    for unit, info in units.items():
        if not info:
            continue
        rows.append(
            {
                "attack": unit,
                "clusters left": _left(info),
                "median cohesion": _median(info.get("cohesions", [])),
                "largest cluster": f"{max(info['sizes']):,}" if info.get("sizes") else "-",
                **({"queries": f"{info['queries']:,}" if info.get("queries") else "-"} if asking else {}),
                "training loss": _figure(info, "loss"),
                "training accuracy, %": _figure(info, "accuracy", 100),
                "right on clean images, %": _clean(info, "accuracy"),
                "right over all t, %": _over_t(info, "accuracy"),
                "closed form over all t, %": _over_t(info, "closed_form"),
                "sure on clean images, %": _clean(info, "confidence"),
            }
        )
    return rows


def _left(info: dict[str, Any]) -> str:
    if not info.get("sizes"):
        return "-"
    total = f" of {len(info['cohesions'])}" if info.get("cohesions") else ""
    return f"{len(info['sizes'])}{total}"


def _median(values: Sequence[float]) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    middle = len(ordered) // 2
    return f"{(ordered[middle] + ordered[~middle]) / 2:z.2f}"


def _figure(info: dict[str, Any], key: str, factor: float = 1) -> str:
    value = info.get("training", {}).get(key)
    return "-" if value is None else f"{factor * value:z.2f}"


def _clean(info: dict[str, Any], key: str) -> str:
    rows = info.get("by_timestep")
    return f"{100 * rows[0][key]:z.1f}" if rows else "-"


def _over_t(info: dict[str, Any], key: str) -> str:
    """Return the mean over the timesteps, from clean images to pure noise."""
    values = [row[key] for row in info.get("by_timestep", []) if key in row]
    return f"{100 * sum(values) / len(values):z.1f}" if values else "-"


def _row(row: dict[str, Any]) -> bool:
    return all(_number(row.get(key)) for key in _ROW)


def _numbers(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(_number(value) for value in values)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
