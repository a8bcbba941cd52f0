"""What fills the templates of every page, text and new plug-in."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


@functools.cache
def environment(*folders: Path, **options: Any) -> "Environment":
    """Return a Jinja environment in which every value is escaped as HTML, unless `autoescape=False` is given.

    The same arguments get the same environment, which parses each template once.

    Args:
        folders: Where templates are looked for first; those of the reports and of the comparison come last.
        options: Of `jinja2.Environment`, over the ones that all templates share.
    """
    from jinja2 import Environment, FileSystemLoader

    here = Path(__file__).parent
    shared = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=FileSystemLoader([*folders, here, here / "compare"]), **{**shared, **options})
