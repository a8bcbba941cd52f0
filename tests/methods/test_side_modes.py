"""side-modes against models whose modes and guided densities are known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import AttackState, Budget, SamplerSettings, Step
from sidebench.benchmark.errors import TooFew
from sidebench.benchmark.models.analytic import MixtureModel
from sidebench.benchmark.progress import silent
from sidebench.benchmark.protocol import Sampling
from sidebench.benchmark.registry import make_attack
from sidebench.benchmark.results.checkpoints import FolderCheckpoints
from sidebench.benchmark.sampling.call_attack import make_candidates
from sidebench.benchmark.sampling.views import AuditedModel
from sidebench.methods.side_modes import mixture_mean, separate

SAMPLING = Sampling(micro_batch=64, sampler=SamplerSettings(steps=50))
SMALL = {"synthetic_images": 192, "modes": 12, "background": 64, "separation": 0.2}


def memorised(kind: Any = "epsilon", std: float = 0.02) -> MixtureModel:
    """Return a model of twelve images, one of them 30 times as frequent as the others."""
    means = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(5)) * 1.8 - 0.9
    return MixtureModel(means, std, torch.tensor([30.0, *[1.0] * 11]), kind)


def attacked(model: MixtureModel, folder: Path, count: int = 96, **settings: Any) -> tuple[AttackState, Tensor, Any]:
    attack = make_attack("side-modes", {**SMALL, **settings})
    audited = AuditedModel(model, SAMPLING.sampler, SAMPLING.micro_batch)
    state = attack.prepare(audited, Budget(0, count, FolderCheckpoints(folder), silent))
    made = attack.generate(audited, state, Candidates(0, range(count)))
    return state, made.images * 2 - 1, made.columns


def nearest(images: Tensor, model: MixtureModel) -> tuple[Tensor, Tensor]:
    """Return the distance to the nearest mean (rms) and which it is."""
    found = torch.cdist(images.flatten(1), model.means.flatten(1)).min(1)
    return found.values / 4, found.indices


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_candidates_are_drawn_evenly_from_the_modes_and_land_on_them(kind: Any, tmp_path: Path) -> None:
    model = memorised(kind)
    # Sixteen pixels tell their images apart only at low noise.
    state, images, columns = attacked(model, tmp_path, interval=(0.02, 1.0))
    modes = state.tensors["modes"]
    apart, which = nearest(modes, model)
    assert float(apart.max()) < 0.01 and len(which.unique()) == len(which) >= 8, "each mode is one mean"
    apart, found = nearest(images, model)
    assert float(apart.median()) < 0.01
    asked = which[torch.from_numpy(columns["cluster"])]
    assert float((found == asked).float().mean()) > 0.9, "steered to the mode that was drawn"
    # Plain sampling gives the frequent image three times in four; evenly drawn modes do not.
    assert float((found == 0).float().mean()) < 0.25


def test_the_walk_ends_nearer_to_the_images_than_samples_lie(tmp_path: Path) -> None:
    model = memorised(std=0.05)
    _, plain, _ = attacked(model, tmp_path / "a", guidance_scale=0.0, walk_rounds=0)
    _, walked, _ = attacked(model, tmp_path / "b", guidance_scale=0.0, walk_rounds=4)
    assert float(nearest(walked, model)[0].median()) < 0.3 * float(nearest(plain, model)[0].median())


def test_without_guidance_and_walk_it_is_plain_sampling(tmp_path: Path) -> None:
    model = memorised()
    state = AttackState({"modes": model.means, "background": model.means}, {"classes": 12})
    off = make_attack("side-modes", {**SMALL, "guidance_scale": 0.0, "walk_rounds": 0})
    plain = make_attack("carlini-uncond", {})
    images = [make_candidates(attack, model, state, Candidates(0, range(9)), SAMPLING)[0] for attack in (off, plain)]
    assert torch.equal(*images)


def test_the_mixtures_mean_gives_the_gradient_of_its_posterior() -> None:
    draw = torch.Generator().manual_seed(2)
    centres, x = torch.randn(7, 5, generator=draw).double(), torch.randn(3, 5, generator=draw).double()
    x.requires_grad_()
    alpha, variance, asked = 0.8, 0.4, torch.tensor([1, 6, 3])
    log_p = (-(x[:, None] - alpha * centres).square().sum(2) / (2 * variance)).log_softmax(1)
    (gradient,) = torch.autograd.grad(log_p.gather(1, asked[:, None]).sum(), x)
    found = alpha / variance * (centres[asked] - mixture_mean(x, centres, alpha, variance))
    assert torch.allclose(found, gradient)


def test_of_images_in_one_mode_the_sharpest_is_kept() -> None:
    places = torch.tensor([0.0, 0.1, 5.0, 5.1, 10.0]).view(5, 1, 1, 1)
    spread = torch.tensor([0.3, 0.2, 0.1, 0.4, 0.5])
    assert separate(places, spread, 5, 0.2).tolist() == [2, 1, 4]
    assert separate(places, spread, 2, 0.2).tolist() == [2, 1]


def test_one_mode_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(TooFew, match="end in 1 mode, two are needed: lower the setting separation"):
        attacked(memorised(), tmp_path, separation=50.0)


def test_it_steers_within_its_interval_only(tmp_path: Path) -> None:
    model = memorised()
    attack = make_attack("side-modes", {**SMALL, "interval": (0.4, 0.6)})
    state = AttackState({"modes": model.means, "background": model.means}, {"classes": 12})
    seen: list[tuple[float, bool]] = []

    class Watched(AuditedModel):
        def sample(self, candidates: Candidates, **options: Any) -> Tensor:
            def steer(step: Step) -> Tensor:
                correction: Tensor = options["steer"](step)
                seen.append((float(step.t), bool(correction.any())))
                return correction

            return super().sample(candidates, **{**options, "steer": steer})

    attack.generate(Watched(model, SAMPLING.sampler, SAMPLING.micro_batch), state, Candidates(0, range(3)))
    assert len(seen) == 50 and all(steered == (400 <= t <= 600) for t, steered in seen)
