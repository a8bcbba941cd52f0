"""What the documents show works as shown."""

import importlib.util
import re
import runpy
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from typer.main import get_command

import sidebench
from sidebench.benchmark.contracts import ModelSpec, SamplerSettings
from sidebench.benchmark.data.model_files import locate
from sidebench.benchmark.data.pair import Pair
from sidebench.benchmark.models import load_model
from sidebench.benchmark.protocol import TIERS
from sidebench.benchmark.runs.forecast import run_bytes
from sidebench.cli import app

ROOT = Path(__file__).resolve().parents[2]


def code_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)


def test_the_example_attack_conforms_in_at_most_forty_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check is run as written, as a program: the processes that it starts read its file again."""
    example, check = code_blocks("CONTRIBUTING.md")
    assert len(example.splitlines()) <= 40 and 'check_attack("./sharpened.py:Sharpened"' in check
    (tmp_path / "sharpened.py").write_text(example, encoding="utf-8")
    (tmp_path / "check.py").write_text(check, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    left = runpy.run_path(str(tmp_path / "check.py"), run_name="__main__")
    assert left["check_attack"] is sidebench.check_attack


def test_the_example_model_is_the_network_in_at_most_fifteen_lines(tmp_path: Path) -> None:
    in_a_file, in_a_notebook = code_blocks("docs/add-a-model.md")
    assert len(in_a_file.splitlines()) <= 15 and len(in_a_notebook.splitlines()) <= 15
    (tmp_path / "mine.py").write_text(in_a_file, encoding="utf-8")
    network = "from sidebench import ModelSpec, load_model\n\n\ndef Network():\n"
    network += "    return load_model(ModelSpec(family='pixel', location='zoo:digits')).unet\n"
    (tmp_path / "network.py").write_text(network, encoding="utf-8")
    weights = locate("zoo:digits") / "unet" / "diffusion_pytorch_model.safetensors"
    (tmp_path / "weights.safetensors").write_bytes(weights.read_bytes())
    theirs = load_model(ModelSpec(family="pixel", location="zoo:digits"))
    mine = load_model(ModelSpec(family="pixel", location=f"{tmp_path / 'mine.py'}:ddpm"))
    x_t, t = torch.ones(1, 1, 8, 8), torch.tensor([500])
    assert torch.allclose(mine.predict(x_t, t), theirs.predict(x_t, t), atol=1e-5)


@pytest.mark.parametrize(
    "page", [p.relative_to(ROOT).as_posix() for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]]
)
def test_files_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
    for name in re.findall(r"`((?:benchmark|methods|leaderboards|tests|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(("page", "control"), [("add-a-pair.md", "iid"), ("pairs.md", "surrogate")])
def test_the_example_pair_is_one(page: str, control: str) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.S)
    assert Pair(**yaml.safe_load(text)).control == control


def test_the_reference_holds_every_name_that_the_package_exports() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    shown = {}
    for module, options in re.findall(r"^::: sidebench\.(\S+)\n((?: +.*\n)*)", text, re.M):
        members = re.search(r"members: \[(.*)\]", options)
        shown[module] = members and members.group(1).split(", ")
    for name, module in sidebench._MODULES.items():
        assert module in shown and (shown[module] is None or name in shown[module]), f"{name} of {module}"
        assert getattr(sidebench, name).__doc__, name


def test_every_option_that_a_page_names_exists() -> None:
    commands = list(get_command(app).commands.values())
    commands += [below for command in commands for below in getattr(command, "commands", {}).values()]
    options = {name for command in commands for p in command.params for name in p.opts}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for line in re.findall(r"^ +sidebench .*|`sidebench [^`]+`", page.read_text(encoding="utf-8"), re.M):
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)) <= options | {"--help"}, f"{page.name}: {line}"


def script(name: str) -> ModuleType:
    """Return a script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_stands_in_one_group_of_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = text[text.index("\nnav:") : text.index("\nvalidation:")]
    groups = re.findall(r"^  - ([\w ]+):$", navigation, re.M)
    assert groups == ["Start", "How to", "Explanation", "Reference", "Results"]
    named = sorted(re.findall(r"([\w-]+\.md)$", navigation, re.M))
    assert named == sorted([*(page.name for page in (ROOT / "docs").glob("*.md")), script("cli_reference").PAGE])


def test_the_tiers_on_the_page_are_the_protocols_with_what_plan_says_of_them() -> None:
    text = (ROOT / "docs" / "what-there-is.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| (.*) \|$", text, re.M)
    assert {name: int(number.replace(",", "")) for name, number, *_ in rows} == TIERS
    for name, _, calls, sizes in rows:
        assert int(calls.replace(",", "")) == TIERS[name] * SamplerSettings().steps
        for size, pixels in zip(sizes.split(" | "), (8 * 8, 32 * 32 * 3, 256 * 256 * 3, 512 * 512 * 3), strict=True):
            number, unit = size.split()
            stored = run_bytes(TIERS[name], pixels) / {"MB": 1e6, "GB": 1e9}[unit]
            assert float(number) == pytest.approx(stored, abs=0.051), (name, size)


def test_the_page_of_commands_has_every_command_option_and_example() -> None:
    reference = script("cli_reference")
    text = reference.page()
    commands = dict(reference.commands())
    assert re.findall(r"^## sidebench (.*)$", text, re.M) == list(commands)
    for part in re.split(r"^## sidebench ", text, flags=re.M)[1:]:
        name = part.partition("\n")[0]
        shown = [one for one in commands[name].params if not getattr(one, "hidden", False)]
        for option in (option for one in shown for option in one.opts if option.startswith("--")):
            assert re.search(rf"^\| `[^`]*(?<![\w-]){option}(?![\w-])", part, re.M), (name, option)
        assert all(f"    {example}\n" in part for example in reference.examples(name))
    for row in re.findall(r"^\|.*$", text, re.M):
        assert len(re.findall(r"(?<!\\)\|", row)) == 3, row


def test_the_pictures_of_the_concepts_are_what_the_script_draws(tmp_path: Path) -> None:
    drawing = script("draw_concepts")
    drawing.main(tmp_path)
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    shipped = {file.stem for file in (ROOT / "docs/pictures").glob("*.svg")}
    of_runs = {"first", "study-budgets", "study-pairs", "study-strengths"}
    assert {file.stem for file in tmp_path.iterdir()} == shipped - of_runs, "those need runs to be drawn"
    for name in drawing.DRAWN:
        assert f"](pictures/{name}.svg)" in page
        new, old = ((folder / f"{name}.svg").read_text("utf-8") for folder in (tmp_path, ROOT / "docs" / "pictures"))
        texts = [re.findall(r"<text[^>]*>([^<]*)</text>", text) for text in (new, old)]
        assert texts[0] == texts[1] and texts[0], (
            f"docs/pictures/{name}.svg: python docs/draw_concepts.py docs/pictures"
        )


def test_one_interval_in_twenty_of_the_picture_misses() -> None:
    figure = script("draw_concepts").interval()
    assert [line.get_color() for line in figure.axes[0].lines].count("#b3261e") == 2, "a line and its dot"
