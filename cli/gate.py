"""`sidebench gate`: may this model be released?"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..benchmark.errors import BadInput
from .engines import check_engine, working
from .options import AllowPickle, AsJson, Device, Engine, Force, Traceback, Workers
from .output import loading, show


def gate(
    subject: Annotated[str, typer.Argument(metavar="PAIR|RUN", help="A pair to attack, or a finished run's folder.")],
    policy: Annotated[
        Path, typer.Option(metavar="FILE", help="Policy file, or `example` (benchmark/gate/policies/example.yaml).")
    ],
    baseline: Annotated[
        Path | None, typer.Option(metavar="RUN|RECORD", help="The last release: a run, a gate's folder, or a record.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The candidate model, instead of the pair's.")] = None,
    pair: Annotated[str | None, typer.Option(help="With RUN: its pair file, if it is not a shipped pair.")] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE.xml", help="Write JUnit XML.")] = None,
    summary: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Write a Markdown summary.")] = None,
    report: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page; it holds no image.")] = None,
    sarif: Annotated[
        Path | None, typer.Option(metavar="FILE.sarif", help="Write a SARIF log for code scanning.")
    ] = None,
    card: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Write a section for the model's card.")] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="Say the answer as annotations of a GitHub job too, on stderr.")
    ] = False,
    allow_pickle: AllowPickle = False,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder in which the gate's folder is made.")] = Path(
        "runs"
    ),
    engine: Engine = None,
    workers: Workers = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Use nothing of an earlier gate.")] = False,
    force: Force = False,
    traceback: Traceback = False,
    as_json: AsJson = False,
) -> int:
    """Does the model leak more than a policy allows? Exit codes: 0 no, 1 yes, 4 the gate cannot tell."""
    from ..benchmark.gate import exports, text, write_files
    from ..benchmark.gate.policy import load_policy
    from ..benchmark.progress import reporter_for, say

    check_engine(engine, workers)
    loaded = load_policy(policy)
    wanted = write_files.Wanted(junit, summary, report, sarif, card)
    write_files.check_places(wanted, force=force)
    loading("torch and diffusers")
    from ..benchmark.gate.judge import is_run, judge
    from ..leaderboards.gate_baseline import read_baseline

    if engine and is_run(subject):
        raise BadInput(f"{subject} is a finished run, of which nothing has to be made: --engine goes with a pair")
    last = None if baseline is None else read_baseline(baseline)
    with working(engine, workers) as at_work, reporter_for(sys.stderr) as progress:
        decision = judge(
            subject,
            loaded,
            model=model,
            pair=pair,
            baseline=last,
            allow_pickle=allow_pickle,
            device=device,
            out=out,
            fresh=fresh,
            progress=progress,
            announce=say,
            engine=at_work,
        )
    write_files.write_files(decision, wanted, policy.name if policy.is_absolute() else policy.as_posix())
    for line in exports.annotations(decision) if annotations else []:
        print(line, file=sys.stderr)
    show(text.as_dict(decision), text.as_text(decision), as_json)
    return decision.exit_code
