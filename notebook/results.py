"""What the functions of a notebook return: each says its answer in a few lines, and has tables and pictures."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmark.errors import BadInput, SidebenchError
from ..benchmark.results.run_folder import RunFolder
from .plots import ComparisonPlots, RunPlots, TuningPlots
from .shown import block, first_lines

if TYPE_CHECKING:
    import pandas as pd

    from ..benchmark.gate.decision import Decision
    from ..benchmark.reports.compare.schema import Comparing
    from ..benchmark.results.schema import Metrics
    from ..benchmark.results.tuning_curve import Curve
    from ..benchmark.runs.ablate import AblationRow
    from ..benchmark.runs.runner import RunResult
    from ..leaderboards.ranking import Board, Leaderboard


@dataclass(frozen=True, repr=False)
class Report:
    """An HTML report; in a notebook the page itself is shown."""

    path: Path

    def __repr__(self) -> str:
        return f"Report({str(self.path)!r})"

    def _repr_html_(self) -> str:
        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        return f'<iframe srcdoc="{page}" sandbox="allow-same-origin" width="100%" height="720"></iframe>'


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run."""

    folder: RunFolder
    metrics: "Metrics"
    failures: dict[str, SidebenchError] = field(default_factory=dict)
    """Attacks that failed, with the reason; the others' results are kept."""

    @classmethod
    def of(cls, result: "RunResult") -> "Run":
        """Take what `execute` hands back; where nothing has results, raise the reason."""
        if result.metrics is None:
            raise next(iter(result.failures.values()), BadInput(f"{result.folder.path} has no results"))
        return cls(result.folder, result.metrics, result.failures)

    @property
    def verdict(self) -> str:
        """The answer in a few words, with the figures that it rests on."""
        from ..benchmark.reports.screen import answer

        return answer(self.metrics)

    def table(self) -> "pd.DataFrame":
        """Return a row for each attack: rates as shares of the candidates in the closest band; means over seeds."""
        import pandas as pd

        from ..benchmark.reports.screen import by_attack
        from ..benchmark.reports.summary import attack_figures

        rows = []
        for name, own in by_attack(self.metrics).items():
            figures = attack_figures(self.metrics, name, own)
            excess = figures.pop("excess") or {}
            ends = {"excess": excess.get("value"), "low": excess.get("low"), "high": excess.get("high")}
            rows.append({"attack": name, **figures, **ends})
        return pd.DataFrame(rows).set_index("attack")

    def rows(self) -> "pd.DataFrame":
        """Return every figure of metrics.csv: a row for each attack, seed, measure and band."""
        import pandas as pd

        from ..benchmark.results.schema import rows

        return pd.DataFrame(rows(self.metrics))

    @cached_property
    def plot(self) -> RunPlots:
        """The pictures of the report, by matplotlib."""
        return RunPlots(self.folder)

    def report(self, out: str | Path | None = None, *, with_images: bool = False) -> Report:
        """Return the report that the run wrote, or write one elsewhere, or with the strongest pairs' images.

        The images are somebody's data: without `out` they go into report-with-images.html beside the run's own report.
        """
        from ..benchmark.reports.page import write_report

        beside = self.folder.report_file.with_name("report-with-images.html") if with_images else None
        target = beside if out is None else Path(out)
        with self.folder.locked():
            write_report(self.folder, target, with_images=with_images, renew=with_images)
        return Report(target or self.folder.report_file)

    def track(self, *services: str) -> list[str]:
        """Send rates, plots and the manifest to trackio, wandb or mlflow (`SERVICE` or `SERVICE:PROJECT`).

        Returns the names of those that took it; what kept another from it is said in one line.

        Raises:
            BadInput: there is no such service, or its client is not installed.
        """
        from ..benchmark.runs import track

        return track.send(track.trackers(services), self.folder, self.metrics)

    def __repr__(self) -> str:
        from ..benchmark.reports.screen import brief

        lines = brief(self.folder, self.metrics).splitlines()
        failed = [f"  failed: {name}: {error}" for name, error in self.failures.items()]
        return first_lines([*lines[:-1], *failed, lines[-1]])

    def _repr_html_(self) -> str:
        failed = [f"failed: {name}: {error}" for name, error in self.failures.items()]
        where = f"report: {self.folder.report_file}"
        return block(self.verdict, self.table().drop(columns=["closest", "widest"]), [*failed, where])


@dataclass(frozen=True, repr=False)
class Tuning:
    """Every setting that was tried on a shadow victim."""

    curve: "Curve"
    file: Path
    """Where the curve is stored: what `run(tuned=[...])` takes."""

    @property
    def best(self) -> dict[str, Any]:
        """The values with the highest excess in the closest band."""
        return self.curve.best().values

    def table(self) -> "pd.DataFrame":
        """Return a row for each point, in the order in which they were tried; rates as shares of the candidates."""
        import pandas as pd

        rows = []
        for point in self.curve.points:
            result = point.result
            held_out = result.held_out.ams.value if result.held_out else None
            excess = result.excess
            rates = {"copies": result.training.ams.value, "control": held_out}
            ends = {"excess": excess and excess.value, "low": excess and excess.low, "high": excess and excess.high}
            rows.append({**point.values, **rates, **ends, "unique": result.training.groups})
        return pd.DataFrame(rows)

    @property
    def plot(self) -> TuningPlots:
        """The curve, by matplotlib."""
        return TuningPlots(self.curve)

    def __repr__(self) -> str:
        from ..benchmark.reports.tables import tuning_table

        lines = tuning_table(self.curve).splitlines()
        return first_lines([*lines[:1], lines[-1], *lines[1:-1]], more=".table()")

    def _repr_html_(self) -> str:
        chosen = ", ".join(f"{key} = {value}" for key, value in self.best.items())
        return block(f"{self.curve.attack}: {chosen}", self.table(), [f"curve: {self.file}"])


@dataclass(frozen=True, repr=False)
class Ablated:
    """An attack beside the same attack with one thing taken away at a time."""

    run: Run
    ablations: Sequence["AblationRow"]

    def table(self) -> "pd.DataFrame":
        """Return a row for each attack of the run."""
        import pandas as pd

        return pd.DataFrame([row._asdict() for row in self.ablations]).set_index("attack")

    def __repr__(self) -> str:
        from ..benchmark.runs.ablate import as_text

        return first_lines(as_text(self.ablations, self.run.metrics).splitlines(), more=".table()")

    def _repr_html_(self) -> str:
        return block("", self.table(), [f"report: {self.run.folder.report_file}"])


@dataclass(frozen=True, repr=False)
class Comparison:
    """Finished runs of one pair, the baseline first."""

    found: "Comparing"
    folders: Sequence[RunFolder]

    @property
    def verdict(self) -> str:
        """What the first yardstick shows over all runs and attacks, in one sentence."""
        from ..benchmark.reports.compare.verdict import headline

        return headline(self.found).title

    def table(self) -> "pd.DataFrame":
        """Return a row for each run, attack and yardstick: the leak before and after, as shares of the candidates."""
        import pandas as pd

        return pd.DataFrame(
            {
                "run": leak.run,
                "attack": leak.attack,
                "yardstick": leak.yardstick,
                "before": leak.before.value,
                "after": leak.after.value,
                "change": leak.change.value,
                "low": leak.change.low,
                "high": leak.change.high,
                "p": leak.p,
                "verdict": leak.verdict,
            }
            for leak in self.found.leaks
        )

    def prices(self) -> "pd.DataFrame":
        """Return a row for each run and attack: what the images are like, and what they cost."""
        import pandas as pd

        return pd.DataFrame(price.model_dump() for price in self.found.prices)

    @cached_property
    def plot(self) -> ComparisonPlots:
        """The pictures of the page, by matplotlib."""
        return ComparisonPlots(self.found, self.folders)

    def report(self, out: str | Path, *, with_images: bool = False) -> Report:
        """Write the page of the comparison and return it."""
        from ..benchmark.reports.compare.page import write_page

        write_page(self.found, self.folders, Path(out), with_images=with_images)
        return Report(Path(out))

    def __repr__(self) -> str:
        from ..benchmark.reports.compare.verdict import sentences

        return first_lines([self.verdict, *(f"  {line}" for line in sentences(self.found))], more=".table()")

    def _repr_html_(self) -> str:
        first = self.found.yardsticks()[0]
        rows = self.table()
        return block(self.verdict, rows[rows["yardstick"] == first].drop(columns="yardstick"), [f"leak by {first}"])


@dataclass(frozen=True, repr=False)
class Release:
    """What the gate says of a model."""

    decision: "Decision"

    @property
    def verdict(self) -> str:
        """`pass`, `fail` or `cannot tell`."""
        return self.decision.verdict

    def table(self) -> "pd.DataFrame":
        """Return a row for each claim: the limit, what was seen, and its bounds; all as shares."""
        import pandas as pd

        return pd.DataFrame(found._asdict() for found in self.decision.findings)

    def report(self, out: str | Path) -> Report:
        """Write the gate's page, which holds no image, and return it."""
        from ..benchmark.gate.page import write_page

        write_page(self.decision, Path(out))
        return Report(Path(out))

    def __repr__(self) -> str:
        from ..benchmark.gate.text import explanations, headline

        return first_lines([headline(self.decision), *(f"  {line}" for line in explanations(self.decision))])

    def _repr_html_(self) -> str:
        import pandas as pd

        from ..benchmark.gate.text import explanations, headline, rows

        return block(headline(self.decision), pd.DataFrame(rows(self.decision)), explanations(self.decision)[:8])


@dataclass(frozen=True, repr=False)
class Boards:
    """Records, ranked board by board."""

    found: "Leaderboard"

    @property
    def names(self) -> list[str]:
        """The boards' names."""
        return [board.name for board in self.found.boards]

    def table(self, board: str | None = None) -> "pd.DataFrame":
        """Return one board, the first by default: every ranked record with its rank range and excess.

        Raises:
            BadInput: there is no such board.
        """
        import pandas as pd

        from ..leaderboards.ranking import method_of

        chosen = self._board(board)
        return pd.DataFrame(
            {
                "method": method_of(row.record),
                "submitter": row.record.submitter,
                "best": row.best,
                "worst": row.worst,
                "excess": row.record.excess.value,
                "low": row.record.excess.low,
                "high": row.record.excess.high,
                "against plain": row.against_plain,
            }
            for row in chosen.ranked
        )

    def write(self, out: str | Path) -> Path:
        """Write the static site into a folder and return its first page."""
        from ..leaderboards.site import write_site

        write_site(self.found, Path(out))
        return Path(out) / "index.html"

    def _board(self, name: str | None) -> "Board":
        found = [board for board in self.found.boards if name in (None, board.name)]
        if not self.names:
            raise BadInput("there are no boards: no record in the folder is current")
        if not found:
            raise BadInput(f"there is no board {name!r}; there are: {', '.join(self.names)}")
        return found[0]

    def __repr__(self) -> str:
        lines = [f"{len(board.ranked):4} ranked  {board.name}" for board in self.found.boards]
        return first_lines([f"{len(lines)} boards", *lines], more=".names")

    def _repr_html_(self) -> str:
        import pandas as pd

        from ..leaderboards.verdicts import board_verdict

        rows = [{"board": board.name, "says": board_verdict(board)} for board in self.found.boards]
        return block(f"{len(rows)} boards", pd.DataFrame(rows), [])
