"""A run with several preparations: what it says of the attacks, in metrics.json, the tables and the report."""

from pathlib import Path
from typing import Any

from sidebench.benchmark.reports.page import write_report
from sidebench.benchmark.reports.page_data import read_contents
from sidebench.benchmark.reports.tables import text_tables, verdicts
from sidebench.benchmark.reports.verdict import checks
from sidebench.benchmark.runs import runner


def test_two_preparations_are_compared_and_one_says_so(finished: Any, make_plan: Any, tmp_path: Path) -> None:
    attacks = ("carlini-uncond", "side")
    result = runner.execute(make_plan(tmp_path, attacks=attacks, seeds=(0, 1), model="control:mixture:0.4"))
    metrics = result.metrics
    assert metrics is not None
    bands = list(dict.fromkeys(found.band for found in metrics.comparisons))
    assert [found.band for found in metrics.attack_ratios] == bands
    first = metrics.attack_ratios[0]
    assert (first.first, first.second, first.seeds, first.preparations) == ("side", "carlini-uncond", [0, 1], 2)
    # A mixture gives every attack the same images; with 40 candidates of two preparations nothing else is seen.
    assert first.verdict in ("no difference seen", "no ratio")
    text = text_tables(metrics)
    assert "attack against attack over their preparations" in text
    assert all("2 preparations" in line for line in verdicts(metrics))
    write_report(result.folder)
    page = result.folder.report_file.read_text(encoding="utf-8")
    assert "Attack against attack over their preparations" in page and "between preparations" in page

    one = finished.metrics
    assert one.claims and all("40 candidates of this preparation" in line for line in verdicts(one))
    text = text_tables(one)
    assert "over their preparations" not in text and "attack against attack, of this preparation of each" in text
    assert "over their preparations" not in finished.folder.report_file.read_text(encoding="utf-8")
    contents = read_contents(finished.folder)
    made = checks(one, contents.audit, contents.quality, contents.costs)
    (said,) = [check for check in made if check.what == "Replication"]
    assert said.finding.startswith("this preparation of each attack") and said.state == "look"
