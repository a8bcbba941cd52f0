"""The curve behind a record's settings: taken from what `sidebench tune` stored, for the right attack and pair only."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.errors import BadInput
from sidebench.benchmark.results.tuning_curve import SCHEMA, Curve, TriedPoint
from sidebench.leaderboards.check import check_record
from sidebench.leaderboards.read_records import parse_record
from sidebench.leaderboards.record import Record
from sidebench.leaderboards.record_tuning import with_tunings


@pytest.fixture
def stored(real_records: list[Record], tmp_path: Path) -> dict[str, Any]:
    """Return the content of a curve of side, six points."""
    side = real_records[2]
    band = side.headline(0).bands[0]
    points = [
        TriedPoint(values={"training_steps": steps, "guidance_scale": scale}, result=band)
        for steps in (3, 30)
        for scale in (0.1, 0.3, 1.0)
    ]
    curve = Curve(attack="side", measure=side.measure, candidates=40, points=points)
    return {"schema": SCHEMA, "plan": {"pair": side.victim.identity}, "curve": curve.model_dump(mode="json")}


def written(content: Any, tmp_path: Path) -> Path:
    file = tmp_path / "side.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


def test_a_curve_goes_to_the_record_of_its_attack(
    real_records: list[Record], stored: dict[str, Any], tmp_path: Path
) -> None:
    made = with_tunings(real_records, [written(stored, tmp_path)])
    assert [record.tuning is not None for record in made] == [False, False, True]
    tuning = made[2].tuning
    assert tuning is not None and len(tuning.points) == 6 and tuning.candidates == 40
    assert tuning.points[1].values == {"training_steps": 3, "guidance_scale": 0.3}
    assert tuning.points[1].excess == real_records[2].headline(0).bands[0].excess
    assert not check_record(made[2])
    assert parse_record(json.loads(made[2].text()), "x") == made[2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "x"}, "is not a curve of `sidebench tune`"),
        ({"curve": {}}, "holds no complete curve"),
        ({"plan": {}}, "holds no complete curve"),
        ({"plan": {"pair": "0" * 64}}, "tuning on another pair than digits"),
    ],
)
def test_another_file_is_refused(
    real_records: list[Record], stored: dict[str, Any], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        with_tunings(real_records, [written({**stored, **change}, tmp_path)])
    with pytest.raises(BadInput, match="side, of which this run has no record"):
        with_tunings(real_records[:2], [written(stored, tmp_path)])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("tuning.points.1.values", {"values": {"training_steps": 3}}),
        ("tuning.points.1.values", {"values": {"training_steps": 3, "no_setting": 1}}),
        ("tuning.points.1.excess", {"excess": {"value": 0.5, "low": 0.6, "high": 0.7}}),
        ("tuning.points.1.excess", {"excess": {"value": 0.5, "low": 0.4, "high": 1.7}}),
    ],
)
def test_a_tampered_curve_is_named(
    real_records: list[Record], stored: dict[str, Any], tmp_path: Path, field: str, change: dict[str, Any]
) -> None:
    record = with_tunings(real_records, [written(stored, tmp_path)])[2]
    content = json.loads(record.text())
    content["tuning"]["points"][1].update(change)
    assert field in [name for name, _ in check_record(parse_record(content, "x"))]
