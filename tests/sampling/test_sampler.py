"""The sampling loop against mixtures, whose denoiser and guided densities are known exactly."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, PredictionType, SamplerSettings, Steer, Step
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.sampling.ledger import Ledger
from sidebench.benchmark.sampling.prediction_types import as_velocity, clean_estimate, score_to_prediction
from sidebench.benchmark.sampling.sampler import make_scheduler, quantise, sample_latents
from sidebench.benchmark.sampling.views import AuditedModel, SamplesOnly, view_for

TYPES: list[PredictionType] = ["epsilon", "v_prediction", "sample", "flow_prediction"]
MEANS, WEIGHTS, STD = [-0.6, 0.1, 0.7], [0.2, 0.3, 0.5], 0.1
GROUP = [1, 2]
"""The components that guidance asks for."""


def mixture(
    kind: PredictionType, parts: list[int] | None = None, cls: type[MixtureModel] = MixtureModel
) -> MixtureModel:
    parts = [0, 1, 2] if parts is None else parts
    means = torch.tensor([MEANS[i] for i in parts]).view(-1, 1, 1, 1)
    return cls(means, STD, torch.tensor([WEIGHTS[i] for i in parts]), kind)


def wide(kind: PredictionType) -> MixtureModel:
    means = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    return MixtureModel(means, 0.2, prediction_type=kind)


def classifier(model: MixtureModel, scale: float) -> Steer:
    """Return scale times the gradient of the exact log p(group | x_t)."""

    def steer(step: Step) -> Tensor:
        x = step.x_t.detach().requires_grad_(True)
        chance = model.log_posterior(x, step.t.expand(len(x)))[:, GROUP].logsumexp(1).sum()
        (gradient,) = torch.autograd.grad(chance, x)
        return scale * gradient

    return steer


def log_density(x: Tensor, alpha: float, sigma: float, parts: list[int]) -> Tensor:
    """Return log p_t(x) of a one-pixel mixture up to a constant, in float64."""
    means = torch.tensor(MEANS, dtype=torch.float64)[parts]
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)[parts]
    variance = alpha**2 * STD**2 + sigma**2
    return (weights.log() - (x[:, None] - alpha * means) ** 2 / (2 * variance)).logsumexp(1)


def assert_moments(x: Tensor, parts: list[int], slack: float) -> None:
    """Check weight, mean and deviation per component within four standard errors and the solver's slack."""
    values = x.flatten().double()
    nearest = (values[:, None] - torch.tensor(MEANS)).abs().argmin(1)
    assert set(nearest.tolist()) <= set(parts)
    total = sum(WEIGHTS[i] for i in parts)
    for i in parts:
        mine, weight = values[nearest == i], WEIGHTS[i] / total
        assert float((nearest == i).double().mean()) == pytest.approx(
            weight, abs=4 * math.sqrt(weight * (1 - weight) / len(values)) + slack
        )
        assert float(mine.mean()) == pytest.approx(MEANS[i], abs=4 * STD / math.sqrt(len(mine)) + slack)
        assert float(mine.std()) == pytest.approx(STD, abs=4 * STD / math.sqrt(2 * len(mine)) + slack)


# ---- prediction types ----


def test_prediction_types_describe_one_denoiser() -> None:
    x = torch.randn(6, 2, 3, 4, generator=torch.Generator().manual_seed(2))
    t = torch.tensor([1, 50, 200, 500, 800, 999])
    alpha, sigma = (level.view(-1, 1, 1, 1) for level in wide("epsilon").noise_level(t))
    epsilon, v, x_0, flow = (wide(kind).predict(x, t) for kind in TYPES)
    torch.testing.assert_close(alpha * x_0 + sigma * epsilon, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alpha * epsilon - sigma * x_0, v, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alpha * x - sigma * v, x_0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(epsilon - x_0, flow, rtol=1e-4, atol=1e-4)
    for row in range(len(x)):
        levels = float(alpha[row]), float(sigma[row])
        for kind, said in zip(TYPES, (epsilon, v, x_0, flow), strict=True):
            found = clean_estimate(kind, x[row], said[row], *levels)
            torch.testing.assert_close(found, x_0[row], rtol=2e-2 if kind == "epsilon" else 1e-3, atol=2e-3)
            # From x_0 the noise is what is left of x_t, over sigma: 0.01 at t = 1.
            velocity = as_velocity(kind, x[row], said[row], *levels)
            torch.testing.assert_close(
                velocity, v[row], rtol=1e-2, atol=2e-3 / levels[0] if kind == "epsilon" else 1e-3
            )


@pytest.mark.parametrize("kind", ["v_prediction", "sample", "flow_prediction"])
def test_pure_noise_says_what_was_clean(kind: PredictionType) -> None:
    clean, noise = torch.tensor([0.3, -0.8]), torch.tensor([1.5, 0.2])
    said = {"v_prediction": -clean, "sample": clean, "flow_prediction": noise - clean}[kind]
    torch.testing.assert_close(clean_estimate(kind, noise, said, 0.0, 1.0), clean)
    torch.testing.assert_close(as_velocity(kind, noise, said, 0.0, 1.0), -clean)


@pytest.mark.parametrize("t", [5, 100, 400, 900])
def test_epsilon_is_the_score_of_the_density(t: int) -> None:
    x, at = torch.linspace(-2, 2, 9), torch.full((9,), t)
    alpha, sigma = (float(level) for level in mixture("epsilon").noise_level(torch.tensor(t)))
    step = 1e-5
    up, down = (log_density(x.double() + h, alpha, sigma, [0, 1, 2]) for h in (step, -step))
    wanted = -sigma * (up - down) / (2 * step)
    found = mixture("epsilon").predict(x.view(-1, 1, 1, 1), at).flatten()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("t", [20, 300, 900])
def test_a_corrected_prediction_is_that_of_the_conditional_model(kind: PredictionType, t: int) -> None:
    x, at = torch.linspace(-2, 2, 9), torch.full((9,), t)
    model, wanted = mixture(kind), mixture(kind, GROUP)
    alpha, sigma = (float(level) for level in model.noise_level(torch.tensor(t)))
    point = x.double().requires_grad_(True)
    ratio = log_density(point, alpha, sigma, GROUP) - log_density(point, alpha, sigma, [0, 1, 2])
    (gradient,) = torch.autograd.grad(ratio.sum(), point)
    change = score_to_prediction(kind, gradient.float(), alpha, sigma)
    assert change is not None
    x_t = x.view(-1, 1, 1, 1)
    found = model.predict(x_t, at).flatten() + change
    torch.testing.assert_close(found, wanted.predict(x_t, at).flatten(), rtol=2e-3, atol=2e-3)


def test_flow_correction_by_hand() -> None:
    # At s = 1/4 of the straight path x = (1 - s) x_0 + s n a gradient of 3 with respect to x changes n - x_0 by -1;
    # x_t is x / |(1 - s, s)|, and the gradient with respect to it |(1 - s, s)| times as large.
    size = math.hypot(0.75, 0.25)
    change = score_to_prediction("flow_prediction", torch.tensor([3.0 * size]), 0.75 / size, 0.25 / size)
    assert change is not None and float(change) == pytest.approx(-1.0)


@pytest.mark.parametrize("kind", TYPES)
def test_only_epsilon_can_be_corrected_in_pure_noise(kind: PredictionType) -> None:
    change = score_to_prediction(kind, torch.ones(2), 0.0, 1.0)
    assert (change is None) == (kind != "epsilon")


# ---- plain samples ----


@pytest.mark.parametrize("kind", TYPES)
def test_ddim_samples_the_mixture(kind: PredictionType) -> None:
    x = sample_latents(mixture(kind), Candidates(1, range(3000)), SamplerSettings(steps=250), 3000)
    assert_moments(x, [0, 1, 2], slack=0.006)


def test_prediction_types_make_the_same_images() -> None:
    made = [sample_latents(wide(kind), Candidates(2, range(20)), SamplerSettings(steps=25), 20) for kind in TYPES]
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=0, atol=2e-3)


def test_a_memorised_model_gives_its_means_back() -> None:
    means = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
    x = sample_latents(MixtureModel(means, 0.0), Candidates(0, range(40)), SamplerSettings(steps=50), 40)
    gaps = (x.flatten(1)[:, None] - means.flatten(1)[None]).square().mean(-1).sqrt().amin(1)
    assert gaps.max() < 0.02


# ---- guidance ----


SAMPLERS = {
    "ddim": SamplerSettings(steps=200),
    "ddpm": SamplerSettings(name="ddpm", steps=200),
    "euler": SamplerSettings(name="euler", steps=200),
    "dpm-solver++": SamplerSettings(name="dpm-solver++", steps=100),
}
COUNTS = {"ddim": 2000, "ddpm": 500, "euler": 2000, "dpm-solver++": 2000}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_one_samples_the_condition(name: str, kind: PredictionType) -> None:
    model, candidates = mixture(kind), Candidates(3, range(COUNTS[name]))
    x = sample_latents(model, candidates, SAMPLERS[name], len(candidates), steer=classifier(model, 1.0))
    # ddpm's fixed small variance at 200 steps and the two-step solver leave deviations near 0.09.
    assert_moments(x, GROUP, slack=0.02)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_guidance_one_equals_the_conditional_model_image_for_image(name: str, kind: PredictionType) -> None:
    model, candidates = mixture(kind), Candidates(4, range(24))
    settings = SamplerSettings(name=SAMPLERS[name].name, steps=20)
    guided = sample_latents(model, candidates, settings, 16, steer=classifier(model, 1.0))
    wanted = sample_latents(mixture(kind, GROUP), candidates, settings, 16)
    torch.testing.assert_close(guided, wanted, rtol=0, atol=5e-3)
    plain = sample_latents(model, candidates, settings, 16)
    assert (plain - wanted).abs().max() > 0.3


def test_strong_guidance_is_the_solution_of_the_guided_equation() -> None:
    # dx/dt of the probability flow with score + 4 grad log p(c | x), solved by Heun's method in float64.
    model, n = mixture("epsilon"), 64
    levels = [tuple(float(v) for v in model.noise_level(torch.tensor(float(t)))) for t in np.linspace(999, 0, 501)]

    def slope(y: Tensor, ratio: float) -> Tensor:  # y = x / alpha, d y / d(sigma / alpha) = predicted noise
        alpha = 1 / math.sqrt(1 + ratio**2)
        sigma = ratio * alpha
        x = (alpha * y).detach().requires_grad_(True)
        target = log_density(x, alpha, sigma, GROUP) - log_density(x, alpha, sigma, [0, 1, 2])
        (gradient,) = torch.autograd.grad((log_density(x, alpha, sigma, [0, 1, 2]) + 4 * target).sum(), x)
        return -sigma * gradient

    candidates = Candidates(5, range(n))
    alpha, sigma = levels[0]
    y = candidates.normal("noise", (1, 1, 1)).flatten().double() / alpha
    for (alpha, sigma), (next_alpha, next_sigma) in itertools.pairwise(levels):
        here, there = sigma / alpha, next_sigma / next_alpha
        first = slope(y, here)
        y = y + (there - here) * (first + slope(y + (there - here) * first, there)) / 2
    fine = SamplerSettings(steps=1000)
    found = sample_latents(model, candidates, fine, n, steer=classifier(model, 4.0)).flatten().double()
    assert (found - y).abs().max() < 0.03
    assert (found - y).abs().mean() < 0.01


@pytest.mark.parametrize("settings", [*SAMPLERS.values(), SamplerSettings(eta=1.0)], ids=lambda s: f"{s.name}{s.eta:g}")
@pytest.mark.parametrize("kind", TYPES)
def test_guidance_zero_is_no_guidance(settings: SamplerSettings, kind: PredictionType) -> None:
    model, candidates = mixture(kind), Candidates(6, range(10))
    short = settings.model_copy(update={"steps": 12})
    plain = sample_latents(model, candidates, short, 4)
    assert torch.equal(sample_latents(model, candidates, short, 4, steer=classifier(model, 0.0)), plain)
    assert torch.equal(sample_latents(model, candidates, short, 4, steer=None), plain)


@pytest.mark.parametrize("name", SAMPLERS)
def test_steer_sees_a_variance_preserving_step(name: str) -> None:
    model = MixtureModel(torch.zeros(1, 1, 4, 4), 1.0)  # x_0 is standard normal, so x_t is at every t
    seen: list[Step] = []

    def steer(step: Step) -> Tensor:
        seen.append(step)
        return torch.zeros_like(step.x_t)

    settings = SamplerSettings(name=SAMPLERS[name].name, steps=100)
    sample_latents(model, Candidates(1, range(200)), settings, 200, steer=steer)
    assert len(seen) == 100
    for step in seen:
        assert step.alpha**2 + step.sigma**2 == pytest.approx(1, abs=1e-5)
        wanted = [float(level) for level in model.noise_level(step.t)]
        assert [step.alpha, step.sigma] == pytest.approx(wanted)
        assert float(step.x_t.std()) == pytest.approx(1, abs=0.1)
        assert torch.equal(step.prediction, model.predict(step.x_t, step.t.expand(200)))
    assert all(later.sigma < earlier.sigma for earlier, later in itertools.pairwise(seen))


def test_steer_is_told_which_candidate_a_row_is() -> None:
    rows: list[list[int]] = []

    def steer(step: Step) -> Tensor:
        rows.append(step.rows.tolist())
        return torch.zeros_like(step.x_t)

    sample_latents(mixture("epsilon"), Candidates(1, [70, 80, 90, 60, 50]), SamplerSettings(steps=1), 3, steer=steer)
    assert rows == [[0, 1, 2], [3, 4, 3]]


class Blind(MixtureModel):
    """A model whose schedule says, to the loop alone, that there is only noise."""

    def noise_level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return super().noise_level(t) if t.ndim else (torch.tensor(0.0), torch.tensor(1.0))


def test_singular_steps_are_skipped_and_recorded() -> None:
    model, ledger = mixture("v_prediction", cls=Blind), Ledger()
    candidates, settings = Candidates(1, range(4)), SamplerSettings(steps=6)
    guided = sample_latents(model, candidates, settings, 4, steer=classifier(model, 5.0), ledger=ledger)
    assert ledger.skipped_steps == 6 * 4  # of every candidate, whatever the micro-batch
    assert torch.equal(guided, sample_latents(model, candidates, settings, 4))


# ---- streams and counts ----


@pytest.mark.parametrize(
    "settings",
    [SamplerSettings(steps=12, eta=1.0), SamplerSettings(name="ddpm", steps=12), SamplerSettings(steps=12)],
    ids=["ddim1", "ddpm", "ddim0"],
)
def test_images_do_not_depend_on_the_grouping(settings: SamplerSettings) -> None:
    model, numbers = wide("epsilon"), [9, 2, 5, 0, 7, 31, 4]
    whole = sample_latents(model, Candidates(8, numbers), settings, 4)
    alone = torch.cat([sample_latents(model, Candidates(8, [number]), settings, 4) for number in numbers])
    back = sample_latents(model, Candidates(8, numbers[::-1]), settings, 4).flip(0)
    assert torch.equal(whole, alone) and torch.equal(whole, back)
    torch.testing.assert_close(sample_latents(model, Candidates(8, numbers), settings, 7), whole, rtol=0, atol=1e-4)
    assert len({tuple(x.flatten().tolist()) for x in whole}) == len(numbers)


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 5, 6])
@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
def test_hits_and_costs_do_not_depend_on_the_micro_batch(micro_batch: int, guided: bool) -> None:
    """Divisors of the shard, one that is none, and the whole shard to compare with."""
    model, candidates = wide("epsilon"), Candidates(8, range(12))
    settings = SamplerSettings(steps=4, eta=1.0)

    def drawn(rows: int) -> tuple[Tensor, Ledger]:
        ledger = Ledger()
        steer = classifier(model, 2.0) if guided else None
        return sample_latents(model, candidates, settings, rows, steer=steer, ledger=ledger), ledger

    (whole, booked), (found, own) = drawn(12), drawn(micro_batch)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)
    nearest, theirs = (torch.cdist(x.flatten(1), model.means.flatten(1)).min(1) for x in (whole, found))
    ranked = nearest.values.sort().values
    for place in (3, 6, 9):  # as many hits as that, the edge in the middle between two candidates
        edge = ranked[place - 1 : place + 1].mean()
        assert int((nearest.values <= edge).sum()) == place
        assert torch.equal(nearest.values <= edge, theirs.values <= edge)
    assert torch.equal(nearest.indices, theirs.indices)
    assert own.as_dict() == booked.as_dict() and sum(own.nfe.values()) == 12 * 4


def test_stochastic_samplers_use_their_noise() -> None:
    model, candidates = wide("epsilon"), Candidates(8, range(4))
    still = sample_latents(model, candidates, SamplerSettings(steps=12), 4)
    moved = sample_latents(model, candidates, SamplerSettings(steps=12, eta=1.0), 4)
    assert (still - moved).abs().amax((1, 2, 3)).min() > 1e-3


def test_unguided_and_guided_share_their_first_noise() -> None:
    starts: list[Tensor] = []

    def steer(step: Step) -> Tensor:
        starts.append(step.x_t)
        return torch.zeros_like(step.x_t)

    sample_latents(wide("epsilon"), Candidates(8, [3, 4]), SamplerSettings(steps=1), 2, steer=steer)
    assert torch.equal(starts[0], Candidates(8, [3, 4]).normal("noise", (2, 3, 4)))


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_scheduler_takes_the_steps_asked_for(name: str) -> None:
    scheduler = make_scheduler(mixture("epsilon"), SamplerSettings(name=SAMPLERS[name].name, steps=20))
    assert len(scheduler.timesteps) == 20
    assert (scheduler.timesteps.diff() < 0).all()


class Counting(MixtureModel):
    """Counts the calls and rows that really reach the denoiser."""

    calls = 0
    with_condition = 0

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        self.calls += 1
        self.with_condition += condition is not None
        return super().predict(x_t, t, condition)


@pytest.mark.parametrize(("scale", "with_condition", "each"), [(1.0, False, 7), (1.0, True, 7), (3.0, True, 14)])
def test_nfe_counts_candidates_without_padding(scale: float, with_condition: bool, each: int) -> None:
    model, ledger = mixture("epsilon", cls=Counting), Ledger()
    condition = torch.zeros(10, dtype=torch.long) if with_condition else None
    with ledger.during("generate"):
        x = sample_latents(
            model,
            Candidates(1, range(10)),
            SamplerSettings(steps=7),
            4,
            condition=condition,
            guidance_scale=scale,
            ledger=ledger,
        )
    assert len(x) == 10
    assert ledger.as_dict() == {"nfe": {"generate": 10 * each}, "flops": {}, "skipped_steps": 0}
    assert isinstance(model, Counting)
    assert model.calls == 3 * each and model.with_condition == (21 if with_condition else 0)


def test_the_audited_model_counts_rows_and_charges_by_phase() -> None:
    audited = AuditedModel(wide("epsilon"), SamplerSettings(steps=3), 4)
    audited.predict(torch.zeros(5, 2, 3, 4), torch.full((5,), 10))
    with audited.ledger.during("generate"):
        audited.sample(Candidates(1, range(6)))
        audited.charge(100.0)
    audited.charge(11.0)
    assert audited.ledger.as_dict()["nfe"] == {"prepare": 5, "generate": 18}
    assert audited.ledger.as_dict()["flops"] == {"prepare": 11.0, "generate": 100.0}


def test_audited_images_are_decoded_latents() -> None:
    model, candidates = wide("epsilon"), Candidates(1, range(6))
    images = AuditedModel(model, SamplerSettings(steps=5), 4).sample(candidates)
    assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
    assert torch.equal(images, model.decode(sample_latents(model, candidates, SamplerSettings(steps=5), 4)))


# ---- kept samples ----


class Memory:
    """Checkpoints in a dictionary."""

    def __init__(self) -> None:
        self.states: dict[str, AttackState] = {}

    def load(self, name: str) -> AttackState | None:
        return self.states.get(name)

    def save(self, name: str, state: AttackState) -> None:
        tensors: Mapping[str, Tensor] = {key: tensor.clone() for key, tensor in state.tensors.items()}
        self.states[name] = AttackState(tensors, dict(state.info))


def test_kept_samples_are_the_same_and_counted_each_time() -> None:
    settings, asked, store = SamplerSettings(steps=5), Candidates(1, range(10), "synthetic"), Memory()
    without = AuditedModel(wide("epsilon"), settings, 4)
    images = without.sample(asked)
    assert without.ledger.nfe["prepare"] == 50

    model = MixtureModel(wide("epsilon").means, 0.2)
    calls = []
    predict = model.predict
    model.predict = lambda *a, **k: calls.append(1) or predict(*a, **k)  # type: ignore[method-assign, func-returns-value]
    for attack in range(2):
        audited = AuditedModel(model, settings, 4, kept=store)
        for time in (1, 2):
            assert torch.equal(audited.sample(asked), images), (attack, time)
            assert audited.ledger.nfe["prepare"] == 50 * time
    assert len(calls) == 15  # three micro-batches of five steps, once


def test_kept_samples_go_on_where_they_were() -> None:
    settings, store = SamplerSettings(steps=5), Memory()
    audited = AuditedModel(wide("epsilon"), settings, 4, kept=store)
    audited.sample(Candidates(1, range(4), "synthetic"))
    assert len(store.states) == 1
    images = audited.sample(Candidates(1, range(10), "synthetic"))
    assert len(store.states) == 3
    assert torch.equal(images, AuditedModel(wide("epsilon"), settings, 4).sample(Candidates(1, range(10), "synthetic")))


def test_kept_samples_are_rounded_to_uint8() -> None:
    images = AuditedModel(wide("epsilon"), SamplerSettings(steps=5), 4).sample(Candidates(1, range(4), "synthetic"))
    assert torch.equal(quantise(images).float() / 255, images)


@pytest.mark.parametrize(
    ("asked", "settings", "micro_batch"),
    [
        (Candidates(2, range(4), "synthetic"), SamplerSettings(steps=5), 4),
        (Candidates(1, range(1, 5), "synthetic"), SamplerSettings(steps=5), 4),
        (Candidates(1, range(4), "shadow"), SamplerSettings(steps=5), 4),
        (Candidates(1, range(4), "synthetic"), SamplerSettings(steps=6), 4),
        (Candidates(1, range(4), "synthetic"), SamplerSettings(steps=5, eta=0.5), 4),
    ],
)
def test_other_samples_are_not_mixed_up(asked: Candidates, settings: SamplerSettings, micro_batch: int) -> None:
    store = Memory()
    first = AuditedModel(wide("epsilon"), SamplerSettings(steps=5), 4, kept=store).sample(
        Candidates(1, range(4), "synthetic")
    )
    other = AuditedModel(wide("epsilon"), settings, micro_batch, kept=store).sample(asked)
    assert len(store.states) == 2
    assert not torch.equal(first, other)
    assert torch.equal(other, AuditedModel(wide("epsilon"), settings, micro_batch).sample(asked))


def test_scored_and_steered_images_are_never_kept() -> None:
    store, model = Memory(), mixture("epsilon")
    audited = AuditedModel(model, SamplerSettings(steps=3), 4, kept=store)
    audited.sample(Candidates(1, range(4)))
    plain = audited.sample(Candidates(1, range(4), "synthetic"))
    assert len(store.states) == 1
    steered = audited.sample(Candidates(1, range(4), "synthetic"), steer=classifier(model, 5.0))
    assert len(store.states) == 1
    assert not torch.equal(plain, steered)


# ---- views ----


SERVICE = {"sample_prompts", "device", "charge"}
"""What a service that takes prompts adds: where an attack's own networks run, and what they cost."""


@pytest.mark.parametrize(
    ("access", "more"), [("samples", set()), ("queries", SERVICE), ("prompts", {"prompts", *SERVICE})]
)
def test_the_black_box_gives_samples_and_known_prompts_only(access: str, more: set[str]) -> None:
    audited = AuditedModel(wide("epsilon"), SamplerSettings(steps=3), 4)
    view = view_for(access, audited)
    assert isinstance(view, SamplesOnly)
    public = {name for name in dir(view) if not name.startswith("_")}
    assert public == {"sample", "image_shape", "conditioning"} | more
    assert torch.equal(view.sample(Candidates(1, range(3))), audited.sample(Candidates(1, range(3))))
    with pytest.raises(TypeError):
        view.sample(Candidates(1, range(3)), steer=lambda step: step.x_t)  # type: ignore[call-arg]


def test_the_white_box_is_the_audited_model() -> None:
    audited = AuditedModel(wide("epsilon"), SamplerSettings(steps=3), 4)
    assert view_for("white box", audited) is audited


def test_quantise_rounds_and_replaces_nan() -> None:
    given = torch.tensor([0.0, 0.4999 / 255, 0.5001 / 255, 1.0, 1.5, -0.5, math.nan])
    assert quantise(given).tolist() == [0, 0, 1, 255, 255, 0, 0]
