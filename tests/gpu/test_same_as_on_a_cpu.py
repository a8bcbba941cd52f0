"""What a GPU must decide as a CPU does. Skipped without one, which the tests' summary says."""

import numpy as np
import pytest
import torch

from sidebench.benchmark.candidates import Candidates
from sidebench.benchmark.contracts import ModelSpec, SamplerSettings
from sidebench.benchmark.data.nearest import top_k, within
from sidebench.benchmark.models import load_model
from sidebench.benchmark.sampling.sampler import sample_latents

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

ON_GPU = torch.device("cuda")


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("size, parts", [(64, 1), (64, 4), (3072, 1)])
def test_search_finds_the_same(offset: float, size: int, parts: int) -> None:
    draw = torch.Generator().manual_seed(1)
    queries, references = (offset + torch.randn(n, size, generator=draw) for n in (300, 9000))
    here = top_k(queries, references, 50, parts=parts)
    there = top_k(queries.to(ON_GPU), references.to(ON_GPU), 50, parts=parts)
    assert torch.equal(there.ids.cpu(), here.ids) and torch.equal(there.distances.cpu(), here.distances)

    radius = here.distances[:, 20]
    near = within(queries, references, radius, parts=parts)
    far = within(queries.to(ON_GPU), references.to(ON_GPU), radius.to(ON_GPU), parts=parts)
    assert torch.equal(far.ids.cpu(), near.ids) and torch.equal(far.rows.cpu(), near.rows)


def test_images_are_the_same_but_for_rounding() -> None:
    images = []
    for device in ("cpu", "cuda"):
        model = load_model(ModelSpec(family="pixel", location="zoo:digits", device=device))
        drawn = model.decode(sample_latents(model, Candidates(0, range(64)), SamplerSettings(), 64))
        images.append((drawn.cpu() * 255).round().to(torch.uint8).numpy().astype(np.int16))
    # A challenge allows scores to differ by 0.01: 2.55 levels.
    assert np.abs(images[0] - images[1]).max() <= 2
