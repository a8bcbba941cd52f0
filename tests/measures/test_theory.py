"""The probability-flow ODE, the memorization divergence and Theorem 1 on mixtures, where the answers are known."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sidebench.benchmark.contracts import PredictionType
from sidebench.benchmark.errors import BadInput, TooFew
from sidebench.benchmark.measures import theory
from sidebench.benchmark.measures.theory import (
    OdeSettings,
    closed_log_density,
    log_density,
    memorization_divergence,
    mixture_log_density,
    pointwise_divergence,
    reference_divergence,
    smallest_noise,
    theorem_one,
)
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.models.schedule import DiscreteSchedule

TYPES: list[PredictionType] = ["epsilon", "v_prediction", "sample"]
LINE, PLANE, FOUR = (1, 1, 1), (1, 1, 2), (1, 2, 2)
QUICK = OdeSettings(steps=30)


def mixture(
    shape: tuple[int, int, int],
    kind: PredictionType = "epsilon",
    std: float = 0.15,
    cls: type[MixtureModel] = MixtureModel,
) -> MixtureModel:
    means = torch.rand((3, *shape), generator=torch.Generator().manual_seed(math.prod(shape))) * 1.6 - 0.8
    return cls(means, std, torch.tensor([0.2, 0.3, 0.5]), kind)


def normal(means: list[float], std: float) -> MixtureModel:
    return MixtureModel(torch.tensor(means).view(1, 1, 1, -1), std)


def points_of(model: MixtureModel, n: int, seed: int = 0) -> Tensor:
    """Draw from the mixture, components in turn, with some points far out."""
    rng = torch.Generator().manual_seed(seed)
    noise = torch.randn((n, *model.sample_shape), generator=rng)
    return model.means[torch.arange(n) % len(model.means)] + 1.5 * model.std * noise


def kl_of_normals(gap: float, first: float, second: float, dimensions: int) -> float:
    """Return KL(N(a, first^2 I) || N(b, second^2 I)) with |a - b| = gap."""
    ratio = (first / second) ** 2
    return (dimensions * (ratio - 1 - math.log(ratio)) + (gap / second) ** 2) / 2


# ---- closed forms ----


def test_the_closed_form_by_plain_sums() -> None:
    model = mixture(PLANE)
    x = points_of(model, 9)
    std = math.hypot(0.15, smallest_noise(model))
    for row, found in zip(x.flatten(1).tolist(), closed_log_density(model, x).tolist(), strict=True):
        centres = model.means.flatten(1).tolist()
        density = sum(
            w * math.exp(-(math.dist(row, m) ** 2) / (2 * std**2)) / (2 * math.pi * std**2)
            for w, m in zip([0.2, 0.3, 0.5], centres, strict=True)
        )
        assert found == pytest.approx(math.log(density), abs=1e-5)


def test_smallest_noise_is_that_of_the_first_beta() -> None:
    assert smallest_noise(mixture(LINE)) == pytest.approx(math.sqrt(1e-4 / (1 - 1e-4)), rel=1e-4)


def test_blocks_do_not_change_the_closed_form() -> None:
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    centres = torch.randn(60_000, 5, generator=torch.Generator().manual_seed(2))
    whole = mixture_log_density(x, centres, 0.5)
    torch.testing.assert_close(mixture_log_density(x[150:153], centres, 0.5), whole[150:153])


# ---- log density by the ODE ----


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("shape", [LINE, PLANE, FOUR], ids=["1", "2", "4"])
def test_log_density_is_the_closed_form(shape: tuple[int, int, int], kind: PredictionType) -> None:
    model = mixture(shape, kind)
    x = points_of(model, 40)
    found = log_density(model, x)
    torch.testing.assert_close(found.values, closed_log_density(model, x), rtol=0, atol=2e-3)
    assert found.probes == 0 and not found.probe_errors.any()


@pytest.mark.parametrize("std", [0.0, 0.02])
def test_log_density_of_a_model_that_has_memorised(std: float) -> None:
    model = mixture(FOUR, std=std)
    spread = math.hypot(std, smallest_noise(model))
    x = model.means.repeat(5, 1, 1, 1)
    x = x + spread * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(log_density(model, x).values, closed_log_density(model, x), rtol=0, atol=1e-2)


def test_log_density_of_a_flow_model() -> None:
    model = mixture(PLANE, "flow_prediction")
    x = points_of(model, 20)
    torch.testing.assert_close(log_density(model, x).values, closed_log_density(model, x), rtol=0, atol=2e-3)


class ZeroTerminal(MixtureModel):
    """A schedule whose last timestep is pure noise."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        betas = torch.linspace(1e-4, 0.02, 1000)
        cumulative = torch.cumprod(1 - betas, 0)
        cumulative[-1] = 0
        self.schedule = DiscreteSchedule(cumulative)


def test_log_density_with_pure_noise_at_the_end() -> None:
    model = mixture(PLANE, "v_prediction", cls=ZeroTerminal)
    x = points_of(model, 20)
    torch.testing.assert_close(log_density(model, x).values, closed_log_density(model, x), rtol=0, atol=2e-3)


class Wrong(MixtureModel):
    """A denoiser that is nobody's: it belongs to no data density, but still to a flow."""

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return 0.9 * super().predict(x_t, t) + 0.1 * torch.tanh(2 * x_t - 0.5)


@pytest.mark.parametrize("prior", ["leftover", "standard"])
def test_the_density_of_any_model_adds_up_to_one(prior: str) -> None:
    model = mixture(LINE, cls=Wrong)
    x = torch.linspace(-4, 4, 4001)
    settings = OdeSettings(steps=60, prior=prior, batch=5000)
    density = log_density(model, x.view(-1, 1, 1, 1), settings).values.exp()
    assert float(torch.trapezoid(density, x.double())) == pytest.approx(1, abs=2e-3)
    assert (density - closed_log_density(model, x.view(-1, 1, 1, 1)).exp()).abs().max() > 0.1


def test_the_leftover_of_the_last_timestep_matters() -> None:
    model = normal([0.8] * 4, 0.3)
    x = points_of(model, 50)
    errors = {
        prior: float(
            (log_density(model, x, OdeSettings(prior=prior)).values - closed_log_density(model, x)).abs().mean()
        )
        for prior in ("leftover", "standard")
    }
    assert errors["leftover"] < 2e-4 < 2e-3 < errors["standard"] < 0.05


def test_halving_the_step_shows_order_four() -> None:
    model = mixture(LINE)
    x = points_of(model, 30)
    coarse, fine = (
        float((log_density(model, x, OdeSettings(steps=steps)).values - closed_log_density(model, x)).abs().mean())
        for steps in (10, 20)
    )
    assert 1e-6 < fine < coarse / 8


@pytest.mark.parametrize("kind", TYPES)
def test_hutchinson_agrees_with_the_exact_trace_within_its_error(kind: PredictionType) -> None:
    model = mixture(FOUR, kind)
    x = points_of(model, 200)
    exact = log_density(model, x, QUICK)
    probed = log_density(model, x, OdeSettings(steps=30, trace="hutchinson", probes=12))
    assert (exact.probes, probed.probes) == (0, 12)
    gaps = probed.values - exact.values
    assert float(probed.probe_errors.mean()) > 0.01
    assert abs(float(gaps.mean())) < 4 * float(probed.probe_errors.square().sum().sqrt()) / 200
    assert 0.75 < float(gaps.square().mean() / probed.probe_errors.square().mean()) < 1.35


def test_probes_belong_to_the_row_and_the_seed() -> None:
    model, settings = mixture(FOUR), OdeSettings(steps=10, trace="hutchinson", probes=2)
    x = points_of(model, 11)
    whole = log_density(model, x, settings).values
    parts = log_density(model, x, settings.model_copy(update={"batch": 3})).values
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-4)
    assert (log_density(model, x, settings, seed=1).values - whole).abs().max() > 1e-2


def test_large_points_get_probes_and_one_probe_has_no_error() -> None:
    model = mixture((1, 4, 5))
    x = points_of(model, 2)
    assert log_density(model, x, OdeSettings(steps=2)).probes == 8
    single = log_density(model, x, OdeSettings(steps=2, probes=1))
    assert single.probe_errors.isnan().all() and single.values.isfinite().all()


class Conditional(MixtureModel):
    """One normal per class; no condition: the mixture."""

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is None:
            return super().predict(x_t, t)
        alpha, sigma = (level.view(-1, 1, 1, 1) for level in self.noise_level(t))
        gap = x_t - alpha * self.means[condition]
        return sigma * gap / (alpha**2 * self.std**2 + sigma**2)


def test_conditions_by_row_or_for_all() -> None:
    model = mixture(PLANE, cls=Conditional)
    x = points_of(model, 7)
    classes = torch.arange(7) % 3
    wanted = torch.cat([closed_log_density(MixtureModel(model.means[c : c + 1], model.std), x) for c in range(3)])
    found = log_density(model, x, OdeSettings(steps=60, batch=4), condition=classes).values
    torch.testing.assert_close(found, wanted.view(3, 7)[classes, torch.arange(7)], rtol=0, atol=2e-3)
    found = log_density(model, x, OdeSettings(steps=60, batch=4), condition=torch.tensor([2])).values
    torch.testing.assert_close(found, wanted.view(3, 7)[2], rtol=0, atol=2e-3)
    with pytest.raises(BadInput, match="conditions"):
        log_density(model, x, condition=classes[:2])


class Broken(MixtureModel):
    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return x_t * math.nan


def test_what_log_density_refuses() -> None:
    with pytest.raises(BadInput, match="points must be"):
        log_density(mixture(PLANE), torch.zeros(3, 1, 2, 2))
    with pytest.raises(BadInput, match="not finite"):
        log_density(mixture(PLANE, cls=Broken), torch.zeros(3, 1, 1, 2), OdeSettings(steps=2))
    assert log_density(mixture(PLANE), torch.zeros(0, 1, 1, 2)).values.shape == (0,)


# ---- memorization divergence ----


def test_m_of_one_point_and_a_normal_is_their_kl() -> None:
    model = normal([0.2, -0.4, 0.1, 0.3], 0.2)
    point = torch.tensor([0.5, -0.4, 0.5, 0.3]).view(1, 1, 1, 4)
    wanted = kl_of_normals(0.5, 0.1, math.hypot(0.2, smallest_noise(model)), 4)
    found = memorization_divergence(model, point, 0.1, QUICK, draws=600)
    assert abs(found.estimate - wanted) < 4 * found.standard_error < 0.5
    entropy = 2 * math.log(2 * math.pi * math.e * 0.1**2)
    assert found.entropy == pytest.approx(entropy, abs=4 * math.sqrt(2 / 600))
    assert found.cross_entropy - found.entropy == pytest.approx(found.estimate)
    assert (found.points, found.draws, found.probes, found.steps, found.epsilon) == (1, 600, 0, 30, 0.1)
    pointwise = pointwise_divergence(model, point, 0.1, QUICK, draws=600)
    assert abs(float(pointwise.values[0]) - wanted) < 4 * float(pointwise.standard_errors[0])


def test_m_of_a_model_that_is_q_is_zero() -> None:
    model = MixtureModel(torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(4)), 0.05)
    epsilon = math.hypot(0.05, smallest_noise(model))
    found = memorization_divergence(model, model.means, epsilon, draws=40)
    assert abs(found.estimate) < 1e-3 and found.standard_error < 1e-3
    wide = MixtureModel(model.means, 0.2)
    assert memorization_divergence(wide, model.means, epsilon, draws=40).interval.low > 1


@pytest.mark.simulation(few=30, full=60)
@pytest.mark.parametrize("shape", [LINE, FOUR], ids=["1", "4"])
def test_the_interval_of_m_holds_the_reference_at_about_its_rate(shape: tuple[int, int, int], draws: int) -> None:
    model = mixture(shape, std=0.3)  # wide, so that few steps do
    data = points_of(mixture(shape, std=0.1), 12, seed=5)
    wanted, error = reference_divergence(model, data, 0.05, draws=200_000)
    settings = OdeSettings(steps=12)
    found = [memorization_divergence(model, data, 0.05, settings, draws=60, seed=seed) for seed in range(draws)]
    held = sum(each.interval.low <= wanted <= each.interval.high for each in found)
    assert held / draws >= 52 / 60  # Binomial(60, 0.95) is below 52 about 1 time in 200
    values = np.array([each.estimate for each in found])
    assert abs(values.mean() - wanted) < 4 * math.hypot(float(values.std()) / math.sqrt(draws), error) + 2e-3
    # Nor too wide: the standard error is the deviation between repetitions.
    assert np.mean([each.standard_error for each in found]) == pytest.approx(values.std(ddof=1), rel=0.3)


def test_m_with_probes_is_free_of_bias_and_its_error_holds_theirs() -> None:
    model = mixture(FOUR)
    data = points_of(model, 12, seed=6)
    exact = memorization_divergence(model, data, 0.05, QUICK, draws=300)
    settings = OdeSettings(steps=30, trace="hutchinson", probes=1)
    probed = memorization_divergence(model, data, 0.05, settings, draws=300)
    assert probed.probes == 1 and probed.standard_error > exact.standard_error
    assert abs(probed.estimate - exact.estimate) < 4 * probed.standard_error
    assert probed.entropy == exact.entropy


def test_the_change_by_halving_the_steps_is_reported() -> None:
    model = mixture(PLANE)
    rough, fine = (
        memorization_divergence(model, model.means, 0.05, OdeSettings(steps=steps), draws=8) for steps in (8, 80)
    )
    assert rough.solver_change > 100 * fine.solver_change > 0


def test_pointwise_divergences() -> None:
    model = normal([0.1, 0.1], 0.2)
    data = torch.tensor([[0.1, 0.1], [0.5, 0.1], [0.1, -0.9]]).view(3, 1, 1, 2)
    found = pointwise_divergence(model, data, 0.05, QUICK, draws=100)
    second = math.hypot(0.2, smallest_noise(model))
    wanted = [kl_of_normals(gap, 0.05, second, 2) for gap in (0.0, 0.4, 1.0)]
    assert (np.abs(found.values - wanted) < 4 * found.standard_errors).all()
    assert found.total == pytest.approx(3 * found.mean) == pytest.approx(found.values.sum())
    assert found.interval.low < np.mean(wanted) < found.interval.high
    whole = memorization_divergence(model, data, 0.05, QUICK, draws=400)
    # Far apart, the mean of the pointwise divergences exceeds M by log N.
    slack = 4 * math.hypot(whole.standard_error, found.interval.high - found.mean)
    assert found.mean - whole.estimate == pytest.approx(math.log(3), abs=slack)
    assert slack < 2.5


@pytest.mark.parametrize("measure", [memorization_divergence, pointwise_divergence])
def test_what_the_divergence_refuses(measure: Any) -> None:
    model = mixture(PLANE)
    with pytest.raises(TooFew, match="points"):
        measure(model, model.means[:0], 0.1)
    with pytest.raises(TooFew, match="draws"):
        measure(model, model.means, 0.1, draws=1)
    for epsilon in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(BadInput, match="epsilon"):
            measure(model, model.means, epsilon)


# ---- Theorem 1 ----


def data_density(std: float = 0.2) -> MixtureModel:
    means = torch.tensor([[-0.6, -0.6], [-0.3, 0.2], [0.3, 0.1], [0.7, -0.6]]).view(4, 1, 1, 2)
    return MixtureModel(means, std, torch.tensor([0.1, 0.2, 0.3, 0.4]))


def test_theorem_one_on_three_labels() -> None:
    found = theorem_one(data_density(), [0, 0, 1, 1], points=2000, memorised=0, settings=QUICK)
    rows = {row.label: row for row in found}
    assert [row.models for row in found] == ["exact densities"] * 3
    informative, coin, constant = rows["clusters"], rows["random"], rows["constant"]
    assert informative.interval.high < 0 and informative.limit < -0.5
    # The clusters overlap, so the limit lies above that of disjoint ones, log 0.3.
    assert informative.limit > math.log(0.3) + 0.02
    assert abs(informative.gap - informative.limit) < 4 * informative.standard_error < 0.2
    assert coin.gap == coin.limit == 0 and 900 < coin.subset < 1100
    assert (constant.gap, constant.standard_error, constant.limit, constant.subset) == (0, 0, 0, 2000)


def test_memorised_points_far_apart_make_any_split_worth_its_share() -> None:
    data = data_density(0.4)
    rows = theorem_one(data, [1, 0, 1, 0], points=8, memorised=10, epsilon=0.011, seed=4, settings=QUICK)
    memorised = {row.label: row for row in rows if row.models == "memorised"}
    for label in ("clusters", "random"):
        row = memorised[label]
        assert 2 <= row.subset < 10 and row.interval.high < 0
        assert row.gap == pytest.approx(math.log(row.subset / 10), abs=0.02)
        assert row.limit == pytest.approx(math.log(row.subset / 10), abs=0.02)
    assert (memorised["constant"].gap, memorised["constant"].limit) == (0, 0)


def test_theorem_intervals_hold_the_limit() -> None:
    held, errors = 0, []
    settings = OdeSettings(steps=12, batch=1000)
    for seed in range(16):
        row = theorem_one(data_density(0.25), [0, 0, 1, 1], points=1000, memorised=0, seed=seed, settings=settings)[0]
        held += row.interval.low <= row.limit <= row.interval.high
        errors.append((row.gap - row.limit) / row.standard_error)
    assert held >= 12  # Binomial(16, 0.9) is below 12 less than 1 time in 50, Binomial(16, 0.95) 1 in 1000
    assert 0.5 < float(np.std(errors)) < 1.6


def test_what_theorem_one_refuses() -> None:
    for clusters in ([0, 1], [0, 0, 0, 0], [1, 1, 2, 2]):
        with pytest.raises(BadInput, match="clusters"):
            theorem_one(data_density(), clusters)
    with pytest.raises(BadInput, match="smallest noise"):
        theorem_one(data_density(), [0, 0, 1, 1], epsilon=0.005)
    with pytest.raises(TooFew, match="subset"):
        theorem_one(data_density(), [0, 0, 1, 1], points=1, settings=OdeSettings(steps=2))


# ---- demonstration ----


@pytest.fixture(scope="module")
def shown() -> Mapping[str, Any]:
    return theory.demonstration(3, steps=30, points=16, draws=60)


def test_the_demonstration_finds_what_it_should(shown: Mapping[str, Any]) -> None:
    for row in shown["log_density"]:
        if row["probes"]:
            assert abs(row["mean_error"]) < 4 * row["probe_error"] + 1e-3
        else:
            assert row["largest_error"] < 0.02
    for row in shown["divergence"]:
        assert (
            abs(row["estimate"] - row["reference"])
            < 4 * math.hypot(row["standard_error"], row["reference_error"]) + 1e-3
        )
    values = [row["reference"] for row in shown["divergence"]]
    assert [row["model"] for row in shown["divergence"]] == ["memorised", "half memorised", "data density"]
    assert abs(values[0]) < 1e-6 < 1 < min(values[1:])


def test_the_demonstration_is_json_and_prints(shown: Mapping[str, Any]) -> None:
    assert json.loads(json.dumps(shown)) == shown
    text = theory.as_text(shown)
    assert all(word in text for word in ("exact", "16 probes", "memorised", "clusters", "random", "constant"))
    assert "-0.000" not in text and "nan" not in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_demonstration_repeats_itself() -> None:
    first, again, other = (theory.demonstration(seed, steps=2, points=4, draws=4) for seed in (3, 3, 4))
    assert first == again
    assert first["divergence"] != other["divergence"]
    with pytest.raises(BadInput, match="smallest noise"):
        theory.demonstration(epsilon=0.001, steps=2, points=4, draws=2)
