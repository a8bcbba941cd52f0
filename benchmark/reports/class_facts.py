"""What a class says of itself in plain strings, read from its source without importing it."""

import ast
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def class_facts(origin: str) -> dict[str, str]:
    """Return the string attributes of a class, those of its bases in the same file included.

    An import of every plug-in would take seconds and run code that nobody asked for. What is no plain string, and what
    a base elsewhere says, is left out; where the source cannot be found, everything.

    Args:
        origin: `module:Class`, as an entry point has it.

    Examples:
        >>> found = class_facts("sidebench.methods.side:Side")
        >>> found["access"], found["paper"]
        ('white box', 'arXiv 2410.02467')
    """
    module, _, name = origin.partition(":")
    file = _source(module)
    if file is None:
        return {}
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    return _of(name, classes)


def _source(module: str) -> Path | None:
    """Return the file of a module, found by its top package alone, which is not imported either."""
    top, *rest = module.split(".")
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(top)
        if spec is None or spec.origin is None:
            return None
        if not rest:
            return Path(spec.origin)
        for folder in spec.submodule_search_locations or ():
            place = Path(folder, *rest)
            for file in (place.with_suffix(".py"), place / "__init__.py"):
                if file.is_file():
                    return file
    return None


def _of(name: str, classes: dict[str, ast.ClassDef]) -> dict[str, str]:
    node = classes.get(name)
    if node is None:
        return {}
    others = {known: each for known, each in classes.items() if known != name}
    found: dict[str, str] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name):
            found |= _of(base.id, others)
    return found | {key: value for statement in node.body for key, value in _assigned(statement)}


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield the names that a statement gives a string to."""
    pairs: list[tuple[ast.expr, ast.expr | None]] = []
    if isinstance(statement, ast.AnnAssign):
        pairs = [(statement.target, statement.value)]
    elif isinstance(statement, ast.Assign):
        pairs = [(target, statement.value) for target in statement.targets]
    for target, value in pairs:
        both: list[tuple[ast.expr, ast.expr | None]] = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            both = list(zip(target.elts, value.elts, strict=False))
        for key, text in both:
            if isinstance(key, ast.Name) and isinstance(text, ast.Constant) and isinstance(text.value, str):
                yield key.id, text.value
