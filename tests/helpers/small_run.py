"""A small run that another process carries out, for tests that kill it."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from sidebench.benchmark.contracts import SamplerSettings
from sidebench.benchmark.data.pair import load_pair
from sidebench.benchmark.protocol import Batching
from sidebench.benchmark.runs import runner
from sidebench.benchmark.runs.plan import plan_run


def run_small(side: dict[str, Any], out: Path) -> None:
    """Run two attacks on digits: 40 candidates in shards of 16, 3 steps, as `make_plan` plans them."""
    torch.set_num_threads(1)
    plan = plan_run(
        load_pair("digits"),
        attacks=["carlini-uncond", "side"],
        settings={"side": side},
        candidates=40,
        device="cpu",
        out=out,
    )
    protocol = plan.protocol.model_copy(update={"sampler": SamplerSettings(steps=3)})
    runner.execute(dataclasses.replace(plan, protocol=protocol, batching=Batching(micro_batch=8, shard=16)))
