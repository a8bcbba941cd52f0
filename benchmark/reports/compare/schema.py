"""What `sidebench compare` found: its keys, declared once with a sentence, and its tables."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ...results.schema import Estimate
from ..layout import table, wrapped
from ..tables import percent

SCHEMA = "sidebench-compare/1"

QUALITY = ("frechet_distance", "precision", "recall", "diversity", "label_accuracy")
OF_TEXT = ("frechet_distance_latents", "caption_accuracy", "held_out_caption_accuracy")
"""Quality figures of models with an autoencoder, and of attacks that send captions; no column where none has them."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ComparedRun(_Record):
    """One of the runs."""

    label: str = Field(description="its defences, or its folder's name where two runs have the same")
    run_id: str = Field(description="id of the run")
    pair: str = Field(description="name of the pair")
    defences: dict[str, dict[str, Any]] = Field(description="settings of the defences by name")
    candidates: int = Field(description="N_G per attack and seed")
    marks: list[str] = Field(description="fields in which the run differs from the baseline")


class Leak(_Record):
    """One attack on one run against the baseline, by one yardstick."""

    run: str = Field(description="label of the run")
    attack: str = Field(description="name of the attack")
    against: str = Field(description="name of the baseline's attack")
    settings: str = Field(description="how the attack's settings differ from those of the baseline; empty if not")
    yardstick: str = Field(description="measure and band, or: nearer in SPACE")
    space: str = Field(description="descriptor space of the yardstick")
    candidates: int = Field(description="candidates compared on either side, all seeds together")
    paired: bool = Field(description="both sides have the same seeds and so the same starting noise")
    before: Estimate = Field(description="leak of the baseline")
    after: Estimate = Field(description="leak of the run")
    change: Estimate = Field(description="after minus before")
    p: float = Field(description="two-sided p of the change, Holm-corrected over all rows")
    verdict: str = Field(description="leaks more, leaks less, or no difference seen")


class Price(_Record):
    """What one attack's candidates of a run are like and what they cost."""

    run: str = Field(description="label of the run")
    attack: str = Field(description="name of the attack")
    features: str = Field(description="feature space of the quality figures")
    frechet_distance: float | None = Field(description="to held-out images; smaller is better; mean over seeds")
    precision: float | None = Field(description="share of candidates on the held-out images' manifold")
    recall: float | None = Field(description="share of held-out images on the candidates' manifold")
    diversity: float | None = Field(description="mean rms distance of two candidates")
    label_accuracy: float | None = Field(description="of a classifier trained on the candidates, on held-out images")
    frechet_distance_latents: float | None = Field(None, description="Frechet distance in the autoencoder's latents")
    caption_accuracy: float | None = Field(None, description="share of images that show their own training caption")
    held_out_caption_accuracy: float | None = Field(None, description="the same of held-out captions")
    seconds: float = Field(description="wall time to prepare and generate, all seeds, on whatever else ran there")
    seconds_ratio: float | None = Field(description="seconds over those of the baseline, per candidate")
    processor_ratio: float | None = Field(description="processor seconds over those of the baseline, per candidate")
    work_ratio: float | None = Field(description="denoiser-equivalents (NFE) over those of the baseline, per candidate")


class Comparing(_Record):
    """Everything that `sidebench compare` prints."""

    schema_: str = Field(SCHEMA, alias="schema", description="name and version of this schema")
    baseline: str = Field(description="label of the run that the others are compared with")
    runs: list[ComparedRun] = Field(description="the baseline first")
    leaks: list[Leak] = Field(description="one per run, attack and yardstick, without the baseline")
    prices: list[Price] = Field(description="one per run and attack, the baseline first")
    real: dict[str, float | None] = Field(description="quality figures of the real training images")
    flags: list[str] = Field(description="what a reader must know before using the numbers")

    def __repr__(self) -> str:
        runs = ", ".join(run.label for run in self.runs)
        return f"Comparing(baseline={self.baseline!r}, runs: {runs}; {len(self.leaks)} leaks, {len(self.flags)} flags)"

    __str__ = __repr__

    def yardsticks(self) -> list[str]:
        """Return the names of the yardsticks, the headline first."""
        return list(dict.fromkeys(leak.yardstick for leak in self.leaks))


def leak_rows(found: Comparing, yardstick: str) -> list[dict[str, str]]:
    """Return one row per run and attack by one yardstick, in percent of candidates."""
    return [
        {
            "run": leak.run,
            "attack": _attack_words(leak),
            "before": percent(leak.before),
            "after": percent(leak.after),
            "change": percent(leak.change),
            "p (Holm)": f"{leak.p:.2g}",
            "verdict": leak.verdict,
            "seeds": "same" if leak.paired else "other",
        }
        for leak in found.leaks
        if leak.yardstick == yardstick
    ]


def price_rows(found: Comparing) -> list[dict[str, str]]:
    """Return quality and cost by run and attack, real training images first."""
    keys = [*QUALITY, *(key for key in OF_TEXT if any(getattr(price, key) is not None for price in found.prices))]
    real = {
        "images": "real training images",
        "attack": "",
        **_quality_cells(found.real, keys),
        "wall time": "",
        "CPU time": "",
        "work": "",
    }
    return [
        real,
        *(
            {
                "images": price.run,
                "attack": price.attack,
                **_quality_cells(price.model_dump(), keys),
                "wall time": _times(price.seconds_ratio),
                "CPU time": _times(price.processor_ratio),
                "work": _times(price.work_ratio),
            }
            for price in found.prices
        ),
    ]


def leak_per_quality_rows(found: Comparing) -> list[dict[str, str]]:
    """Return what each run takes off the leak, in points of the first yardstick, and what it adds to the distance.

    A rate of the two is given only where the leak was seen to fall: noise over noise is no rate.
    """
    prices = {(price.run, price.attack): price for price in found.prices}
    rows = []
    for leak in found.leaks:
        before, after = prices.get((found.baseline, leak.against)), prices[leak.run, leak.attack]
        if leak.yardstick != found.yardsticks()[0] or before is None:
            continue
        removed = -100 * leak.change.value
        added = None
        if before.frechet_distance is not None and after.frechet_distance is not None:
            added = after.frechet_distance - before.frechet_distance
        rows.append(
            {
                "run": leak.run,
                "attack": _attack_words(leak),
                "leak left": percent(leak.after),
                "points removed": f"{removed:z.2f}",
                "Frechet distance": _number(after.frechet_distance),
                "added": "-" if added is None else f"{added:+z.3f}",
                "points per 0.1 added": _rate(removed, added) if leak.verdict == "leaks less" else "none removed",
                "CPU time": _times(after.processor_ratio),
            }
        )
    return rows


def as_text(found: Comparing, sentences: Sequence[str] = (), width: int | None = None) -> str:
    """Return every table as text, below sentences that say what they show; no line is wider than a given width."""

    def shown(rows: list[dict[str, str]]) -> str:
        return table(rows, width, keys=2, plain=True)

    head = [f"baseline: {found.baseline}. Percent of candidates, 95 % interval in brackets."]
    head += [f"{run.label} differs in {mark}" for run in found.runs for mark in run.marks]
    parts = ["\n".join(head), *(["\n".join(sentences)] if sentences else [])]
    parts = [wrapped(part, width) for part in parts]
    parts += [f"leak by {name}\n{shown(leak_rows(found, name))}" for name in found.yardsticks()]
    parts.append(f"quality in {found.prices[0].features}, and cost over the baseline\n{shown(price_rows(found))}")
    parts.append(f"leak per quality, by {found.yardsticks()[0]}\n{shown(leak_per_quality_rows(found))}")
    return "\n\n".join([*parts, *(wrapped(f"flag: {flag}", width) for flag in found.flags)])


def _attack_words(leak: Leak) -> str:
    words = leak.attack if leak.attack == leak.against else f"{leak.attack} (against {leak.against})"
    return f"{words}, {leak.settings}" if leak.settings else words


def _quality_cells(figures: dict[str, Any], keys: Sequence[str]) -> dict[str, str]:
    return {key.replace("_", " "): _number(figures.get(key)) for key in keys}


def _rate(removed: float, added: float | None) -> str:
    if added is None:
        return "-"
    return f"{removed / added / 10:z.2f}" if added > 0 else "no distance added"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"x {ratio:.2f}"
