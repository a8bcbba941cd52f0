"""`run`, `show`, `tune`, `ablate`, `compare`, `gate` and `leaderboard`: the commands of these names as functions.

Each takes what its command takes, by name, and returns a result that shows itself in a notebook. Progress is told on
stderr, and errors are raised.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from ..benchmark.contracts import Model, Progress
from ..benchmark.data.pair import Pair, load_pair
from ..benchmark.progress import reporter_for
from .from_config import takes_config
from .results import Ablated, Boards, Comparison, Release, Run, Tuning

DEFAULT_RECORDS = "leaderboards/records"
"""Where records are in a checkout of sidebench's repository."""


@takes_config
def run(
    pair: str | Path | Pair | None = None,
    *,
    attacks: str | Sequence[str] = (),
    defences: str | Sequence[str] = (),
    model: str | Model | None = None,
    dataset: str | None = None,
    split: str | None = None,
    holdout: str | None = None,
    dataset_config: str | None = None,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    variant: str | None = None,
    control: str | None = None,
    tier: str | None = None,
    candidates: int | None = None,
    seeds: int | Sequence[int] = (0,),
    measures: str | Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    tuned: str | Path | Sequence[str | Path] = (),
    device: str = "auto",
    dtype: str = "float32",
    micro_batch: int | None = None,
    compiled: bool = False,
    out: str | Path = "runs",
    fresh: bool = False,
    track: str | Sequence[str] = (),
    allow_pickle: bool = False,
    config: str | Path | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Run:
    """Attack a pair, write its report, and return what was found; the same call goes on where an earlier one stopped.

    A `Model` of your own goes in as `model`, see `from_torch`. Where some attacks fail the others' results are kept,
    and the failures stand beside them. A single attack, defence, seed, measure or curve needs no list around it.

    Args:
        pair: A pair's name or file, or a `Pair`. Without one, `model` and `dataset` with its splits take its place.
        settings: Of attacks and defences by name, as `--set` gives them: `{"side": {"scale": 3}}`.
        tuned: Curves that `tune` has stored; see `Tuning.file`.
        track: Services that are told of the run, as `--track` names them; see `Run.track`.
        config: A file of options, as `sidebench run --config` takes it, or what it holds; the other arguments win.
        progress: Who is told; default: a line for each phase on stderr.

    Raises:
        BadInput: something cannot be used; what it is stands in one line.
        SidebenchError: every attack failed; the first one's error.
    """
    from ..benchmark.models.pair_from_names import chosen_pairs
    from ..benchmark.results import tuning_curve
    from ..benchmark.runs import track as track_run
    from ..benchmark.runs.carry_out import carry_out
    from ..benchmark.runs.plan import plan_run
    from ..benchmark.runs.tune import with_curves

    of_dataset = {
        "config": dataset_config,
        "image_column": image_column,
        "caption_column": caption_column,
        "label_column": label_column,
        "variant": variant,
        "control": control,
    }
    if isinstance(pair, Pair):
        loaded, other = pair, model
    else:
        names = [] if pair is None else [str(pair)]
        (loaded,), other = chosen_pairs(names, model, dataset, split, holdout, allow_pickle, **of_dataset)
    tracked = track_run.trackers(_several(track))
    curves = tuning_curve.read_curves([Path(file) for file in _several(tuned)])
    with _told(progress) as report:
        plan = plan_run(
            loaded,
            attacks=_several(attacks),
            defences=_several(defences),
            model=other,
            tier=tier,
            candidates=candidates,
            seeds=_several(seeds),
            measures=_several(measures),
            settings=tuning_curve.with_tuned(settings or {}, curves),
            device=device,
            dtype=dtype,
            micro_batch=micro_batch,
            compiled=compiled,
            out=out,
            fresh=fresh,
            allow_pickle=allow_pickle,
            progress=report,
        )
        found = Run.of(carry_out(with_curves(plan, curves, report), report))
    if tracked:
        track_run.send(tracked, found.folder, found.metrics)
    return found


def show(folder: str | Path) -> Run:
    """Return a finished run from its folder.

    Raises:
        BadInput: it is no run folder, or has no results yet.
    """
    from ..benchmark.results.run_folder import read_run
    from ..benchmark.results.schema import load_metrics

    found = read_run(folder)
    return Run(found, load_metrics(found))


def tune(
    pair: str | Path | Pair,
    attack: str,
    grid: Mapping[str, Any] | None = None,
    *,
    candidates: int = 1024,
    seed: int = 0,
    defences: str | Sequence[str] = (),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Try settings on a shadow victim, which no reported number uses; without a grid, the attack's own.

    Args:
        pair: A pair's name or file, or a `Pair`.
        attack: Attack to tune.
        grid: Values to try by setting: `{"scale": [1, 3]}`.

    Raises:
        BadInput: something cannot be used; what it is stands in one line.
    """
    from ..benchmark.runs import tune as tuning

    loaded = _pair(pair)
    folder = Path(out or f"{loaded.name}-tuning")
    with _told(progress) as report:
        curve = tuning.tune(
            loaded,
            attack,
            {key: _several(values) for key, values in (grid or {}).items()},
            candidates=candidates,
            out=folder,
            seed=seed,
            device=device,
            defences=_several(defences),
            settings=settings,
            progress=report,
        )
    return Tuning(curve, tuning.curve_file(folder, attack, curve.defences))


def ablate(
    pair: str | Path | Pair,
    attack: str = "side",
    *,
    tier: str | None = None,
    candidates: int | None = None,
    seeds: int | Sequence[int] = (0,),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    device: str = "auto",
    out: str | Path = "ablations",
    progress: Progress | None = None,
) -> Ablated:
    """Run an attack and the same with one thing taken away at a time.

    Raises:
        BadInput: something cannot be used; what it is stands in one line.
    """
    from ..benchmark.runs import ablate as ablating

    with _told(progress) as report:
        result, rows = ablating.ablate(
            _pair(pair),
            attack,
            tier=tier,
            candidates=candidates,
            seeds=_several(seeds),
            settings=settings,
            device=device,
            out=out,
            progress=report,
        )
    return Ablated(Run.of(result), rows)


def compare(*runs: str | Path | Run) -> Comparison:
    """Compare finished runs of one pair: leak before and after a defence, quality and time; or attacks across runs.

    Raises:
        BadInput: fewer than two runs, or runs that cannot be compared: the field is named.
    """
    from ..benchmark.reports.compare.compare_runs import compare_runs
    from ..benchmark.results.run_folder import read_run

    folders = [one.folder if isinstance(one, Run) else read_run(one) for one in runs]
    return Comparison(compare_runs(folders), folders)


def gate(
    subject: str | Path | Run,
    policy: str | Path | Mapping[str, Any] = "example",
    *,
    baseline: str | Path | Run | None = None,
    model: str | None = None,
    pair: str | Path | None = None,
    device: str = "auto",
    out: str | Path = "runs",
    fresh: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> Release:
    """May this model be released?

    Args:
        subject: A pair to attack, or a finished run.
        policy: A policy's name or file, or what such a file holds.
        baseline: The last release: a run, a gate's folder, or a record.
        pair: Of a run: its pair file, if it is not a shipped pair.

    Raises:
        BadInput: something cannot be used; what it is stands in one line.
    """
    from ..benchmark.gate.judge import judge
    from ..benchmark.gate.policy import load_policy, parsed_policy
    from ..leaderboards.gate_baseline import read_baseline

    rules = parsed_policy(dict(policy), "given") if isinstance(policy, Mapping) else load_policy(policy)
    last = None if baseline is None else read_baseline(Path(_place(baseline)))
    with _told(progress) as report:
        decision = judge(
            _place(subject),
            rules,
            model=model,
            pair=None if pair is None else str(pair),
            baseline=last,
            device=device,
            out=out,
            fresh=fresh,
            allow_pickle=allow_pickle,
            progress=report,
        )
    return Release(decision)


def leaderboard(records: str | Path = DEFAULT_RECORDS) -> Boards:
    """Rank the records of a folder.

    Raises:
        BadInput: there is no such folder.
    """
    from ..leaderboards.build import read_folder

    return Boards(read_folder(Path(records)))


def _pair(named: str | Path | Pair) -> Pair:
    return named if isinstance(named, Pair) else load_pair(str(named))


def _several(given: Any) -> Sequence[Any]:
    """Return a list as it is, and a lone value, as for one attack or seed, as a list of one."""
    listed = isinstance(given, Iterable) and not isinstance(given, str | Path | Mapping)
    return list(given) if listed else [given]


def _place(named: str | Path | Run) -> str:
    return str(named.folder.path if isinstance(named, Run) else named)


def _told(progress: Progress | None) -> AbstractContextManager[Progress]:
    """Return who is told of progress: bars or lines on stderr, unless somebody else is named."""
    return reporter_for(sys.stderr) if progress is None else nullcontext(progress)
