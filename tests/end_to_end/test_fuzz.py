"""Anything at all behind any command: it ends in a line and a code, soon, and outside its folder nothing changes.

Whoever adds to this: every name below is made inside the test's own folder. No device of the machine is named, and HOME
and the caches are in that folder too, since tests may run as root.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from complaints import complaints
from time_limit import time_limit

from sidebench.benchmark.data.model_files import locate
from sidebench.benchmark.files import read_json
from sidebench.benchmark.gate.policy import FOLDER as POLICIES
from sidebench.benchmark.measures import theory
from sidebench.benchmark.runs import bench
from sidebench.cli import COMMANDS, LEADERBOARD

Call = Callable[..., tuple[int, str, str]]

INPUTS = 300

TEXTS: tuple[str, ...] = ("", " ", "-", "--", "0", "-1", "1e9", "nan", "9" * 5000, str(2**70), "n" * 300, "a\0b")
TEXTS += ("a=b", "side.clusters=" + "9" * 5000, "a.b=2001-99-99", "a.b=!!python/name:os.system", "a.b=" + "[" * 900)
TEXTS += ("<script>", "\u202e", "control:mixture:9", "zoo:../..", "x.py:Y", "rms:4", "near=0:nan", "*", "~", "\n", "{}")
TEXTS += ("cuda:99", "../outside", "../outside/thesis.tex", "x" * 100_000, "\U0001f4a5", "\udcff", "[]", "'", "side--x")
"""Words for any place of a command; none of them begins work."""

NESTED = "\n".join(" " * depth + "a:" for depth in range(900))

FILES: dict[str, bytes] = {
    "empty": b"",
    "bytes": bytes(range(256)) * 20,
    "text": b"four years",
    "deep.yaml": NESTED.encode(),
    "deep.json": b"[" * 100_000,
    "digits.yaml": b"name: " + b"9" * 5000,
    "date.yaml": b"schema: 2001-99-99",
    "tag.yaml": b"!!python/object/apply:os.system [true]",
    "alias.yaml": b"a: &a [*a]",
    "surrogate.json": b'{"schema": "\\ud800"}',
    "number.json": b'{"schema": 1e999}',
    "zeros.json": b"\0" * 10_000,
    "evil.py": b"from pathlib import Path\nPath('imported').touch()\n",
    "list.json": b"[1, 2]",
    "curve.json": b'{"schema": "sidebench-tuning/1", "curve": {"points": []}, "plan": {}}',
    "record.json": b'{"schema": "sidebench-record/4"}',
}

TEMPLATES = (
    "run X",
    "run PAIR --attack X",
    "run PAIR --candidates X --attack X",
    "run PAIR --measure X",
    "run PAIR --set X",
    "run PAIR --defence X",
    "run PAIR --tuned X",
    "run PAIR --seed X --candidates 0",
    "run PAIR --model X --candidates 0",
    "run --model X --dataset X --split X",
    "run PAIR --out X --candidates 0",
    "run PAIR --model X --compile --candidates 0",
    "bench X --workers --scoring",
    "run PAIR --config X --candidates 0",
    "run PAIR --track X --candidates 0",
    "show RUN --config --json=X",
    "worker X",
    "worker RUN --pair X",
    "worker RUN --attack X --device X",
    "run PAIR --engine X --workers X",
    "score-images X",
    "score-images X PAIR",
    "score-images PAIR X",
    "score-images X --dataset X --split X --control X",
    "plan X",
    "plan PAIR --candidates X",
    "fetch X",
    "list X",
    "show X",
    "report X",
    "report RUN --out BUSY",
    "compare X RUN",
    "compare RUN X",
    "compare RUN OTHER --plot BUSY",
    "score RUN --bands X",
    "score RUN --bands a=0:0.3 --measure X",
    "score X --copying",
    "score RUN --copying --pair X",
    "label X",
    "label RUN --pair X",
    "gate X --policy example",
    "gate RUN --policy X",
    "gate RUN --policy example --baseline X",
    "gate PAIR --policy X --model X",
    "gate RUN --policy POLICY --junit BUSY",
    "gate PAIR --policy POLICY --engine X --workers X",
    "replay X 0 --attack side",
    "replay RUN X --attack side",
    "replay RUN 0 --attack X",
    "replay RUN 0 --attack side --out BUSY",
    "train X",
    "train PAIR --out BUSY",
    "new X X",
    "new attack X --out X",
    "new attack mine --out BUSY",
    "tune X --attack side",
    "tune PAIR --attack X",
    "tune PAIR --attack side --try X",
    "tune PAIR --attack X --engine X --workers X",
    "ablate X",
    "ablate PAIR --attack X",
    "ablate PAIR --candidates 0 --set X",
    "ablate PAIR --engine X --workers X",
    "detect X",
    "detect PAIR",
    "detect PAIR --prompts X --detector X",
    "bench X",
    "bench --accelerator --device X",
    "theory X",
    "doctor X",
    "leaderboard add X --as me",
    "leaderboard add RUN --as X --attack X",
    "leaderboard add RUN --as me --tuning X",
    "leaderboard check X",
    "leaderboard check X --run RUN",
    "leaderboard check X --run RUN --negatives X",
    "leaderboard check --records X",
    "leaderboard build --records X --out X",
    "leaderboard build --records RECORDS --out BUSY",
    "leaderboard build --records RECORDS --readme X",
    "leaderboard publish --repo a/b --records X",
    "leaderboard publish --repo X --records RECORDS --dry-run",
    "leaderboard eval-result X --model a/b --dataset X",
    "X",
    "leaderboard X",
)
"""X: a word or a file that cannot be what is asked for. BUSY: a place where something else is."""


def changed_yaml(text: str, rng: random.Random) -> bytes:
    """Return YAML with a line cut, doubled or turned into something else, or with bytes that are none."""
    lines = text.splitlines()
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(lines))
        key = lines[at].partition(":")[0]
        lines[at : at + 1] = rng.choice(
            ([], [lines[at]] * 2, [f"{key}: {rng.choice(TEXTS)[:50]}"], [f"{key}: {{a: [1, ~]}}"], [lines[at][:5]])
        )
    return "\n".join([*lines, "no such key: 1"]).encode(errors="replace")


def furnish(work: Path, finished: Path, rng: random.Random) -> dict[str, list[str]]:
    """Fill a folder with files of every kind, and return what may stand for each word of a template."""
    for name, content in FILES.items():
        (work / name).write_bytes(content)
    os.mkfifo(work / "pipe")
    os.mkfifo(work / "pipe.yaml")
    (work / "folder").mkdir()
    (work / "loop.yaml").symlink_to("loop.yaml")
    (work / "link.html").symlink_to("../outside/thesis.tex")
    (work / "link.png").symlink_to("../outside/thesis.tex")
    policy = (POLICIES / "example.yaml").read_text(encoding="utf-8")
    pair = (work / "tiny.yaml").read_text(encoding="utf-8")
    for number in range(12):
        (work / f"policy-{number}.yaml").write_bytes(changed_yaml(policy, rng))
        (work / f"pair-{number}.yaml").write_bytes(changed_yaml(pair, rng))
    (work / "records").mkdir()
    shutil.copy(work / "record.json", work / "records")
    (work / "policy.yaml").write_text(policy, encoding="utf-8")
    hostile = sorted({file.name for file in work.iterdir()} - {"tiny.yaml", "policy.yaml", "records", "evil.py"})
    shutil.copytree(finished, work / "run")
    return {
        "X": [*TEXTS, *hostile, *hostile],
        "BUSY": ["text", "pipe", "folder/../text", "link.html", "link.png", "run", "bytes"],
        "PAIR": ["tiny.yaml"],
        "RUN": ["run"],
        "OTHER": [str(finished)],
        "RECORDS": ["records"],
        "POLICY": ["policy.yaml"],
    }


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes")
def test_300_inputs_end_in_a_line(
    finished: Any, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_pair_file: Callable[..., Path]
) -> None:
    rng = random.Random(17)
    work, outside = tmp_path / "work", tmp_path / "outside"
    work.mkdir()
    outside.mkdir()
    (outside / "thesis.tex").write_text("four years", encoding="utf-8")
    make_pair_file(work)
    for name in ("HOME", "HF_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # A word that is none leaves `theory` with its closed forms, which take as long as they take.
    monkeypatch.setattr(theory, "demonstration", lambda seed: {})
    monkeypatch.setattr(theory, "as_text", lambda found: "")
    # `bench --` names no pair, and measures the one that ships.
    monkeypatch.setattr(bench, "measure", lambda pair, device, attack, compiled: {})
    monkeypatch.setattr(bench, "as_text", lambda found: "")
    monkeypatch.chdir(work)
    words = furnish(work, finished.folder.path, rng)
    before = {name: (work / name).read_bytes() for name in FILES}
    assert {template.split()[0] for template in TEMPLATES} >= {*COMMANDS, "leaderboard"}
    assert {template.split()[1] for template in TEMPLATES if template.startswith("leaderboard")} >= set(LEADERBOARD)
    for number in range(INPUTS):
        template = TEMPLATES[number % len(TEMPLATES)]
        arguments = [rng.choice(words[word]) if word in words else word for word in template.split()]
        said = f"{number}: {[each[:60] for each in arguments]!a}"
        with time_limit(20):
            code, out, err = call(*arguments)
        assert code in (0, 2, 3), (said, code, err)
        assert code == 0 or complaints(err), (said, err)
        assert "Traceback" not in err and len(err) < 6000, (said, err)
        assert "four years" not in out + err, said
    assert {name: (work / name).read_bytes() for name in FILES} == before
    assert [file.name for file in outside.iterdir()] == ["thesis.tex"] and not (work / "imported").exists()
    assert (outside / "thesis.tex").read_text(encoding="utf-8") == "four years"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["outside", "work"]


# ---- Model folders ----


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("unet/config.json", {"layers_per_block": 10**7}),
        ("unet/config.json", {"sample_size": 10**6}),
        ("unet/config.json", {"sample_size": [10**6, 8]}),
        ("unet/config.json", {"sample_size": -1}),
        ("unet/config.json", {"block_out_channels": [8] * 10**5}),
        ("unet/config.json", {"block_out_channels": [2**40, 8]}),
        ("unet/config.json", {"in_channels": 10**9}),
        ("unet/config.json", {"sample_size": None}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
    ],
)
def test_a_network_of_a_size_that_nobody_has_is_refused(
    file: str, change: dict[str, Any], call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(locate("zoo:digits"), "model")
    config = read_json(tmp_path / "model" / file)
    (tmp_path / "model" / file).write_text(json.dumps({**config, **change}), encoding="utf-8")
    with time_limit(20):
        code, _, err = call("run", "digits", "--model", "model", "--candidates", 4, "--attack", "carlini-uncond")
    (line,) = complaints(err)
    assert code == 2 and Path(file).name in line, line
    assert not (tmp_path / "runs").exists()
