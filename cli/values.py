"""Values on the command line: ATTACK.KEY=VALUE of `--set`, KEY=V1,V2 of `--try`."""

from typing import Any

from ..benchmark.errors import BadInput, BadSetting
from ..benchmark.files import parse_yaml


def settings(assignments: list[str] | None) -> dict[str, dict[str, Any]]:
    """Parse `attack.key=value`; the value is read as YAML, so numbers are numbers.

    Raises:
        BadSetting: it is written in another way.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in assignments or []:
        target, equals, value = text.partition("=")
        attack, dot, key = target.rpartition(".")
        if not (equals and dot and attack and key):
            raise BadSetting(f"--set {text!r}: write it as ATTACK.KEY=VALUE")
        found.setdefault(attack, {})[key] = _value("--set", text, value)
    return found


def grid(choices: list[str] | None) -> dict[str, list[Any]]:
    """Parse `key=v1,v2,...` into the values to try by setting.

    Raises:
        BadSetting: it is written in another way.
    """
    found: dict[str, list[Any]] = {}
    for text in choices or []:
        key, equals, values = text.partition("=")
        if not (equals and key and values.strip(", ")):
            raise BadSetting(f"--try {text!r}: write it as KEY=V1,V2,...")
        found[key] = [_value("--try", text, value) for value in values.split(",") if value.strip()]
    return found


def _value(option: str, text: str, value: str) -> Any:
    try:
        return parse_yaml(value, "the value")
    except BadInput as error:
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise BadSetting(f"{option} {shown!r}: {value[:40]!r} cannot be read: {error}") from None
