"""Write the table of pipeline classes in docs/pairs.md: python docs/pipelines.py

It lists every pipeline class of the installed diffusers: what works, by sidebench's own registry, and why the others
are refused, in the words of the message that a user gets.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import diffusers

from sidebench.benchmark.data.pipeline_folder import FAMILIES
from sidebench.benchmark.data.pipeline_reasons import pipeline_classes, why_not

PAGE = Path(__file__).parent / "pairs.md"
BEGIN, END = "<!-- pipelines: begin (python docs/pipelines.py) -->", "<!-- pipelines: end -->"


def table() -> str:
    """Return the table: a row for each family and for each reason, with the classes that it holds."""
    answers: dict[str, list[str]] = {f"works: {family}": [] for family in dict.fromkeys(FAMILIES.values())}
    classes = sorted({*pipeline_classes(dir(diffusers)), *FAMILIES})
    for name in classes:
        answer = f"works: {FAMILIES[name]}" if name in FAMILIES else f"refused: {why_not(name)}"
        answers.setdefault(answer, []).append(name)
    rows = ["| answer | pipeline classes |", "| --- | --- |"]
    rows += [f"| {answer} | {', '.join(names)} |" for answer, names in answers.items() if names]
    return "\n".join([f"The {len(classes)} classes of diffusers {version('diffusers')}:", "", *rows])


def page(text: str) -> str:
    """Return the page with the table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Write the page; with --check, say whether it is what would be written."""
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        return int(page(text) != text)
    PAGE.write_text(page(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
