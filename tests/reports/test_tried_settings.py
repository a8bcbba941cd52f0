"""A comparison gives away settings that were tried under its seeds, and no rate of what was not removed."""

from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.files import write_json
from sidebench.benchmark.reports.compare.schema import (
    SCHEMA,
    ComparedRun,
    Comparing,
    Leak,
    Price,
    leak_per_quality_rows,
)
from sidebench.benchmark.reports.compare.tried_settings import other_settings
from sidebench.benchmark.results.run_folder import RunFolder


def run(parent: Path, name: str, defences: dict[str, Any], seed: int = 1, model: str = "a") -> RunFolder:
    """Write a manifest, which is all that is read."""
    identity = {"model": {"sha256": {"weights": model}}, "defences": defences}
    manifest = {"identity": identity, "units": {f"side.s{seed}": {"attack": "side", "seed": seed}}}
    write_json(parent / name / "manifest.json", manifest)
    return RunFolder(parent / name)


def test_other_settings_under_the_same_seed_are_told(tmp_path: Path) -> None:
    """Whoever reports the best of several strengths is given away by the runs beside it."""
    chosen = run(tmp_path, "chosen", {"veil": {"strength": 3, "kind": "a"}})
    tried = run(tmp_path, "tried", {"veil": {"strength": 1, "kind": "a"}})
    run(tmp_path, "same", {"veil": {"strength": 3, "kind": "a"}, "other": {}})
    run(tmp_path, "plain", {})
    run(tmp_path, "other seed", {"veil": {"strength": 9, "kind": "a"}}, seed=7)
    run(tmp_path, "other victim", {"veil": {"strength": 9, "kind": "a"}}, model="b")
    for name, content in (("broken", "{"), ("foreign", "[1]"), ("strange", '{"identity": 3}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(content, encoding="utf-8")
    (words,) = other_settings(chosen, [chosen])
    assert words.startswith("veil was also run with strength = 1 under seed 1 (tried): if its settings were chosen by")
    assert not other_settings(chosen, [chosen, tried]), "a sweep that is shown whole misleads nobody"


def leak(change: float, verdict: str) -> Leak:
    nothing = {"value": 0.0, "low": 0.0, "high": 0.0}
    return Leak(
        run="veil",
        attack="side",
        against="side",
        settings="",
        yardstick="nl2c:n50:a0.5, high",
        space="pixels",
        candidates=64,
        paired=True,
        before=nothing,
        after=nothing,
        change={**nothing, "value": change},
        p=0.01,
        verdict=verdict,
    )


def price(run: str, distance: float | None) -> Price:
    unknown = {key: None for key, field in Price.model_fields.items() if field.annotation == float | None}
    known = {"run": run, "attack": "side", "features": "pixels", "frechet_distance": distance, "seconds": 1.0}
    return Price.model_validate({**unknown, **known})


@pytest.mark.parametrize(
    ("change", "verdict", "distance", "shown"),
    [
        (-0.1, "leaks less", 0.35, ("10.00", "+0.050", "20.00")),
        (-0.1, "leaks less", 0.25, ("10.00", "-0.050", "no distance added")),
        (-0.1, "leaks less", None, ("10.00", "-", "-")),
        (-0.01, "no difference seen", 0.35, ("1.00", "+0.050", "none removed")),
        (1e-9, "no difference seen", 0.35, ("0.00", "+0.050", "none removed")),
        (0.1, "leaks more", 0.35, ("-10.00", "+0.050", "none removed")),
    ],
)
def test_leak_per_quality_is_a_rate_only_where_the_leak_fell(
    change: float, verdict: str, distance: float | None, shown: tuple[str, str, str]
) -> None:
    found = Comparing(
        schema=SCHEMA,
        baseline="no defence",
        runs=[
            ComparedRun(label=name, run_id=name, pair="digits", defences={}, candidates=64, marks=[])
            for name in ("no defence", "veil")
        ],
        leaks=[leak(change, verdict)],
        prices=[price("no defence", 0.3), price("veil", distance)],
        real={"frechet_distance": 0.2},
        flags=[],
    )
    (row,) = leak_per_quality_rows(found)
    assert (row["points removed"], row["added"], row["points per 0.1 added"]) == shown
