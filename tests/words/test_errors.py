"""One line for what pydantic refuses."""

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sidebench.benchmark.errors import Problem, first_problem


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    low: int
    high: int = Field(5, le=9)

    @model_validator(mode="after")
    def ordered(self) -> "Inner":
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class Outer(BaseModel):
    parts: list[Inner]


@pytest.mark.parametrize(
    ("content", "wanted", "line"),
    [
        (
            {"low": 1, "high": 10},
            Problem("high", "Input should be less than or equal to 9", 10, False),
            "file, high: Input should be less than or equal to 9",
        ),
        ({"low": 7}, Problem("", "low is above high", {"low": 7}, False), "file: low is above high"),
        (
            {"lo": 1},
            Problem("lo", "no such key", 1, True),
            "file, lo: no such key",
        ),
    ],
)
def test_the_first_problem_is_named(content: dict[str, int], wanted: Problem, line: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Inner.model_validate(content)
    assert first_problem(raised.value) == wanted and wanted.of("file") == line


def test_a_mistyped_key_is_hinted_at_where_the_model_is_known() -> None:
    for model, content, wanted in (
        (Inner, {"hgh": 1}, "hgh: no such key; did you mean high?"),
        (Outer, {"parts": [{"lw": 1}]}, "parts.0.lw: no such key; did you mean low?"),
        (Inner, {"zzz": 1}, "zzz: no such key"),
    ):
        with pytest.raises(ValidationError) as raised:
            model.model_validate(content)
        assert first_problem(raised.value, model).of("file") == f"file, {wanted}"


def test_the_place_inside_is_a_dotted_key() -> None:
    with pytest.raises(ValidationError) as raised:
        Outer.model_validate({"parts": [{"low": 1}, {"low": "x"}]})
    assert first_problem(raised.value).key == "parts.1.low"
