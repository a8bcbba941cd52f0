"""The report in a real browser: it asks for nothing, runs nothing, complains of nothing."""

import http.server
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidebench.benchmark.report import write_report
from sidebench.benchmark.store import RunFolder, read_json, write_json

QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is missing, and this test must run in CI")
        pytest.skip("chromium is not installed")
    return found


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """Serve on loopback; return the address and the list of paths that were asked for."""
    paths: list[str] = []

    class Noting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Noting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", paths
        server.shutdown()
        thread.join()


def test_page_asks_for_nothing_and_names_stay_text(
    chromium: str, asked: tuple[str, list[str]], copied: Path, tmp_path: Path
) -> None:
    address, paths = asked
    hostile = f"<img src='{address}/image' onerror='document.title=1'><script>document.title = 'run'</script>"
    metrics = read_json(copied / "metrics.json")
    write_json(copied / "metrics.json", {**metrics, "pair": hostile, "flags": [hostile], "protocol": hostile})
    write_json(copied / "manifest.json", {**read_json(copied / "manifest.json"), "note": hostile})
    page = tmp_path / "page.html"
    write_report(RunFolder(copied), page, with_images=True)
    done = subprocess.run(
        [chromium, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("&lt;img src=") >= 4 and "<script" not in done.stdout
    assert "<title>&lt;img" in done.stdout
    assert done.stdout.count("<img") == done.stdout.count("<img alt=") > 12
    assert "CONSOLE" not in done.stderr, done.stderr
    assert paths == []
