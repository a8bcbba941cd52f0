"""Build the pages and the API reference with mkdocs, warnings as errors.

The API reference is read from the source without importing it, the page of commands from the commands themselves. The
repository root is the package, whatever the checkout is called, so it is shown to mkdocs under the package's name.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Build the site into build/site and return the exit code of mkdocs."""
    with tempfile.TemporaryDirectory() as parent:
        (Path(parent) / "sidebench").symlink_to(ROOT, target_is_directory=True)
        # Not --quiet: warnings that are not logged are not counted, and --strict lets them pass.
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml"]
        # Search is built in: what looks for newer versions, or warns of them, has no place in a build.
        environment = {**os.environ, "SIDEBENCH_PARENT": parent, "PYTHONPATH": parent, "NO_MKDOCS_2_WARNING": "1"}
        return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
