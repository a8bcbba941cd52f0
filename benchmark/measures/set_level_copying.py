"""Two global copying figures from the literature, AuthPct and C_T, and what they cannot see.

Both work on descriptors (N x D, Euclidean) and say one number for a whole set of images. Neither is an
extraction metric: a few verbatim copies leave them unmoved, which `sensitivity` shows on the user's own data. No
verdict rests on them and they cost more than scoring does, so a run makes them only when asked for.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..candidates import generator, stream_seed
from ..contracts import AttackState
from ..data.fits import Fits
from ..data.nearest import top_k
from ..data.pixels import pixel_descriptors
from ..data.references import ImageSet, References
from ..errors import BadInput, TooFew
from ..stats.intervals import Interval, wilson
from .frechet import moments_of

Array = np.ndarray | Tensor

COMPONENTS, CELLS, LEAST_GENERATED = 64, 3, 20
"""Principal components, k-means cells, and generated points below which a cell is dropped."""

MOST_GENERATED = 10_000
"""Candidates of a run that the figures are computed on."""


_BLOCK = 1024
"""Descriptors that are held as float64 at a time."""

SHARES = (0, 0.001, 0.01, 0.1)
"""Shares of exact training copies that `sensitivity` plants."""


class AuthPct(NamedTuple):
    """The share of generated images that count as authentic."""

    value: float
    """In 0 .. 100; lower: more copying."""
    interval: Interval
    """Wilson, 95 %, over generated images, in the same units."""
    generated: int
    training: int
    """Training images that were compared with, after de-duplication if groups were given."""
    blind: int
    """Generated images whose nearest training image has an exact duplicate: authentic unless bit-exact."""
    deduplicated: bool


class Cell(NamedTuple):
    """One k-means cell of the data-copying test."""

    z: float | None
    """None where the cell was dropped."""
    generated: int
    held_out: int
    training: int


class DataCopying(NamedTuple):
    """The data-copying statistic C_T."""

    value: float
    """Far below 0: copying; far above 0: underfitting. Grows with the sizes, so quote them."""
    generated: int
    """m, all cells."""
    held_out: int
    """n, all cells."""
    training: int
    dropped: int
    """Cells left out: fewer than 20 generated points, or no held-out one."""
    components: int
    cells: tuple[Cell, ...]


class Sensitivity(NamedTuple):
    """Both figures with a known share of exact training copies planted."""

    share: float
    copies: int
    auth_pct: AuthPct
    data_copying: DataCopying


class _Partition(NamedTuple):
    """Principal components and cells of the training descriptors, and what C_T needs of both sides; all tensors."""

    mean: Tensor
    axes: Tensor
    centres: Tensor
    training: Tensor
    """Components of the training descriptors, N x 64 float32."""
    training_cells: Tensor
    held_out_cells: Tensor
    held_out_far: Tensor
    """Distance of each held-out point to its nearest training point."""


def auth_pct(generated: Array, training: Array, groups: Sequence[int] | np.ndarray | None = None) -> AuthPct:
    """Return 100 times the share of generated g with d(g, x*) > d(x*, nn(x*)) (Alaa et al. 2022, arXiv 2102.08921).

    x* is the training image nearest to g, nn(x*) the nearest other training image; x* itself is left out
    by its number, not by its distance. Blind to duplicated images: an exact duplicate makes d(x*, nn) = 0, so
    every near copy of x* counts as authentic, all but a bit-exact one (0 > 0 is false). Give `groups` for the
    figure on de-duplicated training images. Other suites subtract 50 or subsample; this one does neither.

    Args:
        generated: descriptors, m x D.
        training: descriptors, N x D, N >= 2 after de-duplication.
        groups: duplicate-group number of each training image, (N,); the first image of each group is kept.

    Raises:
        BadInput: the arrays do not fit together or are not finite.
        TooFew: no generated image, or fewer than two training images.
    """
    queries, references = _descriptors(generated=generated, training=training)
    if groups is not None:
        numbers = np.asarray(groups)
        if numbers.shape != (len(references),):
            raise BadInput(f"groups: one number per training image is needed, {len(references)}, not {numbers.shape}")
        references = references[torch.from_numpy(np.sort(np.unique(numbers, return_index=True)[1]))]
    if not len(queries) or len(references) < 2:
        raise TooFew(f"AuthPct needs a generated and two training images, got {len(queries)} and {len(references)}")
    nearest = top_k(queries, references, 1)
    gaps = _own_gaps(references, nearest.ids[:, 0])
    authentic = int((nearest.distances[:, 0] > gaps).sum())
    low, high = wilson(authentic, len(queries))
    return AuthPct(
        100 * authentic / len(queries),
        Interval(100 * low, 100 * high),
        generated=len(queries),
        training=len(references),
        blind=int((gaps == 0).sum()),
        deduplicated=groups is not None,
    )


def _own_gaps(references: Tensor, ids: Tensor) -> Tensor:
    """Return for each numbered reference the distance to the nearest other one."""
    used, back = ids.unique(return_inverse=True)
    found = top_k(references[used], references, 2)
    # With duplicates the reference itself may stand second, or not at all.
    gaps = torch.where(found.ids[:, 0] == used, found.distances[:, 1], found.distances[:, 0])
    return gaps[back]


def data_copying(generated: Array, training: Array, held_out: Array, seed: int = 0) -> DataCopying:
    """Return C_T, the data-copying statistic (Meehan, Chaudhuri, Dasgupta 2020, arXiv 2004.05675).

    Principal components (64 or fewer) and three k-means cells are fitted on the training descriptors. Take, in
    each cell, the distances between components of its m generated and n held-out points to their nearest training
    points (of any cell; to keep to the cell's own is another reading). U is the Mann-Whitney count of pairs in which
    the generated point is the farther one, ties one half, and Z = (U - (n m / 2 - 0.5)) / sqrt(n m (n + m + 1) / 12).
    C_T is the mean of Z weighted by the cells' held-out points, without the cells that have fewer than 20
    generated points. A global average: 0.1 % of verbatim copies leave it unmoved.

    Args:
        generated: descriptors, m x D.
        training: descriptors, N x D.
        held_out: descriptors, n x D, from the training images' distribution.
        seed: of the k-means starts.

    Raises:
        BadInput: the arrays do not fit together or are not finite.
        TooFew: fewer training images than cells, or no cell is left.
    """
    made, known, fresh = _descriptors(generated=generated, training=training, held_out=held_out)
    return _statistic(made, _partition(known, fresh, seed))


def rank_sum_z(generated: np.ndarray, held_out: np.ndarray) -> float:
    """Return Z of the Mann-Whitney count of generated > held-out distances, (m,) and (n,); ties count one half."""
    from scipy.stats import mannwhitneyu

    m, n = len(generated), len(held_out)
    count = mannwhitneyu(generated, held_out, method="asymptotic").statistic
    return float((count - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12))


def sensitivity(
    generated_clean: Array,
    training: Array,
    held_out: Array,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    groups: Sequence[int] | np.ndarray | None = None,
) -> tuple[Sensitivity, ...]:
    """Return both figures after replacing a share of the generated images by exact training copies.

    The copies of a smaller share are among those of a larger one. `generated_clean` should hold no copies
    (a control's images, or held-out-like ones); `groups` goes to `auth_pct`.

    Raises:
        BadInput: a share outside 0 .. 1, or arrays that do not fit together.
        TooFew: as `auth_pct` and `data_copying`.
    """
    made, known, fresh = _descriptors(generated=generated_clean, training=training, held_out=held_out)
    if any(not 0 <= share <= 1 for share in shares):
        raise BadInput(f"shares must lie in 0 .. 1, were {list(shares)}")
    return _planted(made, known, _partition(known, fresh, seed), shares, seed, groups)


def _planted(
    made: Tensor,
    known: Tensor,
    partition: _Partition,
    shares: Sequence[float],
    seed: int = 0,
    groups: Sequence[int] | np.ndarray | None = None,
) -> tuple[Sensitivity, ...]:
    rng = generator(seed, "sensitivity", 0, "copies")
    places = torch.randperm(len(made), generator=rng)
    sources = torch.randint(len(known), (len(made),), generator=rng)
    rows = []
    for share in shares:
        copies = round(share * len(made))
        planted = made.clone()
        planted[places[:copies]] = known[sources[:copies]]
        figures = auth_pct(planted, known, groups), _statistic(planted, partition)
        rows.append(Sensitivity(float(share), copies, *figures))
    return tuple(rows)


def assess(
    generated: Mapping[str, Iterable[Tensor]], references: References, fits: Fits | None = None
) -> dict[str, Any]:
    """Return both figures for each named set of images, and what they see of copies planted into the pool.

    Images are uint8, N x C x H x W, sets of them batch by batch; the first 10,000 are used. A figure that
    cannot be computed is None. What rests on the pair alone is taken from `fits`, by default those of these references.
    """
    fits = fits or Fits(references.content())
    known, groups = _described(references.training), references.training.groups
    partition = _or_none(lambda: _fitted(known, references, fits))
    units = {}
    for name, batches in generated.items():
        made = pixel_descriptors(_first_images(batches, MOST_GENERATED).float() / 255)
        found = _or_none(lambda made=made: _statistic(made, partition)) if partition else None  # type: ignore[misc]
        authentic = auth_pct(made, known, groups).value
        units[name] = {"auth_pct": authentic, "c_t": found and found.value, "generated": len(made)}

    def planted() -> dict[str, Any]:
        clean = _described(references.pool)
        rows = _or_none(lambda: _planted(clean, known, partition, SHARES, groups=groups)) if partition else None
        return {"rows": rows and [_plain(row) for row in rows]}

    return {"units": units, "sensitivity": fits.values("copies planted into the pool", planted)["rows"]}


def _fitted(known: Tensor, references: References, fits: Fits) -> _Partition:
    def fitted() -> AttackState:
        return AttackState(_partition(known, _described(references.held_out), 0)._asdict(), {})

    return _Partition(**fits.tensors("components and cells of training images", fitted).tensors)


def _described(part: ImageSet) -> Tensor:
    """Return the pixel descriptors of a part, N x D."""
    return pixel_descriptors(torch.from_numpy(part.images).float().div_(255))


def _first_images(batches: Iterable[Tensor], most: int) -> Tensor:
    images: list[Tensor] = []
    for batch in batches:
        images.append(batch[: most - sum(map(len, images))])
        if sum(map(len, images)) >= most:
            break
    return torch.cat(images)


def _or_none(compute: Callable[[], Any]) -> Any:
    try:
        return compute()
    except TooFew:
        return None


def _plain(row: Sensitivity) -> dict[str, float]:
    return {
        "share": row.share,
        "copies": row.copies,
        "auth_pct": row.auth_pct.value,
        "c_t": row.data_copying.value,
        "generated": row.data_copying.generated,
    }


def as_text(rows: Sequence[Sensitivity]) -> str:
    """Return what `sensitivity` found as a table."""
    from tabulate import tabulate

    cells = [
        [
            f"{100 * row.share:g} %",
            row.copies,
            f"{row.auth_pct.value:.2f}",
            f"{row.auth_pct.interval.low:.2f} .. {row.auth_pct.interval.high:.2f}",
            f"{row.data_copying.value:+.2f}",
            row.data_copying.generated,
            row.data_copying.held_out,
            row.data_copying.dropped,
        ]
        for row in rows
    ]
    heads = ["planted", "copies", "AuthPct", "95 % interval", "C_T", "m", "n", "dropped cells"]
    return tabulate(cells, headers=heads, tablefmt="plain", disable_numparse=True)


def _descriptors(**arrays: Array) -> list[Tensor]:
    """Return float32 copies on the CPU, checked against each other."""
    found = []
    for name, array in arrays.items():
        values = torch.as_tensor(array).detach().cpu().float()
        if values.ndim != 2:
            raise BadInput(f"{name}: descriptors must be N x D, were {tuple(values.shape)}")
        if not values.isfinite().all():
            raise BadInput(f"{name}: descriptors hold NaN or infinite values")
        found.append(values)
    if len({values.shape[1] for values in found}) > 1:
        raise BadInput(f"descriptors differ in length: {[values.shape[1] for values in found]}")
    return found


def _partition(training: Tensor, held_out: Tensor, seed: int) -> _Partition:
    """Fit principal components and cells on the training descriptors, and place both sides in them."""
    from scipy.linalg import eigh
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    if not _differ(training, CELLS):
        raise TooFew(f"C_T needs at least {CELLS} unique training images")
    dimensions = training.shape[1]
    components = min(COMPONENTS, len(training), dimensions)
    with threadpool_limits(1):
        moments = moments_of(training.split(_BLOCK))
        covariance = moments.covariance().numpy()
        axes = eigh(covariance, subset_by_index=[dimensions - components, dimensions - 1], overwrite_a=True)[1]
        mean, axes = moments.mean(), torch.from_numpy(axes.T[::-1].copy())
        known = _reduce(training, mean, axes)
        start = stream_seed(seed, "copying", 0, "k-means") % 2**32
        clustering = KMeans(CELLS, n_init=10, random_state=start).fit(known.numpy())
    centres = torch.from_numpy(clustering.cluster_centers_).float()
    known, fresh = known.float(), _reduce(held_out, mean, axes).float()
    far = top_k(fresh, known, 1).distances[:, 0]
    return _Partition(mean, axes, centres, known, _cells(known, centres), _cells(fresh, centres), far)


def _differ(rows: Tensor, least: int) -> bool:
    """Return whether there are at least so many different rows."""
    seen = set()
    for row in rows:
        seen.add(row.numpy().tobytes())
        if len(seen) >= least:
            return True
    return False


def _statistic(generated: Tensor, partition: _Partition) -> DataCopying:
    made = _reduce(generated, partition.mean, partition.axes).float()
    far_made, far_fresh = top_k(made, partition.training, 1).distances[:, 0].numpy(), partition.held_out_far.numpy()
    made_cells, fresh_cells = _cells(made, partition.centres).numpy(), partition.held_out_cells.numpy()
    cells = []
    for number in range(CELLS):
        mine, theirs = made_cells == number, fresh_cells == number
        m, n = int(mine.sum()), int(theirs.sum())
        z = rank_sum_z(far_made[mine], far_fresh[theirs]) if m >= LEAST_GENERATED and n else None
        cells.append(Cell(z, m, n, int((partition.training_cells == number).sum())))
    kept = [(cell.z, cell.held_out) for cell in cells if cell.z is not None]
    if not kept:
        counts = ", ".join(f"{cell.generated} and {cell.held_out}" for cell in cells)
        raise TooFew(f"C_T: no cell has {LEAST_GENERATED} generated and a held-out image (cells have {counts})")
    value = sum(z * n for z, n in kept) / sum(n for _, n in kept)
    sizes = len(generated), len(partition.held_out_cells), len(partition.training)
    return DataCopying(value, *sizes, len(cells) - len(kept), len(partition.axes), tuple(cells))


def _cells(points: Tensor, centres: Tensor) -> Tensor:
    """Return the cell that each point lies in, (N,)."""
    return top_k(points, centres, 1).ids[:, 0]


def _reduce(values: Tensor, mean: Tensor, axes: Tensor) -> Tensor:
    """Return the components of descriptors, N x 64 float64, block by block."""
    return torch.cat([(block.double() - mean) @ axes.T for block in values.split(_BLOCK)])
