"""`sidebench new`: a package with one plug-in (attack, defence, detector, measure, model), its test and its page"""

import importlib.util
import keyword
import re
import sys
from pathlib import Path

from ..errors import BadInput, UnknownName
from ..registry import KINDS, names
from ..reports.templates import environment

FOLDER = Path(__file__).parent / "skeletons"


def write_skeleton(kind: str, name: str, target: Path) -> list[Path]:
    """Write the package into a new folder and return its files.

    Raises:
        UnknownName: there is no such kind.
        BadInput: the name cannot be used, or the folder exists.
    """
    known = [each for each in KINDS.values() if (FOLDER / f"{each}.py.j2").is_file()]
    if kind not in known:
        raise UnknownName("kind", kind, known)
    module = _module(kind, name)
    if target.exists():
        raise BadInput(f"{target} exists already; choose another with --out")
    skeletons = environment(FOLDER, autoescape=False, keep_trailing_newline=True)
    # A model is a function that makes one.
    cls = module if kind == "model" else "".join(part.capitalize() for part in name.split("-"))
    files = {
        "pyproject.toml": "pyproject.toml.j2",
        f"{module}.py": f"{kind}.py.j2",
        f"test_{module}.py": "test.py.j2",
        "README.md": "README.md.j2",
    }
    pages = {
        file: skeletons.get_template(template).render(kind=kind, name=name, module=module, cls=cls)
        for file, template in files.items()
    }
    try:
        target.mkdir(parents=True)
        for file, text in pages.items():
            (target / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write to {target}: {error.strerror}; choose another with --out") from None
    return [target / file for file in pages]


def _module(kind: str, name: str) -> str:
    """Return the module's name for a plug-in's name; one that would hide another module is refused."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise BadInput(f"{kind} {name!r}: a name is lower-case letters, digits and single hyphens, a letter first")
    if any(name in names(taken) for taken in KINDS.values()):
        raise BadInput(f"{name!r} is registered already; choose another name")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or importlib.util.find_spec(module):
        raise BadInput(f"{name!r}: a Python module of this name exists; choose another name")
    return module
