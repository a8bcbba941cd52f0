"""The published schemas say what records hold: the current one is the models' own, shipped records fit theirs."""

import json
from pathlib import Path
from typing import Any

import pytest

from sidebench.leaderboards import schema
from sidebench.leaderboards.read_records import UPGRADES, record_files
from sidebench.leaderboards.record import SCHEMA

RECORDS = Path(__file__).resolve().parents[2] / "leaderboards" / "records"


def published(version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((schema.FOLDER / schema.file_name(version)).read_text(encoding="utf-8"))
    return found


def misfits(value: Any, rule: dict[str, Any], defs: dict[str, Any], field: str = "") -> list[str]:
    """Return the fields that a schema does not know, and those that it wants and misses."""
    if "$ref" in rule:
        rule = defs[rule["$ref"].removeprefix("#/$defs/")]
    if "anyOf" in rule:
        kept = [one for one in rule["anyOf"] if (one.get("type") == "null") == (value is None)]
        return misfits(value, kept[0], defs, field) if kept else [field]
    if "const" in rule:
        return [] if value == rule["const"] else [field]
    found = []
    if isinstance(value, dict) and "properties" in rule:
        found += [
            f"{field}.{key}" for key in set(rule.get("required", [])) ^ set(value) if key not in rule["properties"]
        ]
        found += [f"{field}.{key}" for key in rule.get("required", []) if key not in value]
        for key, own in value.items():
            found += misfits(own, rule["properties"].get(key, {}), defs, f"{field}.{key}")
    elif isinstance(value, dict) and isinstance(rule.get("additionalProperties"), dict):
        for key, own in value.items():
            found += misfits(own, rule["additionalProperties"], defs, f"{field}.{key}")
    elif isinstance(value, list):
        for place, own in enumerate(value):
            found += misfits(own, rule.get("items", {}), defs, f"{field}.{place}")
    return found


@pytest.mark.parametrize("name", schema.current())
def test_the_schema_of_this_version_is_published(name: str) -> None:
    again = "from sidebench.leaderboards import schema; schema.publish()"
    stored = (schema.FOLDER / name).read_text(encoding="utf-8")
    assert stored == schema.current()[name], f"fields have changed: raise the version, then python -c '{again}'"


def test_every_version_that_can_be_read_is_published() -> None:
    for version in (SCHEMA, *UPGRADES):
        found = published(version)
        assert found["$id"] == found["properties"]["schema"]["const"] == version
        assert "schema" in found["required"] and not found["additionalProperties"]


def test_every_shipped_record_fits_the_schema_that_it_names() -> None:
    for file in record_files(RECORDS):
        content = json.loads(file.read_text(encoding="utf-8"))
        rule = published(content["schema"])
        assert misfits(content, rule, rule["$defs"]) == [], file.name
        del content["victim"]["identity"]
        assert misfits({**content, "rank": 1}, rule, rule["$defs"]) == [".rank", ".victim.identity"]
