"""Defences: what they do to the sampling loop, how they compose, and what happens when one breaks."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from local_plugin import as_file

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import Model, ModelSpec, SamplerSettings, Step, VictimFacts
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.errors import BadInput, BadSetting, DefenceFailed, UnknownName
from sidebench.benchmark.models import load_model
from sidebench.benchmark.runs.check_attack import NotConformant, quick_sampling
from sidebench.benchmark.runs.check_defence import check_defence
from sidebench.benchmark.runs.plan import RunPlan, plan_run
from sidebench.benchmark.sampling.defended import DefendedModel, check_fit, defend, in_order
from sidebench.benchmark.sampling.ledger import Ledger
from sidebench.benchmark.sampling.sampler import sample_latents
from sidebench.benchmark.sampling.views import AuditedModel, view_for
from sidebench.methods.defences import attention_reweighting, embedding_noise, embedding_optimisation, random_tokens
from sidebench.methods.defences.amg import AmgSettings, AntiMemorizationGuidance
from sidebench.methods.defences.eta import Eta
from sidebench.methods.defences.late_guidance import LateGuidance, LateGuidanceSettings
from sidebench.methods.defences.output_noise import OutputNoise, OutputNoiseSettings

PIXELS = VictimFacts("pixel", "none", (1, 8, 8), "ddim", 256)
DIGITS = ModelSpec(family="pixel", location="zoo:digits")
BUILT_IN = {AntiMemorizationGuidance: {"neighbours": 20}, Eta: {}, LateGuidance: {}, OutputNoise: {}}
FOR_TEXT = (
    attention_reweighting.AttentionReweighting,
    embedding_noise.EmbeddingNoise,
    embedding_optimisation.EmbeddingOptimisation,
    random_tokens.RandomTokens,
)
"""Those for text models alone: tests/methods/test_text_defences.py."""
SAMPLING = quick_sampling(steps=6)
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def digits() -> Model:
    return load_model(DIGITS)


def sample(model: Model, count: int = 5, steer: Any = None) -> torch.Tensor:
    return sample_latents(model, Candidates(3, range(count)), SAMPLING.sampler, 8, steer=steer)


def around(model: Model, *defences: Any, training: torch.Tensor | None = None) -> Model:
    images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)) if training is None else training
    return defend(model, in_order(defences), "ddim", lambda: images)


# ---- What each one does -----------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BUILT_IN, ids=lambda cls: cls.name)
def test_built_in_defences_conform(cls: type, tmp_path: Path) -> None:
    check_defence(as_file(cls, tmp_path), BUILT_IN[cls], DIGITS)


def test_built_in_defences_are_registered() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {cls.name: f"{cls.__module__}:{cls.__name__}" for cls in (*BUILT_IN, *FOR_TEXT)}
    assert project["entry-points"]["sidebench.defences"] == wanted


def test_no_strength_is_no_defence(digits: Model) -> None:
    plain = sample(digits)
    for idle in (
        OutputNoise(OutputNoiseSettings(scale=0)),
        AntiMemorizationGuidance(AmgSettings(strength=0)),
        LateGuidance(),
    ):
        assert torch.equal(sample(around(digits, idle)), plain), idle.name


def test_output_noise_is_the_candidates_own(digits: Model) -> None:
    noisy = around(digits, OutputNoise())
    whole = sample(noisy, 5)
    assert not torch.equal(whole, sample(digits))
    assert torch.equal(sample_latents(noisy, Candidates(3, [4, 1]), SAMPLING.sampler, 8), whole[[4, 1]])


def test_eta_is_the_samplers_own_setting(digits: Model) -> None:
    stochastic = SamplerSettings(steps=SAMPLING.sampler.steps, eta=1.0)
    wanted = sample_latents(digits, Candidates(3, range(5)), stochastic, 8)
    assert torch.equal(sample(around(digits, Eta())), wanted)


def test_late_guidance_holds_back_an_attack_until_its_start(digits: Model) -> None:
    def factors(start: float, stop: float) -> list[float]:
        model = around(digits, LateGuidance(LateGuidanceSettings(start=start, stop=stop)))
        return [model.steering(torch.tensor(t)) for t in (999, 600, 500, 100, 0)]

    assert factors(0.5, 0.0) == [0, 0, 1, 1, 1]
    assert factors(1.0, 0.3) == [1, 1, 1, 0, 0]

    def push(step: Step) -> torch.Tensor:
        return torch.ones_like(step.x_t)

    def late_push(step: Step) -> torch.Tensor:
        return torch.ones_like(step.x_t) * (float(step.t) <= 500)

    late = sample(around(digits, LateGuidance()), steer=push)
    assert torch.equal(late, sample(digits, steer=late_push))
    assert not torch.equal(late, sample(digits, steer=push))


def test_amg_moves_copies_away_from_their_training_images(digits: Model) -> None:
    """Its samples' own nearest images as training set: every sample is a copy, and guidance must part them."""
    copies = sample(digits, 60)
    guided = around(digits, AntiMemorizationGuidance(AmgSettings(strength=300)), training=digits.decode(copies))
    parted = (sample(guided, 8) - copies[:8]).flatten(1).norm(dim=1)
    noise = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    far = around(digits, AntiMemorizationGuidance(AmgSettings(strength=300)), training=noise)
    left_alone = (sample(far, 8) - copies[:8]).flatten(1).norm(dim=1)
    assert (parted > 1).all() and parted.mean() > 2 * left_alone.mean()


def test_amg_has_the_authors_distance_and_thresholds(digits: Model) -> None:
    """nL2 as in Carlini et al., n 50 and alpha 0.5; a threshold from 1.5 at t = 0 to 1.95, 1 - exp(-0.025 t) of 250."""
    training = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    guided: Any = around(digits, AntiMemorizationGuidance(), training=training)
    amg = guided.inside
    images = torch.rand(4, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
    distances = ((images[:, None] - (training.flatten(1) * 2 - 1)) / 2).square().mean(2).sqrt().sort(1).values
    wanted = distances[:, 0] / (0.5 * distances[:, :50].mean(1))
    torch.testing.assert_close(amg._nl2(images), wanted)
    for respaced in (0, 10, 100, 249):
        threshold = 1.95 - 0.45 * torch.tensor(-0.025 * respaced).exp().item()
        assert amg._threshold(torch.tensor(respaced * 4)) == pytest.approx(threshold, abs=1e-6)
    far = Step(
        torch.zeros(1, 1, 8, 8) + 9, torch.tensor(0), 1.0, 0.0, torch.zeros(1, 1, 8, 8), torch.tensor([0]), 0.0, 1
    )
    near = far._replace(x_t=training[:1] * 2 - 1 + 0.01)
    assert not amg._correction(far, Candidates(0, [0])).any() and amg._correction(near, Candidates(0, [0])).any()


def test_amg_reads_enough_training_images(digits: Model) -> None:
    message = r"amg\.neighbours = 50 of 20 training images"
    with pytest.raises(BadInput, match=message):
        around(digits, AntiMemorizationGuidance(), training=torch.zeros(20, 1, 8, 8))


# ---- Composition ------------------------------------------------------------------------------------


def test_order_around_the_model_does_not_depend_on_the_command(digits: Model) -> None:
    defences = [OutputNoise(), Eta(), AntiMemorizationGuidance()]
    assert [d.name for d in in_order(defences)] == [d.name for d in in_order(defences[::-1])]
    both = sample(around(digits, *defences))
    assert torch.equal(both, sample(around(digits, *defences[::-1])))
    assert not torch.equal(both, sample(around(digits, Eta())))


def test_what_does_not_compose_is_refused() -> None:
    class Other(Eta):
        name = "other"

    with pytest.raises(BadInput, match="eta and other do not compose: both set eta"):
        in_order([Other(), Eta()])
    with pytest.raises(BadInput, match="eta is named twice"):
        in_order([Eta(), Eta()])


def test_what_does_not_fit_is_refused(digits: Model) -> None:
    with pytest.raises(BadInput, match="eta is a setting of the sampler ddim; this run samples with euler"):
        defend(digits, [Eta()], "euler", torch.empty)
    for defence, victim, message in (
        (AntiMemorizationGuidance(), PIXELS._replace(family="latent"), "does not fit a latent model"),
        (AntiMemorizationGuidance(), PIXELS._replace(family="text"), "does not fit a text model"),
        (LateGuidance(), PIXELS._replace(conditioning="class"), "set late-guidance.outside=conditional"),
    ):
        with pytest.raises(BadInput, match=message):
            check_fit([defence], victim)
    check_fit([LateGuidance(LateGuidanceSettings(outside="conditional"))], PIXELS._replace(conditioning="class"))
    check_fit([AntiMemorizationGuidance()], PIXELS)


def test_a_run_says_what_does_not_fit_before_it_begins(tmp_path: Path) -> None:
    amg = as_file(AntiMemorizationGuidance, tmp_path)
    with pytest.raises(BadInput, match=r"amg\.neighbours = 300 of 256 training images"):
        plan(tmp_path, defences=[amg], settings={"amg": {"neighbours": 300}})
    made = [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"]
    assert made == ["mine.py"], "nothing was begun"


@pytest.mark.parametrize("name", ["early-stopping", "training:early-stopping"])
def test_a_defence_in_training_is_not_put_around_a_model(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="defence in training: make the victim with `sidebench train PAIR --stop-after`"):
        plan(tmp_path, defences=[name])


def plan(tmp_path: Path, **options: Any) -> RunPlan:
    return plan_run(load_pair("digits"), attacks=["carlini-uncond"], candidates=4, out=tmp_path, **options)


def test_settings_reach_the_defence_and_the_runs_name(tmp_path: Path) -> None:
    noise = as_file(OutputNoise, tmp_path)
    made = plan(tmp_path, defences=[noise], settings={"output-noise": {"scale": 0.2}})
    assert made.identity()["defences"] == {"output-noise": {"scale": 0.2}}
    assert made.folder().path != plan(tmp_path, defences=[noise]).folder().path != plan(tmp_path).folder().path
    for settings, message in ({"scael": 1}, "did you mean scale"), ({"scale": -1}, "output-noise.scale = -1"):
        with pytest.raises((BadSetting, UnknownName), match=message):
            plan(tmp_path, defences=[noise], settings={"output-noise": settings})
    with pytest.raises(BadSetting, match="'output-noise', which is not run"):
        plan(tmp_path, settings={"output-noise": {"scale": 0.2}})


def test_adapters_go_under_the_defence(digits: Model) -> None:
    class Adapting(DefendedModel):
        def adapted(self, state: Any) -> Model:
            return DefendedModel(self)

    plain = around(Adapting(digits), OutputNoise(OutputNoiseSettings(scale=0.4)))
    adapted = plain.adapted({})
    assert adapted is not plain and list(adapted.defences) == ["output-noise"]
    assert torch.equal(sample(adapted, 2), sample(plain, 2))
    with pytest.raises(BadInput, match="the adapter holds no LoRA"):  # it reached the model inside
        around(digits, OutputNoise()).adapted({})


# ---- Attacks meet the defence -----------------------------------------------------------------------


def test_kept_samples_cost_the_defence_again(digits: Model) -> None:
    from sidebench.benchmark.results.checkpoints import MemoryCheckpoints

    model, kept = around(digits, AntiMemorizationGuidance()), MemoryCheckpoints()
    spent = []
    for _ in range(2):
        audited = AuditedModel(model, SAMPLING.sampler, 8, kept=kept)
        audited.sample(Candidates(0, range(5), "synthetic"))
        spent.append(audited.ledger.as_dict())
    assert spent[0] == spent[1] and spent[0]["flops"]["defence"] > 0


def test_an_undefended_model_pays_nothing(digits: Model) -> None:
    ledger = Ledger()
    sample_latents(digits, Candidates(0, range(2)), SAMPLING.sampler, 8, ledger=ledger)
    assert not ledger.flops


# ---- Defences that break ----------------------------------------------------------------------------


class Broken(OutputNoise):
    name = "broken"
    fault: Any = staticmethod(lambda prediction: prediction)

    def wrap(self, model: Model, training: torch.Tensor | None) -> Model:
        fault = self.fault

        class Inside(DefendedModel):
            def corrected(self, step: Step, candidates: Candidates) -> torch.Tensor:
                changed: torch.Tensor = fault(step.prediction)
                return changed

        return Inside(model)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda p: p[:, :, :4], r"defence broken: corrected returned a Tensor of shape \(8, 1, 4, 8\)"),
        (lambda p: None, r"defence broken: corrected returned a NoneType"),
        (lambda p: p / 0, r"defence broken: values that are not finite at t = \d+"),
        (lambda p: 1 / 0, r"defence broken failed: ZeroDivisionError"),
    ],
)
def test_a_broken_defence_is_named(fault: Any, message: str, digits: Model) -> None:
    broken = type("Faulty", (Broken,), {"fault": staticmethod(fault)})()
    with pytest.raises(DefenceFailed, match=message):
        sample(around(digits, broken, Eta()))


def test_a_defence_that_cannot_be_built_is_named(digits: Model) -> None:
    class Stranger(OutputNoise):
        name = "stranger"

        def wrap(self, model: Model, training: torch.Tensor | None) -> Any:
            return 3

    with pytest.raises(DefenceFailed, match="defence stranger: wrap returned a int, not a Model"):
        around(digits, Stranger())


def test_running_out_of_memory_is_not_the_defences_doing(digits: Model) -> None:
    def full(prediction: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        sample(around(digits, type("Full", (Broken,), {"fault": staticmethod(full)})()))


FAULTY = {
    "global noise": (
        "    def corrected(self, step, candidates):\n        return step.prediction + torch.randn_like(step.x_t)\n",
        "differ from those of one call",
    ),
    "hidden work": (
        "    def corrected(self, step, candidates):\n"
        "        (step.x_t.flatten(1) @ torch.ones(64, 40_000)).sum()\n"
        "        return step.prediction\n",
        "add what the hooks cost to flops_per_step",
    ),
    "open training images": ("", "an attack can read the training images"),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_faulty_defences_are_caught(fault: str, tmp_path: Path) -> None:
    body, message = FAULTY[fault]
    hand_over = "model.training = training\n        return model" if not body else "return Inside(model)"
    text = f"""
import torch
from sidebench import Defence, DefendedModel

class Inside(DefendedModel):
    pass
{body}
class Mine(Defence):
    name, title, paper, level, uses_training = "mine", "mine", "none", "loop", True
    def wrap(self, model, training):
        {hand_over}
"""
    file = tmp_path / "mine.py"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(NotConformant, match=message):
        check_defence(f"{file}:Mine", {}, DIGITS)


def test_no_public_attribute_of_a_view_leads_to_the_model_inside(digits: Model) -> None:
    audited = AuditedModel(around(digits, AntiMemorizationGuidance()), SAMPLING.sampler, 8)
    for access in ("samples", "white box"):
        view = view_for(access, audited)
        assert not any(isinstance(value, Model) for key, value in vars(view).items() if not key.startswith("_"))
