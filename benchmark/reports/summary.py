"""A run in at most 200 lines of JSON, for scripts: the figures of the first screen. All of them are in metrics.json."""

from statistics import fmean
from typing import Any

from ..results.run_folder import RunFolder
from ..results.schema import Metrics, Result
from .screen import ANSWERS, answer, by_attack, compared, control_rate, copies_rate, excess_of, per_thousand
from .tables import probe_flags

ATTACKS = 10
"""Attacks that are told one by one."""

FLAGS = 15
"""Flags that are told."""


def summary(folder: RunFolder, metrics: Metrics) -> dict[str, Any]:
    """Return what a finished run says, rates as shares of the candidates; of several seeds, over these.

    `says` is the answer in one of the words of `metrics.json` (`claims.says`), None where no claim can be made.
    """
    attacks = by_attack(metrics)
    first = next(iter(attacks.values()), [])
    known = [claim.says for claim in metrics.claims]
    flags = [*metrics.flags, *probe_flags(folder)]
    return {
        "folder": str(folder.path),
        "report": str(folder.report_file),
        "pair": metrics.pair,
        "revision": metrics.pair_revision,
        "defences": list(metrics.defences),
        "control": metrics.control,
        "protocol": metrics.protocol,
        "measure": first[0].measure if first else None,
        "band": first[0].bands[0].band if first and first[0].bands else None,
        "candidates": first[0].candidates if first else 0,
        "seeds": sorted({result.seed for own in attacks.values() for result in own}),
        "says": min(known, key=list(ANSWERS).index) if known and metrics.claims_excess else None,
        "answer": answer(metrics),
        "attacks": {name: attack_figures(metrics, name, own) for name, own in list(attacks.items())[:ATTACKS]},
        "attacks_left_out": max(0, len(attacks) - ATTACKS),
        "compared": compared(metrics, attacks),
        "flags": flags[:FLAGS],
        "flags_left_out": max(0, len(flags) - FLAGS),
        "everything": f"sidebench show {folder.path} --json full",
    }


def attack_figures(metrics: Metrics, name: str, own: list[Result]) -> dict[str, Any]:
    """Return one attack's figures in the closest band of the first measure, and what its claim says."""
    bands = [result.bands[0] for result in own if result.bands]
    claim = next((claim for claim in metrics.claims if claim.attack == name), None)
    excess = excess_of(metrics, own) if bands else None
    return {
        "says": claim.says if claim else None,
        "closest": claim.closest if claim else None,
        "widest": claim.widest if claim else None,
        "copies": copies_rate(bands) / 100 if bands else None,
        "control": None if (rate := control_rate(bands)) is None else rate / 100,
        "excess": None if excess is None else dict(zip(("value", "low", "high"), excess, strict=True)),
        "unique": fmean(band.training.groups for band in bands) if bands else None,
        "hits_per_1000_nfe": per_thousand(metrics, name),
    }
