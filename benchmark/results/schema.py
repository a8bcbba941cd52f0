"""Every key of metrics.json, declared once with a sentence. `rates` makes them from committed scores."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import BadInput, CorruptRun
from ..files import read_json
from ..stats.intervals import Interval
from .run_folder import RunFolder
from .sums import check_sums

SCHEMA = "sidebench-metrics/1"

How = Literal["identity", "round trip", "output defence", "none"]
"""How a reach came about."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Estimate(_Record):
    """A number and its interval; the field that holds it says of what."""

    value: float = Field(description="the estimate")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")

    @classmethod
    def of(cls, value: float, interval: Interval) -> Self:
        """Return the estimate as it is stored."""
        return cls(value=value, low=interval.low, high=interval.high)


class _Count(_Record):
    count: int = Field(description="candidates in the band")


class Rate(Estimate, _Count):  # in this order the count stays the first field of the published schema
    """A count of candidates over N_G, with its interval."""

    value: float = Field(description="count / N_G")
    one_sided: bool = Field(
        False,
        description="`low` is a one-sided lower bound at 95 %; above the value nothing is known, and `high` repeats it",
    )


class Calibrated(_Record):
    """Rates at a threshold calibrated so that held-out images are hit at the rate q."""

    q: float = Field(description="held-out hit rate that the threshold was calibrated to")
    refused: str = Field(description="why the run cannot support q; empty where it can")
    tau: float | None = Field(description="threshold, from the candidates with even numbers")
    tau_low: float | None = Field(description="lower end of the threshold's interval")
    tau_high: float | None = Field(description="upper end of the threshold's interval")
    candidates: int = Field(description="candidates with odd numbers, on which the rates are taken")
    training: Rate | None = Field(description="AMS on training images at tau")
    held_out: Rate | None = Field(description="AMS on held-out images at tau")
    excess: Estimate | None = Field(description="their difference; its interval carries tau's uncertainty on")


class _Candidates(_Record):
    candidates: int = Field(description="number of candidates")


class Point(Estimate, _Candidates):
    """Distinct images expected from a number of candidates."""

    value: float = Field(description="expected number of distinct species")
    kind: str = Field(description="rarefied, observed, or extrapolated (an estimate)")


class Richness(_Record):
    """How many could be found: curves in the closest band, and lower bounds on all that can be found."""

    groups: list[Point] = Field(description="duplicate groups among best matches (abundance data)")
    images: list[Point] = Field(description="images that any candidate has in the band (incidence data)")
    chao1_groups: Point = Field(description="lower bound on the groups that can be found; an estimate")
    chao2_images: Point = Field(description="lower bound on the images that can be found; an estimate")


class SideResult(_Record):
    """What was hit on one side, in one band."""

    ams: Rate = Field(description="candidates whose best match is in the band (Wilson interval)")
    ums: Rate = Field(description="distinct references that any candidate has in the band, over N_G")
    ums_best: Rate = Field(description="distinct best matches in the band, over N_G")
    groups: int = Field(description="distinct duplicate groups among the best matches in the band")
    largest_group: int = Field(description="images in the largest duplicate group hit (k of k-eidetic)")


class BandResult(_Record):
    """One band on both sides."""

    band: str = Field(description="name; high+mid is the union of both")
    low: float = Field(description="lower edge of the score")
    high: float = Field(description="upper edge of the score")
    training: SideResult = Field(description="against the training images")
    held_out: SideResult | None = Field(description="against the held-out images, the control; None without any")
    reference: SideResult | None = Field(
        None, description="candidates of the reference model against the training images; None without such a model"
    )
    owned_training: float | None = Field(
        None,
        description="candidates whose nearest duplicate group of X and H together lies in X, in the band; a tie counts "
        "1/2; None without held-out images",
    )
    owned_held_out: float | None = Field(None, description="the same of H")
    excess: Estimate | None = Field(
        description="A = sum over size classes c of a_Xc - (G_Xc / G_Hc) a_Hc, with a the share of candidates that a "
        "side's groups own and G their number: 0 without a leak at any sizes; the ends are limits of the leak. With a "
        "reference model: AMS minus its AMS on the same images. Without duplicate groups that lie on both sides; None "
        "without control, and where the measure has a ruler of its own for either side"
    )
    label_swap_p: float | None = Field(
        description="one-sided p of the label-swap test for this band alone: X owns more than by chance (reference "
        "model: sign-flip test by duplicate group); None where there is no excess"
    )
    matched_ams: float | None = Field(
        description="AMS on training images matched to the held-out number, without duplicate groups of both sides; "
        "None where there are no more training than held-out images, or no held-out ones"
    )


class Percentiles(_Record):
    """The best-match score that 95 % of the candidates stay short of."""

    training: float | None = Field(description="against the training images")
    held_out: float | None = Field(description="against the held-out images; None without any")
    reference: float | None = Field(None, description="of the reference model's candidates against the training images")


class Result(_Record):
    """One attack, seed and measure."""

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    measure: str = Field(description="id of the measure, with its preprocessing")
    candidates: int = Field(description="N_G, broken images included")
    nan: int = Field(description="images with values that are not finite; never a match")
    constant: int = Field(description="images of one single value; never a match")
    bands: list[BandResult] = Field(description="fixed bands, closest first, then their unions")
    calibrated: list[Calibrated] = Field(description="one per calibration rate q")
    richness: Richness | None = Field(description="of the closest band; None without bands")
    percentile_95: Percentiles = Field(description="95th percentile of the best-match score")


class OwnImages(_Record):
    """Is a caption's own image the nearest one? A link between captions and images, of one attack and seed.

    Each candidate that was sampled from a caption of one side has its nearest image in one pool of X and H. It is the
    caption's own if it is of that caption, or of a near-duplicate group with such an image. Caption families are the
    sampling units: a rate is the mean of their shares. An extraction needs a small distance too: `extracted`.
    """

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    measure: str = Field(description="id of the measure, the first that has one scale for both sides")
    training_captions: int = Field(description="captions of training images that were replayed")
    training_families: int = Field(description="caption families that they are of")
    control_captions: int | None = Field(
        description="captions of held-out images that were replayed; with a reference model those of training images, "
        "asked of it; None without a control"
    )
    control_families: int | None = Field(description="caption families that they are of")
    training: Estimate = Field(description="own image nearest, training captions (Wilson, families as trials)")
    control: Estimate | None = Field(description="the same of the control")
    difference: Estimate | None = Field(description="training minus control (Newcombe 1998, families as trials)")
    p: float | None = Field(
        description="one-sided p of the label-swap test over families: training captions are linked to their images "
        "more often than the control's; None without a control"
    )
    q: float | None = Field(
        description="calibration rate of `threshold`; None: the run supports none, it is the far edge of the closest "
        "band instead"
    )
    threshold: float = Field(description="score within which an own image counts as extracted")
    extracted: Estimate = Field(
        description="own image nearest and within the threshold, training captions; where it was calibrated, of "
        "candidates with odd numbers"
    )
    extracted_control: Estimate | None = Field(description="the same of the control")


class CaptionFlags(_Record):
    """Captions that an attack calls memorised, whose sides only scoring knows.

    The threshold is set on one half of the held-out captions, by family, so that at most one in 50 of them is flagged.
    Training captions and the other half are reported, by caption family.
    """

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    measure: str = Field(description="id of the measure that says when a flag is true")
    kind: Literal["cliques", "state"] = Field(
        description="what is compared with the threshold. cliques: the distance at which a clique of a caption's "
        "images closes, flagged below; state: the attack's own score of a caption, flagged above"
    )
    training_captions: int = Field(description="captions of training images that were rated")
    control_captions: int = Field(description="captions of held-out images that were rated, both halves")
    refused: str = Field(description="why no threshold can be set; empty where one is")
    threshold: float | None = Field(None, description="distance or score, exclusive; None where refused")
    calibrated_on: int = Field(0, description="held-out captions that set it")
    training: Estimate | None = Field(None, description="flagged, training captions (Wilson, families as trials)")
    control: Estimate | None = Field(None, description="the same of the held-out captions that did not set it")
    difference: Estimate | None = Field(None, description="training minus control (Newcombe 1998)")
    p: float | None = Field(None, description="one-sided p of the label-swap test over families")
    flags: int = Field(0, description="flagged captions of the reported ones, both sides")
    true: int = Field(0, description="flags whose image is some training image: nearest and within the threshold")
    own: int = Field(0, description="of these, flags whose image is the caption's own")
    precision: Estimate | None = Field(None, description="true / flags (Wilson); None without a flag")


class Exposed(_Record):
    """Strings that were planted a number of times."""

    copies: int = Field(description="how often each was planted; 0: matched strings that never were")
    strings: int = Field(description="how many strings")
    log2_rank: float = Field(description="mean log2 of the rank; 0: first of all")
    exposure: Estimate = Field(description="mean exposure in bits (t interval over strings)")


class Exposure(_Record):
    """How far what a model makes of a planted string stands out (Carlini et al. 2019, arXiv 1802.08232, on images).

    A string's rank is 1 plus how many strings that were never planted give images at least as near to its image, its
    exposure log2(others + 1) - log2(rank). Strings that were never planted have a uniform rank: 1.44 bits in the mean.
    """

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    others: int = Field(description="strings never planted, among which each is ranked")
    by_copies: list[Exposed] = Field(description="by number of copies, never planted first")
    planted: Estimate = Field(description="mean exposure of all planted strings, in bits (t interval)")
    difference: Estimate | None = Field(
        description="planted minus matched strings, in bits (Welch); None with fewer than two of either"
    )
    p: float | None = Field(description="one-sided p of the label-swap test over strings")


class Compared(_Record):
    """Two attacks on the same candidates, by the measure and in one of the bands of the claims."""

    first: str = Field(description="name of the first attack")
    second: str = Field(description="name of the second attack")
    seed: int = Field(description="run seed")
    measure: str = Field(description="id of the measure")
    band: str = Field(description="name of the band")
    difference: Estimate = Field(
        description="excess of the first minus excess of the second; of their AMS where there is no control"
    )
    ratio: Estimate | None = Field(
        description="excess (without control: AMS) of the first over that of the second; None if refused"
    )
    ratio_refused: str = Field(description="why there is no ratio; empty where there is one")
    p: float = Field(description="two-sided p, Holm-corrected over all comparisons and bands of the run")
    verdict: str = Field(
        description="finds more, finds fewer, no difference seen; of raw rates: hits more (raw rate), ..."
    )
    smallest_difference: float = Field(description="difference that this run sees with a chance of 80 %")


class AttackRatio(_Record):
    """Two attacks over their preparations, in one of the bands of the claims: a statement about the attacks."""

    first: str = Field(description="name of the first attack")
    second: str = Field(description="name of the second attack")
    seeds: list[int] = Field(description="run seeds that both have, two or more")
    preparations: int | None = Field(
        description="preparations of the attacks, one per seed; None where neither prepares anything"
    )
    measure: str = Field(description="id of the measure")
    band: str = Field(description="name of the band")
    first_rate: Estimate | None = Field(
        description="excess (without control: AMS) of the first, the geometric mean over its preparations; None where "
        "one of them has none"
    )
    second_rate: Estimate | None = Field(description="the same of the second")
    spread: float | None = Field(
        description="standard deviation of log rates between preparations; None where it is not known"
    )
    ratio: Estimate | None = Field(description="rate of the first over that of the second; None if refused")
    ratio_refused: str = Field(description="why there is no ratio; empty where there is one")
    p: float = Field(description="two-sided p of a ratio of 1, Holm-corrected over all ratios of the run")
    verdict: str = Field(description="as in `comparisons`, over these preparations; no ratio: nothing is said")


class BandClaim(_Record):
    """What one attack, all its preparations together, shows in one of the nested bands."""

    band: str = Field(description="name of the band")
    p: float = Field(description="one-sided p of no leak, corrected for all nested bands and attacks of the run")
    at_least: float = Field(description="lower limit of the leak, all bands and attacks of the run together at 95 %")
    at_most: float = Field(description="upper limit of the leak, at 95 %")


Says = Literal["excess", "none seen", "cannot tell", "cannot see", "unlike images", "control does not fit"]


class LeakClaim(_Record):
    """What an attack shows over its control, by the first measure that decides, in all nested bands together."""

    attack: str = Field(description="name of the attack")
    seeds: list[int] = Field(description="run seeds, whose candidates are taken together")
    measure: str = Field(description="id of the measure")
    candidates: int = Field(description="candidates of all seeds")
    says: Says = Field(
        description="an excess; none seen; cannot tell: hits lie in too few groups for any test; cannot see: most "
        "training images are not found again after the model's own round trip; unlike images: the candidates are not "
        "of the pair's kind, so that finding nothing says nothing; the control does not fit: held-out "
        "images are hit more often than chance allows"
    )
    closest: str | None = Field(description="the closest band with an excess; None without any")
    widest: str | None = Field(description="the widest band with an excess; None without any")
    bands: list[BandClaim] = Field(description="nested bands, closest first")
    groups_hit: int = Field(description="duplicate groups of both sides that own a candidate in the widest band")
    least_groups: int | None = Field(
        description="groups that must be hit before the label-swap test can reject at the level in force; None: no "
        "number is enough, or the control is a reference model"
    )
    memorised: list[int] = Field(
        [],
        description="duplicate groups of X, by their number in references.parquet, that candidates come nearer to than "
        "held-out groups explain: conformal p-values, false discovery rate 5 %; empty with another control",
    )
    remark: str = Field("", description="what a reader must know of this attack; empty for nothing")


class Cost(_Record):
    """Logical work of one attack and seed, whatever was resumed or shared."""

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    nfe: dict[str, int] = Field(description="denoiser calls (one sample each) by phase")
    flops: dict[str, float] = Field(description="operations outside the denoiser by phase")
    denoiser_flops: int = Field(description="operations of one denoiser call on one sample")
    denoiser_equivalents: float = Field(description="nfe plus flops / denoiser_flops, over all phases")
    synthetic_images: int = Field(description="plain samples that the attack made for its own use; they may hit too")
    synthetic_hits: int = Field(description="how many of them hit, by the headline measure's closest band")
    hits: int = Field(description="candidates that hit, by the same band")
    hits_per_1000_equivalents: float | None = Field(
        description="hits of candidates and synthetic images per 1,000 denoiser-equivalents: equal cost; None: no work"
    )
    skipped_steps: int = Field(description="steps of candidates at which guidance was singular and left out")


class Effort(_Record):
    """What one attack finds for a budget, in a nested band of the headline measure: all attacks at equal effort."""

    attack: str = Field(description="name of the attack")
    seed: int = Field(description="run seed")
    band: str = Field(
        "", description="the closest of the nested bands, or the widest; empty, the closest, in older files"
    )
    currency: str = Field(description="denoiser calls, or denoiser-equivalents")
    budget: float = Field(description="what may be spent, preparation included")
    budget_of: str = Field(description="the attack whose total cost the budget is, or several")
    candidates: int = Field(description="candidates that the budget buys after the preparation")
    synthetic_images: int = Field(
        description="synthetic images among what the budget buys; they count under denoiser-equivalents alone"
    )
    hits: Estimate = Field(description="expected hits on training images, without duplicate groups of both sides")
    held_out_hits: Estimate | None = Field(description="the same on held-out images; None without any")
    groups: Estimate | None = Field(description="expected different duplicate groups of the hits; None if refused")
    kind: str = Field(description="of `groups`: rarefied, observed, or extrapolated (an estimate)")
    refused: str = Field(description="why `groups` cannot be said; empty where it can")


class ControlCheck(_Record):
    """Is the held-out set a fair control for the training set? Asked of the images that are compared."""

    auc: float = Field(description="two-sample classifier's AUC between X and H, cross-validated; 0.5: no difference")
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end of the 95 % interval")
    told_apart: bool = Field(description="the interval excludes 0.5: read the control as surrogate")
    overlapping_groups: int = Field(
        description="duplicate groups with images on both sides; they leave both sides of every comparison of the two"
    )
    overlapping_training: int = Field(0, description="training images in these groups")
    overlapping_held_out: int = Field(0, description="held-out images in these groups")


class ReachedShare(Estimate):
    """A share of reference images, with its interval (Wilson)."""

    value: float = Field(description="count / images")
    count: int = Field(description="reference images that are reached")
    images: int = Field(description="reference images that were looked at, evenly spaced in their side")

    @classmethod
    def counted(cls, count: int, images: int, interval: Interval) -> Self:
        """Return count / images with its interval."""
        return cls(value=count / images, low=interval.low, high=interval.high, count=count, images=images)


class Reach(_Record):
    """One measure and band: which reference images would be found if the model gave them away whole.

    Each image goes through what a candidate goes through at the end, and is scored as a candidate. It is reached if
    its best match lies in the band and is of its own duplicate group.
    """

    measure: str = Field(description="id of the measure")
    band: str = Field(description="name; high+mid is the union of both")
    how: How = Field(
        description="identity: a copy would be exact, nothing was computed; round trip: through the model's "
        "autoencoder, then its defences on the output; output defence: through those alone; none: no reach exists"
    )
    reason: str = Field(description="why there is no reach, or what the images went through; empty for identity")
    training: ReachedShare | None = Field(description="of the training images; None where no reach exists")
    held_out: ReachedShare | None = Field(description="of the held-out images; None without any, or without a reach")


class Metrics(_Record):
    """metrics.json: functions of the committed score shards and of logical cost, nothing that varies."""

    schema_: str = Field(SCHEMA, alias="schema", description="name and version of this schema")
    run_id: str = Field(description="deterministic id of the run")
    pair: str = Field(description="name of the pair")
    pair_revision: int = Field(description="revision of the pair")
    protocol: str = Field(description="protocol version")
    control: str = Field(description="kind of control: iid, surrogate, reference-model, none")
    defences: dict[str, dict[str, Any]] = Field({}, description="settings of the defences by name; empty without any")
    training_images: int = Field(description="|X|")
    held_out_images: int = Field(description="|H|")
    training_groups: int = Field(description="duplicate groups in X")
    held_out_groups: int = Field(description="duplicate groups in H")
    control_check: ControlCheck | None = Field(description="whether X and H are distinguishable; None without H")
    turned_held_out: int = Field(0, description="held-out images that are training images mirrored or turned")
    own_images: list[OwnImages] = Field(
        [], description="how often a caption's own image is nearest, by attack that replays captions and seed"
    )
    caption_flags: list[CaptionFlags] = Field(
        [], description="captions called memorised, by attack that calls some so and seed"
    )
    exposures: list[Exposure] = Field([], description="exposure of canaries, by attack that replays them and seed")
    results: list[Result] = Field(description="one per attack, seed and measure")
    claims: list[LeakClaim] = Field([], description="what each attack shows; empty without a fair control")
    comparisons: list[Compared] = Field(description="every two attacks under the same seed, in each nested band")
    attack_ratios: list[AttackRatio] = Field(
        [],
        description="every two attacks over the preparations that they share, in each nested band; empty with one seed",
    )
    costs: list[Cost] = Field(description="one per attack and seed")
    efforts: list[Effort] = Field(
        [], description="what each attack finds at the total cost of each attack of the same seed, in both currencies"
    )
    reference_costs: list[Cost] = Field(
        [], description="the same of the reference model's run; no part of an attack's cost"
    )
    reach: list[Reach] = Field(
        [], description="what each measure and band can see, for all attacks; empty in runs of before it was recorded"
    )
    flags: list[str] = Field(description="what a reader must know before using the numbers")

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(getattr(self, name))} {name}" for name in ("results", "claims", "flags"))
        return f"Metrics(run_id={self.run_id!r}, pair={self.pair!r}, control={self.control!r}, {counts})"

    __str__ = __repr__

    @property
    def claims_excess(self) -> bool:
        """Whether the control is a fair one, so that the excess means something."""
        return fair_control(self.control, self.control_check)


def fair_control(control: str, check: ControlCheck | None) -> bool:
    """Return whether an excess over this kind of control, looked at so, means something.

    That a reference model was not trained on X is the pair's word: nothing here can check it.
    """
    return control == "reference-model" or (control == "iid" and check is not None and not check.told_apart)


_ESTIMATE = {"": "value", "_low": "low", "_high": "high"}


def rows(metrics: Metrics) -> list[dict[str, Any]]:
    """Flatten the results to one row per attack, seed, measure and band, for metrics.csv."""
    table = []
    for result in metrics.results:
        head = result.model_dump(include={"attack", "seed", "measure", "candidates", "nan", "constant"})
        for band in result.bands:
            row = {**head, "band": band.band}
            for side in ("training", "held_out", "reference"):
                found: SideResult | None = getattr(band, side)
                for name in ("ams", "ums", "ums_best"):
                    rate: Rate | None = getattr(found, name, None)
                    row |= _columns(f"{side}_{name}", rate, {"_count": "count", **_ESTIMATE})
                row[f"{side}_groups"] = getattr(found, "groups", None)
            table.append(row | _columns("excess", band.excess, _ESTIMATE))
    return table


def _columns(prefix: str, found: Estimate | None, suffixes: dict[str, str]) -> dict[str, float | None]:
    """Return a column per suffix, empty where there is no such figure."""
    return {prefix + suffix: getattr(found, field, None) for suffix, field in suffixes.items()}


def load_metrics(folder: RunFolder | Path | str) -> Metrics:
    """Read a run's metrics.json, once it and what stands beside it are found to be what the run wrote.

    Args:
        folder: The run's folder, or its path.

    Raises:
        BadInput: the run has no results yet.
        CorruptRun: the file is of another schema, or a file of the results was changed.
    """
    folder = folder if isinstance(folder, RunFolder) else RunFolder(Path(folder))
    file = folder.path / "metrics.json"
    if not file.exists():
        raise BadInput(f"{folder.path} has no results yet; run the same command again to finish it")
    check_sums(folder)
    content = read_json(file)
    if content.get("schema") != SCHEMA:
        raise CorruptRun(f"{folder.path.name}/metrics.json has schema {content.get('schema')!r}, wanted {SCHEMA}")
    try:
        return Metrics.model_validate(content)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise CorruptRun(f"{folder.path.name}/metrics.json, {key}: {error.errors()[0]['msg']}") from None
