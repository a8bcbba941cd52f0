"""The report in a real browser: it asks for nothing, runs nothing, complains of nothing."""

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark.files import read_json, write_json
from sidebench.benchmark.reports.compare import page as compared_page
from sidebench.benchmark.reports.compare.compare_runs import compare_runs
from sidebench.benchmark.reports.page import write_report
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.sums import sealed

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
        pytest.fail("these tests need a real browser: apt-get install chromium")
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


def dump(chromium: str, page: Path, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Open a page and return its document as the browser sees it once it has loaded."""
    done = subprocess.run(
        [chromium, *QUIET, *options, f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_page_asks_for_nothing_and_names_stay_text(
    chromium: str, asked: tuple[str, list[str]], copied: Path, tmp_path: Path
) -> None:
    address, paths = asked
    hostile = f"<img src='{address}/image' onerror='document.title=1'><script>document.title = 'run'</script>"
    metrics = read_json(copied / "metrics.json")
    with sealed(RunFolder(copied)):
        write_json(copied / "metrics.json", {**metrics, "pair": hostile, "flags": [hostile], "protocol": hostile})
    write_json(copied / "manifest.json", {**read_json(copied / "manifest.json"), "note": hostile})
    page = tmp_path / "page.html"
    write_report(RunFolder(copied), page, with_images=True)
    done = dump(chromium, page, tmp_path)
    assert done.stdout.count("&lt;img src=") >= 4 and "<script" not in done.stdout
    assert "<title>&lt;img" in done.stdout
    assert done.stdout.count("<img") == done.stdout.count("<img alt=") > 12
    assert "CONSOLE" not in done.stderr, done.stderr
    assert paths == []


FRAME = """<!doctype html>
<p id="found"></p>
<script>
function measure(frame) {{
  const inner = frame.contentDocument, root = inner.documentElement;
  inner.querySelectorAll("details").forEach(part => {{ part.open = true; }});
  const letters = [...inner.querySelectorAll("svg text")].map(text => parseFloat(getComputedStyle(text).fontSize)
    * text.ownerSVGElement.getBoundingClientRect().width / text.ownerSVGElement.viewBox.baseVal.width);
  document.getElementById("found").textContent =
    `width ${{root.scrollWidth}} of ${{root.clientWidth}}, letters of ${{Math.min(...letters).toFixed(1)}} pixels`;
}}
</script>
<iframe src="{page}" onload="measure(this)" style="width: 390px; height: 800px; border: 0"></iframe>"""


def test_comparison_asks_for_nothing_and_names_stay_text(
    chromium: str, asked: tuple[str, list[str]], finished: Any, copied: Path, tmp_path: Path
) -> None:
    address, paths = asked
    hostile = f"<img src='{address}/image' onerror='document.title=1'><script>document.title = 'run'</script>"
    manifest = read_json(copied / "manifest.json")
    manifest["identity"]["defences"] = {hostile: {hostile: hostile}}
    write_json(copied / "manifest.json", manifest)
    folders, page = [finished.folder, RunFolder(copied)], tmp_path / "page.html"
    compared_page.write_page(compare_runs(folders), folders, page, with_images=True)
    done = dump(chromium, page, tmp_path)
    assert done.stdout.count("&lt;img src=") >= 4 and "<script" not in done.stdout
    assert done.stdout.count("<img") == done.stdout.count("<img alt=") > 12
    assert "CONSOLE" not in done.stderr, done.stderr
    assert paths == []


@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_page_fits_a_phone(chromium: str, finished: Any, copied: Path, tmp_path: Path, kind: str) -> None:
    page, frame = tmp_path / "page.html", tmp_path / "frame.html"
    if kind == "report":
        write_report(finished.folder, page, with_images=True)
    else:
        folders = [finished.folder, RunFolder(copied)]
        compared_page.write_page(compare_runs(folders), folders, page, with_images=True)
    frame.write_text(FRAME.format(page=page.as_uri()), encoding="utf-8")
    done = dump(chromium, frame, tmp_path, "--allow-file-access-from-files")
    found = re.search(r"width (\d+) of (\d+), letters of ([\d.]+) pixels", done.stdout)
    assert found is not None, done.stderr
    assert int(found[1]) == int(found[2]) <= 390 and float(found[3]) >= 8, found[0]
