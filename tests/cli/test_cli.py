"""The command: exit codes, one line per error, and what goes to stdout."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidebench import __version__
from sidebench.benchmark.data.pair import FOLDER
from sidebench.benchmark.runs import runner

Call = Callable[..., tuple[int, str, str]]

ATTACKS = """
from sidebench import Attack, Generated


class Mine(Attack):
    name, title, paper, access = "mine", "mine", "none", "samples"

    def generate(self, model, state, candidates):
        raise ValueError("out of luck")


class Other:
    pass
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_pair_file: Callable[..., Path]) -> Path:
    """Work in a folder with the pair file tiny.yaml, a file of attacks and a regular file."""
    make_pair_file(tmp_path)
    (tmp_path / "attacks.py").write_text(ATTACKS, encoding="utf-8")
    (tmp_path / "regular").write_text("a file", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaints(err: str) -> list[str]:
    """Return the lines of stderr, without the one that asks for patience and without progress."""
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith("loading ")]
    return [line for line in lines if not re.match(r"\S+\.s\d+: [\w -]+: [\d,]+ of [\d,]+", line)]


REFUSED = {
    "run digit": ["unknown pair 'digit'", "digits or digits-clean"],
    "run digits digit": ["unknown pair 'digit'"],
    "run digits --attack sid": ["unknown attack 'sid'", "did you mean side or side-walk?"],
    "run digits --attack zzzzz": ["unknown attack 'zzzzz'", "carlini-uncond"],
    "run digits --colour 1": ["--colour"],
    "run digits --set side.cluster=3": ["unknown setting of side 'cluster'", "did you mean clusters?"],
    "run digits --measure nl3:n50": ["unknown measure 'nl3'", "did you mean nl2"],
    "run digits --measure nl2:n50:q3": ["'nl2:n50:q3'", "unknown option 'q'"],
    "run digits --measure nl2:nx": ["'nl2:nx'"],
    "run digits --measure nl2:n0": ["n must be at least 1"],
    "run digits --measure rms:4": ["takes no options"],
    "run digits --measure nl2:n500": ["nl2:n500:a0.5", "256 images"],
    "run tiny.yaml --candidates 4 --measure nl2:n60": ["n60", "50"],
    "run digits-clean --measure nl2:n71": ["allow_dense_neighbours"],
    "run digits --tier quik": ["unknown tier 'quik'", "did you mean quick?"],
    "run digits --defence ghost": ["unknown defence 'ghost'"],
    "run digits --defense ghost": ["unknown defence 'ghost'"],
    "list pair": ["unknown kind 'pair'", "did you mean pairs?"],
    "show digit": ["'digit'", "did you mean digits"],
    "train digit": ["unknown pair 'digit'"],
    "bench digit": ["unknown pair 'digit'"],
    "run digits --candidates -1": ["candidates must be at least 1, was -1"],
    "run digits --candidates 0": ["candidates must be at least 1, was 0"],
    "run digits --candidates many": ["--candidates", "integer"],
    "run digits --candidates 1.5": ["--candidates", "integer"],
    "run digits --tier smoke --candidates 4": ["--tier or --candidates"],
    "run digits --seed -1": ["seed must not be negative, was -1"],
    "run digits --seed one": ["--seed", "integer"],
    "run digits --set clusters": ["'clusters'", "ATTACK.KEY=VALUE"],
    "run digits --set side.clusters": ["ATTACK.KEY=VALUE"],
    "run digits --set clusters=3": ["ATTACK.KEY=VALUE"],
    "run digits --set =3": ["ATTACK.KEY=VALUE"],
    "run digits --set side.clusters=[1": ["'[1' cannot be read"],
    "run digits --attack carlini-uncond --set side.clusters=3": ["'side', which is not run"],
    "run digits --set side.clusters=1": ["side.clusters = 1", "greater than or equal to 2"],
    "run digits --set side.clusters=many": ["side.clusters = 'many'", "integer"],
    "run digits --set side.clusters=2.5": ["side.clusters = 2.5"],
    "run digits --set side.learning_rate=.nan": ["side.learning_rate", "finite"],
    "run digits --set side.learning_rate=0": ["side.learning_rate", "greater than 0"],
    "run digits --set side.features=pixel": ["side.features = 'pixel'", "none of pixels, pca, network"],
    "run digits --set side.features=sscd": ["sscd", "sidebench fetch"],
    "run digits --set side.blocks=3": ["side.blocks = 3"],
    "run tiny.yaml --candidates 4 --set side.blocks=[]": ["side.blocks"],
    "run tiny.yaml --candidates 4 --set side.blocks=[0]": ["side.blocks"],
    "run tiny.yaml --candidates 4 --out regular/runs": ["cannot write to regular/runs", "--out"],
    "run tiny.yaml --candidates 4 --out regular": ["cannot write to regular", "--out"],
    "run missing.yaml": ["no such pair file: missing.yaml"],
    "run digits --device cuda:99": ["no device 'cuda:99'", "cpu"],
    "run digits --device toaster": ["no device 'toaster'"],
    "run digits --dtype float8": ["float8"],
    "report .": ["is no run folder"],
    "report missing": ["missing is no run folder"],
    "report regular": ["regular is no run folder"],
    "compare missing other": ["missing is no run folder"],
    "compare": ["RUN RUN"],
    "run digits --attack attacks.py:Missing": ["'Missing'", "attacks.py", "Mine"],
    "run digits --attack attacks.py:mine": ["did you mean Mine?"],
    "run digits --attack attacks.py:Other": ["attacks.py:Other"],
    "run digits --attack none.py:Mine": ["no such file: none.py"],
    "show attacks.py:Missing": ["'Missing'"],
    "train digits --out regular": ["regular exists already"],
    "run": ["PAIR"],
    "nosuch": ["nosuch"],
}


@pytest.mark.parametrize("arguments", REFUSED)
def test_wrong_use_is_one_line_and_code_2(arguments: str, here: Path, call: Call) -> None:
    before = sorted(here.rglob("*"))
    code, out, err = call(*arguments.split())
    assert (code, out) == (2, "")
    (line,) = complaints(err)
    assert line.startswith("sidebench: ")
    for words in REFUSED[arguments]:
        assert words in line
    assert [path for path in sorted(here.rglob("*")) if "__pycache__" not in path.parts] == before


@pytest.mark.parametrize("arguments", ["run", "nosuch", "run digits --candidates x"])
def test_nothing_heavy_is_loaded_for_a_typing_error(arguments: str, call: Call) -> None:
    assert "loading" not in call(*arguments.split())[2]


def test_no_arguments_print_the_help(call: Call) -> None:
    _, out, err = call()
    assert "Usage:" in out + err and "\n" in (out + err).strip()
    assert "sidebench: Usage" not in err


BASE = FOLDER / "digits.yaml"
CORRUPT: dict[str, tuple[Callable[[str], bytes], list[str]]] = {
    "not YAML": (lambda text: b"name: [x\n - {", ["not YAML", "line 2"]),
    "unknown key": (lambda text: (text + "colour: red\n").encode(), ["colour"]),
    "unknown key inside": (lambda text: text.replace("pool: 512", "pol: 512").encode(), ["data.split.po"]),
    "wrong type": (lambda text: text.replace("revision: 1", "revision: soon").encode(), ["revision", "integer"]),
    "wrong choice": (lambda text: text.replace("control: iid", "control: some").encode(), ["control"]),
    "bad name": (lambda text: text.replace("name: digits", "name: Di Gits").encode(), ["name"]),
    "missing key": (lambda text: text.replace("licence:", "# licence:").encode(), ["licence"]),
    "empty": (lambda text: b"", ["holds no settings"]),
    "a list": (lambda text: b"- a\n", ["holds no settings"]),
    "binary": (lambda text: bytes(range(256)), ["not YAML"]),
    "numbers as keys": (lambda text: f"1: 2\n{text}".encode(), ["keys must be names"]),
    "no such zoo model": (lambda text: text.replace("zoo:digits", "zoo:nothing").encode(), ["zoo:nothing"]),
    "other hash": (lambda text: text.replace("bffc7812", "00000000").encode(), ["SHA-256"]),
    "bad sampler": (lambda text: f"{text}protocol: {{sampler: {{steps: 0}}}}\n".encode(), ["steps"]),
    "unknown sampler": (lambda text: f"{text}protocol: {{sampler: {{name: plms}}}}\n".encode(), ["sampler"]),
}


@pytest.mark.parametrize("fault", CORRUPT)
def test_corrupt_pair_file_is_refused(fault: str, here: Path, call: Call) -> None:
    make, wanted = CORRUPT[fault]
    (here / "corrupt.yaml").write_bytes(make(BASE.read_text(encoding="utf-8")))
    code, out, err = call("run", "corrupt.yaml", "--candidates", 4, "--attack", "carlini-uncond")
    assert (code, out) == (2, ""), err
    (line,) = complaints(err)
    assert line.startswith("sidebench: ") and all(words in line for words in wanted)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (["side.cohesion=1.0"], ["0 of 3 clusters", "cohesion = 1.0", "two are needed"]),
        (["side.clusters=25"], ["clusters = 25 of 24 synthetic images"]),
    ],
)
def test_impossible_clusters_are_refused(settings: list[str], wanted: list[str], here: Path, call: Call) -> None:
    options = [part for setting in settings for part in ("--set", setting)]
    code, _, err = call("run", "tiny.yaml", "--candidates", 4, "--attack", "side", *options)
    assert code == 2
    (line,) = complaints(err)
    assert line.startswith("sidebench: ") and all(words in line for words in wanted)


def test_failing_attack_leaves_with_3(here: Path, call: Call) -> None:
    arguments = ["--candidates", 4, "--attack", "attacks.py:Mine", "--attack", "carlini-uncond"]
    code, out, err = call("run", "tiny.yaml", *arguments)
    assert code == 3
    (line,) = complaints(err)
    assert "mine.s0" in line and "out of luck" in line
    assert "carlini-uncond, seed 0" in out


# ---- Commands that work -----------------------------------------------------------------------------


def test_version(call: Call) -> None:
    assert call("--version") == (0, f"{__version__}\n", "")


def test_version_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sidebench", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, __version__, "")


@pytest.mark.parametrize("kind", ["pairs", "attacks", "defences", "measures"])
def test_list(kind: str, call: Call) -> None:
    code, text, _ = call("list", kind)
    again, data, _ = call("list", kind, "--json")
    rows = json.loads(data)
    assert (code, again) == (0, 0) and text.strip()
    for row in rows:
        assert row["name"] in text
    wanted = {"pairs": "digits", "attacks": "side", "measures": "nl2c"}.get(kind)
    assert wanted is None or wanted in [row["name"] for row in rows]


def test_new_writes_a_package(here: Path, call: Call) -> None:
    code, out, _ = call("new", "defence", "veil")
    files = ("pyproject.toml", "veil.py", "test_veil.py", "README.md")
    assert code == 0 and out.splitlines() == [f"veil/{name}" for name in files]
    assert call("new", "defence", "veil")[0] == 2


def test_compare_prints_and_writes(finished: Any, copied: Path, here: Path, call: Call) -> None:
    code, text, _ = call("compare", finished.folder.path, copied, "--out", "page.html", "--plot", "plot.svg")
    assert code == 0 and "leak per quality" in text
    assert Path("page.html").is_file() and Path("plot.svg").is_file()
    code, data, _ = call("compare", finished.folder.path, copied, "--json")
    assert code == 0 and json.loads(data)["schema"] == "sidebench-compare/1"


def test_show_pair(call: Call) -> None:
    assert yaml.safe_load(call("show", "digits")[1])["control"] == "iid"
    data = json.loads(call("show", "digits", "--json")[1])
    assert data["name"] == "digits" and "location" not in data["model"]


def test_show_attack(call: Call) -> None:
    text = call("show", "side")[1]
    data = json.loads(call("show", "side", "--json")[1])
    assert data["access"] == "white box" and "2410.02467" in text
    for setting in data["settings"]:
        assert f"{setting['setting']} = {setting['default']}" in text


def test_show_run(finished: Any, call: Call) -> None:
    code, text, _ = call("show", finished.folder.path)
    assert code == 0 and finished.folder.path.name in text and "held-out AMS" in text
    data = json.loads(call("show", finished.folder.path, "--json")[1])
    assert data["metrics"]["schema"] == "sidebench-metrics/1" and data["manifest"]["units"]


def test_run_prints_tables_or_json(here: Path, call: Call) -> None:
    arguments = ("run", "tiny.yaml", "--candidates", 4, "--attack", "carlini-uncond", "--out", "kept")
    code, text, err = call(*arguments)
    assert code == 0 and not complaints(err)
    assert "nl2c:n50:a0.5" in text and "carlini-uncond, seed 0, 4 candidates" in text and "run folder: kept/" in text
    (folder,) = Path("kept").iterdir()
    (folder / "report.html").unlink()  # as after a kill between the last number and the page
    code, data, err = call(*arguments, "--json")
    (result,) = json.loads(data)
    assert code == 0 and not complaints(err)
    assert "carlini-uncond" in (folder / "report.html").read_text(encoding="utf-8")
    stored = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert result == {"folder": str(folder), **stored}


def test_two_pairs_in_one_command(here: Path, call: Call) -> None:
    second = (here / "tiny.yaml").read_text(encoding="utf-8").replace("name: tiny", "name: second")
    (here / "second.yaml").write_text(second, encoding="utf-8")
    options = ["--candidates", 4, "--attack", "carlini-uncond", "--json"]
    code, data, _ = call("run", "tiny.yaml", "second.yaml", *options)
    assert code == 0 and [result["pair"] for result in json.loads(data)] == ["tiny", "second"]


def test_interrupted_run_leaves_with_130_and_goes_on(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    make, calls = runner.make_candidates, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        raise KeyboardInterrupt

    arguments = ("run", "tiny.yaml", "--candidates", 4, "--attack", "carlini-uncond")
    monkeypatch.setattr(runner, "make_candidates", interrupted)
    code, out, err = call(*arguments)
    assert (code, out, len(calls)) == (130, "", 1)
    (line,) = complaints(err)
    assert line.startswith("sidebench: interrupted")
    monkeypatch.setattr(runner, "make_candidates", make)
    assert call(*arguments)[0] == 0


def test_unexpected_error_leaves_with_70(here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the roof\nis leaking")

    monkeypatch.setattr(runner, "execute", broken)
    code, out, err = call("run", "tiny.yaml", "--candidates", 4)
    assert (code, out) == (70, "")
    assert "Traceback" in err
    last = err.splitlines()[-1]
    assert last.startswith("sidebench: unexpected RuntimeError: the roof is leaking") and "bug" in last


# ---- The report -------------------------------------------------------------------------------------


def loads_from_the_net(page: str) -> list[str]:
    return re.findall(r"(?:src|href|action|data)\s*=\s*[\"']?(?:https?:)?//[^\s\"'>]+|url\(\s*[\"']?http|@import", page)


def test_report_has_pictures_only_where_asked(finished: Any, call: Call, tmp_path: Path) -> None:
    plain, full = tmp_path / "plain.html", tmp_path / "full.html"
    code, out, _ = call("report", finished.folder.path, "--out", plain)
    assert code == 0 and out.strip() == str(plain)
    assert call("report", finished.folder.path, "--out", full, "--with-images")[0] == 0
    without, with_them = plain.read_text(encoding="utf-8"), full.read_text(encoding="utf-8")
    assert "data:image" not in without and "<img" not in without
    assert with_them.count("data:image/png;base64,") == with_them.count("<img") > 12
    assert not loads_from_the_net(without) and not loads_from_the_net(with_them)


def test_report_goes_into_the_run_folder(copied: Path, call: Call) -> None:
    page = copied / "report.html"
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert call("report", copied)[0] == 0
    assert page.read_text(encoding="utf-8") == before and "data:image" not in before


def test_report_of_an_unfinished_run_is_refused(copied: Path, call: Call) -> None:
    (copied / "metrics.json").unlink()
    code, _, err = call("report", copied)
    assert code == 2 and "no results yet" in complaints(err)[0]


def test_report_on_an_unwritable_place_is_refused(finished: Any, here: Path, call: Call) -> None:
    code, _, err = call("report", finished.folder.path, "--out", "regular/report.html")
    assert code == 2, err
    (line,) = complaints(err)
    assert line.startswith("sidebench: ") and "regular" in line


@pytest.mark.parametrize("name", ["metrics.json", "costs.json", "manifest.json"])
def test_report_of_a_broken_run_is_refused(name: str, copied: Path, call: Call) -> None:
    content = (copied / name).read_text(encoding="utf-8")
    (copied / name).write_text(content[: len(content) // 2], encoding="utf-8")
    code, _, err = call("report", copied)
    assert code == 2, err
    assert name in complaints(err)[0]


def test_metrics_of_another_version_are_refused(copied: Path, call: Call) -> None:
    file = copied / "metrics.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "schema": "sidebench-metrics/9", "later": 1}), encoding="utf-8")
    for command in ("report", "show"):
        code, _, err = call(command, copied)
        assert code == 2, err
        (line,) = complaints(err)
        assert "metrics.json" in line
