"""`sidebench leaderboard`: records of results, and the tables and pages made of them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..benchmark.errors import BadInput, BadSetting
from .options import RECORDS, AllowPickle, AsJson, Device, Force, Records
from .output import complain, loading, show

WITHOUT_BASE = (
    "owners.json was not compared with what is merged, which a folder alone cannot show: --base FOLDER compares them"
)
"""What a check of one folder leaves out."""


def add(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run folder, or one of `sidebench detect`.")
    ],
    submitter: Annotated[str, typer.Option("--as", metavar="NAME", help="Who claims it: a name of your choice.")],
    attack: Annotated[list[str] | None, typer.Option(help="Attack to record; default: every one of the run.")] = None,
    tuning: Annotated[
        list[Path] | None, typer.Option(metavar="CURVE", help="Curve of `sidebench tune` to show with the record.")
    ] = None,
    records: Records = RECORDS,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Private key that speaks for NAME; default: your own, made once."),
    ] = None,
    unsigned: Annotated[
        bool,
        typer.Option("--unsigned", help="For maintainers: listed in owners.json, not signed."),
    ] = False,
) -> None:
    """Write a record for each attack of a run, over all of its seeds, or one of a detection, signed for NAME."""
    from ..leaderboards import owner_keys
    from ..leaderboards.ranking import why_unranked

    if unsigned and key is not None:
        raise BadSetting("--unsigned uses no key: leave out --key")
    signer = None if unsigned else key or owner_keys.default_file()
    new = signer is not None and not signer.exists()
    for file, line in _added(run_folder, submitter, attack or (), records, tuning or (), signer):
        print(file)
        if line:
            print(line, file=sys.stderr)
        if why := why_unranked(file):
            print(f"{file.name} will have no rank: {why}", file=sys.stderr)
    print("see where they stand: sidebench leaderboard build", file=sys.stderr)
    if new:
        print(f"made the key {signer}: keep it secret, whoever has it speaks for {submitter}", file=sys.stderr)


def _added(
    folder: Path, submitter: str, attacks: Sequence[str], records: Path, tunings: Sequence[Path], signer: Path | None
) -> list[tuple[Path, str]]:
    """Return each record that was written, with what is to be said of its interval."""
    from ..leaderboards.make_detection import add_detection, is_detection_folder

    if is_detection_folder(folder):
        if attacks or tunings:
            raise BadSetting(f"{folder} holds a detection, which has no attack: leave out --attack and --tuning")
        return [(add_detection(folder, submitter, records, signer), "")]
    from ..benchmark.results.run_folder import read_run
    from ..benchmark.results.schema import load_metrics
    from ..leaderboards.make_records import add_records
    from ..leaderboards.read_records import read_record
    from ..leaderboards.two_intervals import two_intervals

    run = read_run(folder)
    made = add_records(run, submitter, attacks, records, tunings, signer)
    return [(file, two_intervals(read_record(file), load_metrics(run))) for file in made]


def check(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[RECORD...]", help="Default: every record.")] = None,
    records: Records = RECORDS,
    run_folder: Annotated[
        Path | None, typer.Option("--run", help="Submitted folder of the one RECORD named, to challenge it.")
    ] = None,
    challenge: Annotated[
        int, typer.Option(min=1, help="Candidates to reproduce from RUN's state, or prompts of a detection.")
    ] = 32,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="With --run: prepare the attack again too, which takes as long as it did.")
    ] = False,
    pair: Annotated[str | None, typer.Option(help="The record's pair file, if it is not a shipped pair.")] = None,
    model: Annotated[
        str | None, typer.Option(help="What the run attacks instead of the pair's model, named again.")
    ] = None,
    negatives: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of a detection: the file of its --negatives.")
    ] = None,
    allow_pickle: AllowPickle = False,
    device: Device = "auto",
    base: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Records that are merged: none may change, names stay theirs.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check records: schema, owners, hashes, impossible counts, duplicates; with --run, reproduce what is drawn."""
    from ..leaderboards.check import check_files
    from ..leaderboards.check_base import check_on_base
    from ..leaderboards.detection_record import is_detection
    from ..leaderboards.read_records import chosen_files, read_content

    if base is not None and (files or run_folder is not None):
        raise BadSetting("--base compares whole folders: name no RECORD and no --run")
    chosen = chosen_files(files or [], records)
    problems = check_on_base(records, base) if base else check_files(chosen, None if files else records)
    for problem in problems:
        complain(str(problem))
    if problems or run_folder is None:
        print(f"{len(chosen):,} records, {len(problems):,} problems", file=sys.stderr)
        if base is None:
            print(WITHOUT_BASE, file=sys.stderr)
        if as_json:
            show([problem._asdict() for problem in problems], "", as_json)
        return BadInput.exit_code if problems else 0
    if len(chosen) != 1:
        raise BadSetting(f"--run challenges one record: name its file, there are {len(chosen)}")
    loading("torch and diffusers")
    if is_detection(read_content(chosen[0])):
        if prepare or model is not None or allow_pickle:
            raise BadSetting(f"{chosen[0].name} is of detectors: leave out --prepare, --model and --allow-pickle")
        return _reproduced_prompts(chosen[0], run_folder, challenge, pair, negatives, device, as_json)
    if negatives is not None:
        raise BadSetting(f"{chosen[0].name} is of an attack, which has no prompts: leave out --negatives")
    from ..benchmark.progress import reporter_for
    from ..benchmark.results.run_folder import read_run
    from ..leaderboards import challenge as challenges

    with reporter_for(sys.stderr) as progress:
        found = challenges.challenge(
            chosen[0],
            read_run(run_folder),
            challenge,
            pair=pair,
            model=model,
            device=device,
            prepare=prepare,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    show(found, challenges.as_text(found), as_json)
    return 0 if found.agreed == found.checked else BadInput.exit_code


def _reproduced_prompts(
    file: Path, folder: Path, count: int, pair: str | None, negatives: Path | None, device: str, as_json: bool
) -> int:
    """Challenge a record of detectors."""
    from ..benchmark.progress import reporter_for
    from ..leaderboards import challenge_detection as challenges

    with reporter_for(sys.stderr) as progress:
        found = challenges.challenge_detection(
            file, folder, count, pair=pair, negatives=negatives, device=device, progress=progress
        )
    show(found, challenges.as_text(found), as_json)
    return 0 if found.passed else BadInput.exit_code


def publish(
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Dataset repository on the Hub.")],
    records: Records = RECORDS,
    send: Annotated[bool, typer.Option("--send", help="Send it; without this, only show what would be sent.")] = False,
    create_pr: Annotated[
        bool, typer.Option("--create-pr", help="As a pull request, for a repository of others.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the records and list all of them; asks nobody, needs no network.")
    ] = False,
) -> None:
    """Show, or send, the records that a dataset repository on the Hub lacks."""
    from ..leaderboards import publish as publishing

    if dry_run:
        if send or create_pr:
            raise BadSetting("--dry-run sends nothing: leave out --send and --create-pr")
        print(publishing.rehearsal(repo, records))
        return
    found = publishing.prepare(repo, records)
    print(publishing.as_text(found))
    if not send:
        print("nothing was sent: add --send", file=sys.stderr)
    elif found.new:
        print(publishing.send(found, create_pr=create_pr))


def eval_result(
    record: Annotated[Path, typer.Argument(metavar="RECORD", help="A record's file, its badge beside it.")],
    model: Annotated[str, typer.Option(metavar="OWNER/MODEL", help="The model on the Hub that the record is of.")],
    dataset: Annotated[
        str, typer.Option(metavar="OWNER/RESULTS", help="Dataset repository in which the records are published.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder in which .eval_results/sidebench.yaml is made.")
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="Open a pull request on the model with it.")] = False,
    force: Force = False,
) -> None:
    """Write a record in the Hub's format for results of a model; it must be reproduced and ranked."""
    from ..benchmark.files import check_output, write_text
    from ..leaderboards import eval_result as results

    found = results.accusation(record, model, dataset)
    print(f"this says of a model in public: {found.said}", file=sys.stderr)
    print(found.text, end="")
    if out is not None:
        file = out / results.PLACE
        check_output(file, force=force)
        write_text(file, found.text)
    if send:
        print(results.send(found))
    else:
        print("nothing was sent: add --send for a pull request", file=sys.stderr)


def build(
    records: Records = RECORDS,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder to make; default: ./leaderboard-site, or none with --readme."),
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(metavar="FILE.md", help="File whose tables between the markers are rewritten.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Do not write: fail if the README is out of date.")] = False,
) -> None:
    """Rank records and write the static site with its tables (CSV, Markdown, text, LaTeX), from records alone."""
    from ..leaderboards import build as building

    built = building.build(records, out, readme, check=check)
    for warning in built.warnings:
        complain(warning)
    print(built.text)
