"""The page of commands, written from the commands themselves: a hook of mkdocs, which `mkdocs.yml` names.

It imports `sidebench.cli`, which imports nothing heavy; `docs/build_site.py` puts the package where it is found.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

PAGE = "cli.md"


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the page to those that are there."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Return the page: every command with its arguments, its options in groups, and its examples."""
    lines = [
        "# Commands",
        "",
        "Every command takes `--help`. What is found is printed on stdout, everything else on stderr. Exit codes: 0",
        "done, 1 the gate says no, 2 what was asked for cannot be done, 3 a plug-in, the disk or the network",
        "failed, 4 the gate cannot tell, 70 a bug, 130 interrupted.",
    ]
    for name, command in commands():
        lines += ["", f"## sidebench {name}", "", " ".join((command.help or "").split())]
        for title, options in grouped(command).items():
            lines += [
                "",
                f"**{title}**",
                "",
                f"| {'argument' if title == 'Arguments' else 'option'} | what it says |",
                "| --- | --- |",
            ]
            lines += [f"| `{_cell(option)}` | {_cell(said)} |" for option, said in options]
        lines += ["", *(f"    {example}" for example in examples(name))]
    return "\n".join(lines) + "\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Yield every command by its name, those below `leaderboard` by two words."""
    from typer.main import get_command

    from sidebench.cli import app

    root: Any = get_command(app)
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {below}", each) for below, each in command.commands.items())
        else:
            yield name, command


def grouped(command: Any) -> dict[str, list[tuple[str, str]]]:
    """Return what `--help` says of arguments and options, in its groups."""
    from sidebench.cli.grouped import sections

    context = type(command).context_class(command, info_name=command.name)
    return sections(command, context)


def examples(name: str) -> tuple[str, ...]:
    """Return the command's examples."""
    from sidebench.cli.examples import EXAMPLES

    return EXAMPLES[name]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
