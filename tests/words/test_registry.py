"""Finding attacks, defences and measures by name or in a local file."""

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import pytest

from sidebench.benchmark import registry
from sidebench.benchmark.contracts import Settings
from sidebench.benchmark.errors import BadInput, BadSetting, SidebenchError, UnknownName
from sidebench.methods.carlini_uncond import CarliniUncond

MINE = """
from sidebench import Attack, Generated, Settings


class MineSettings(Settings):
    size: int = 3


class Mine(Attack):
    name, title, paper, access = "mine", "mine", "none", "samples"
    Settings = MineSettings
    mark = {mark!r}

    def generate(self, model, state, candidates):
        return Generated(model.sample(candidates))


class Unfinished(Attack):
    name, title, paper, access = "unfinished", "unfinished", "none", "samples"


class Nameless(Attack):
    def generate(self, model, state, candidates):
        return Generated(model.sample(candidates))


class Stranger:
    pass


thing = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE.format(mark="first"), encoding="utf-8")
    return path


def test_built_in_names() -> None:
    assert set(registry.names("attack")) >= {"carlini-cond", "carlini-uncond", "side"}
    assert set(registry.names("measure")) >= {"nl2", "nl2c", "rms"}
    assert registry.names("attack") == sorted(registry.names("attack"))
    assert registry.find("attack", "carlini-uncond") is CarliniUncond
    assert registry.origin("attack", "carlini-uncond") == "sidebench.methods.carlini_uncond:CarliniUncond"


@pytest.mark.parametrize("kind", ["attack", "defence", "measure", "model"])
def test_unknown_name_says_its_kind(kind: Any) -> None:
    with pytest.raises(UnknownName, match=f"unknown {kind} 'ghost'"):
        registry.find(kind, "ghost")


def test_packages_are_read_once_for_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    read, asked = importlib.metadata.entry_points, []

    def counted(*, group: str) -> Any:
        asked.append(group)
        return read(group=group)

    monkeypatch.setattr(importlib.metadata, "entry_points", counted)
    for path in (tmp_path / "first", tmp_path / "second"):
        path.mkdir()
        monkeypatch.syspath_prepend(path)
        assert "side" in registry.names("attack")
        assert registry.find("attack", "carlini-uncond") is CarliniUncond
    assert asked == ["sidebench.attacks"] * 2


def test_registered_plug_ins_that_break_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"gone": "no_such_package.inside:Attack", "wrong": "json:JSONDecoder", "missing": "json:Nothing"}
    points = {key: importlib.metadata.EntryPoint(key, value, "sidebench.attacks") for key, value in values.items()}
    monkeypatch.setattr(registry, "_entry_points", lambda kind: points)
    assert registry.names("attack") == ["gone", "missing", "wrong"]
    assert registry.origin("attack", "gone") == values["gone"]
    assert "no_such_package" not in sys.modules
    for name in ("gone", "missing"):
        with pytest.raises(BadInput, match=f"attack '{name}' cannot be imported"):
            registry.find("attack", name)
    with pytest.raises(BadInput, match=r"'wrong' is not an attack"):
        registry.find("attack", "wrong")


def test_local_file_is_loaded(file: Path) -> None:
    attack = registry.make_attack(f"{file}:Mine", {"size": 4})
    assert (attack.name, attack.settings.size) == ("mine", 4)


def test_files_of_one_name_are_kept_apart(file: Path, tmp_path: Path) -> None:
    second = tmp_path / "other" / "mine.py"
    second.parent.mkdir()
    second.write_text(MINE.format(mark="second"), encoding="utf-8")
    marks = [registry.find("attack", f"{path}:Mine").mark for path in (file, second, file)]
    assert marks == ["first", "second", "first"]


def test_a_file_imports_what_lies_beside_it_as_it_is_now(file: Path, tmp_path: Path) -> None:
    path, source = list(sys.path), f"from beside import mark\nimport json as mine_json\n{MINE.format(mark='')}"
    source = source.replace("mark = ''", "mark = mark")
    (tmp_path / "json.py").write_text("raise ValueError('not Python's own')", encoding="utf-8")
    for folder in (tmp_path, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        (folder / "mine.py").write_text(source, encoding="utf-8")
        for mark in ("first", "afterwards"):
            (folder / "beside.py").write_text(f"mark = '{folder.name} {mark}'", encoding="utf-8")
            assert registry.find("attack", f"{folder / 'mine.py'}:Mine").mark == f"{folder.name} {mark}"
    assert sys.path == path


def test_the_sources_of_a_file_are_those_in_its_folder_that_it_imports(tmp_path: Path) -> None:
    files = {
        "mine.py": "import one, os\nfrom package.inside import x",
        "one.py": "def f():\n    import two",
        "two.py": "import mine",
        "package/__init__.py": "",
        "package/inside.py": "from .deep import y",
        "package/deep.py": "y = 1",
        "other.py": "",
    }
    (tmp_path / "package").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = {source.relative_to(tmp_path).as_posix() for source in registry.sources_beside(tmp_path / "mine.py")}
    assert found == files.keys() - {"other.py"}


def test_changed_file_is_read_again(file: Path) -> None:
    assert registry.find("attack", f"{file}:Mine").mark == "first"
    file.write_text(MINE.format(mark="afterwards"), encoding="utf-8")
    assert registry.find("attack", f"{file}:Mine").mark == "afterwards"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mien", "unknown class in .*mine.py 'Mien': did you mean Mine"),
        ("Stranger", "is not an attack"),
        ("thing", "is not an attack"),
        ("MineSettings", "is not an attack"),
        ("Unfinished", "generate"),
        ("Nameless", "name"),
    ],
)
def test_faulty_class_in_a_file_is_refused(name: str, message: str, file: Path) -> None:
    with pytest.raises(SidebenchError, match=message):
        registry.make_attack(f"{file}:{name}", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such_package\n", "no_such_package"),
        ("class Mine(:\n", "SyntaxError"),
        ("raise RuntimeError('not today')\n", "not today"),
        ("import sys\nsys.exit(1)\n", "SystemExit"),
        ("\0\1\2", "cannot be imported"),
    ],
)
def test_faulty_file_is_named(content: str, message: str, file: Path) -> None:
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match=message) as caught:
        registry.find("attack", f"{file}:Mine")
    assert file.name in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no such file: .*nothing\.py"):
        registry.find("attack", f"{tmp_path / 'nothing.py'}:Mine")


def test_unknown_setting_lists_close_ones() -> None:
    with pytest.raises(UnknownName, match="unknown setting of side 'guidance': did you mean guidance_scale"):
        registry.make_attack("side", {"guidance": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clusters": 1}, "side.clusters = 1: .*greater than or equal to 2"),
        ({"objective": "luck"}, "side.objective = 'luck'"),
        ({"blocks": [1, "x"]}, r"side.blocks.1 = 'x'"),
        ({"guidance_scale": float("inf")}, "side.guidance_scale = inf"),
    ],
)
def test_impossible_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        registry.make_attack("side", settings)


def test_check_settings_returns_the_object() -> None:
    class Own(Settings):
        n: int = 1

    assert registry.check_settings(Own, {"n": "2"}, "own") == Own(n=2)


@pytest.mark.parametrize("measure_id", ["nl2:n50:a0.5", "nl2c:n10:a0.25", "rms"])
def test_measure_id_is_its_own_name(measure_id: str) -> None:
    assert registry.make_measure(measure_id).id == measure_id


@pytest.mark.parametrize("measure_id", ["rms:1", "nl2:n0", "nl2:a0", "nl2:a2", "nl2:x1", "nl2:nfifty", "nl2:", "nl2::"])
def test_impossible_measure_is_refused(measure_id: str) -> None:
    with pytest.raises(BadSetting, match="measure '"):
        registry.make_measure(measure_id)
