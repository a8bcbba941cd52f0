"""The published schemas: JSON Schema of records, badges and owners, one file per version, in schemas/.

The files of versions that are no longer written stay as they were, since records of them are still read.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from . import detection_record, owners
from .badge import DETECTION_SCHEMA, Checked, CheckedDetection
from .detection_record import DetectionRecord
from .record import SCHEMA, Record

FOLDER = Path(__file__).parent / "schemas"

DIALECT = "https://json-schema.org/draft/2020-12/schema"


_PUBLISHED = {"Estimate": ("Difference", "A difference or ratio of two rates, with its interval.")}
"""The published name and description of a class that was renamed since; the file of a version never changes."""


def file_name(version: str) -> str:
    """Return the file of a version: `sidebench-record-3.json` of `sidebench-record/3`."""
    return f"{version.replace('/', '-')}.json"


def current() -> dict[str, str]:
    """Return the text of each schema that this version writes, by file name."""
    badge = "sidebench-challenge/1"
    return {
        file_name(SCHEMA): text(Record, SCHEMA),
        file_name(detection_record.SCHEMA): text(DetectionRecord, detection_record.SCHEMA),
        file_name(badge): text(Checked, badge),
        file_name(DETECTION_SCHEMA): text(CheckedDetection, DETECTION_SCHEMA),
        file_name(owners.SCHEMA): text(owners.Owners, owners.SCHEMA),
    }


def text(model: type[BaseModel], version: str) -> str:
    """Return the JSON Schema of a model, whose field `schema` must hold this version."""
    found = _as_published(model.model_json_schema(by_alias=True))
    found["properties"]["schema"] = {"const": version, "description": "name and version of this schema"}
    found["required"] = sorted({*found["required"], "schema"})
    return json.dumps({"$schema": DIALECT, "$id": version, **found}, indent=1, sort_keys=True) + "\n"


def _as_published(found: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON Schema in which classes are called what they were when this version was published."""
    for name, (before, description) in _PUBLISHED.items():
        found = json.loads(json.dumps(found).replace(f'"#/$defs/{name}"', f'"#/$defs/{before}"'))
        defs = found.get("$defs", {})
        if name in defs:
            defs[before] = {**defs.pop(name), "title": before, "description": description}
    return found


def publish() -> None:
    """Write the schemas of this version into schemas/ of the source tree."""
    for name, content in current().items():
        (FOLDER / name).write_text(content, encoding="utf-8", newline="\n")
