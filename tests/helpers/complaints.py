"""What a command complains of."""

import re


def complaints(err: str) -> list[str]:
    """Return the lines of stderr, without the one that asks for patience and without progress."""
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("loading ")]
    return [line for line in lines if not re.match(r"\S+\.s\d+: [\w -]+: [\d,]+( of [\d,]+|$)", line)]
