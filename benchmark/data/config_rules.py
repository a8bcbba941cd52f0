"""What the values in a pipeline's configurations may be: each is looked at once, before any work.

Only keys that change what is sampled are listed. A key that diffusers does not know is left to diffusers, which ignores
it.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from ..contracts import PredictionType
from ..errors import BadInput


class Rule(NamedTuple):
    """What one value may be, and how that is said."""

    holds: Callable[[Any], bool]
    wanted: str


def shown(value: Any) -> str:
    """Return a value as JSON spells it, cut where it is long."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]} ..."


def whole(low: int, high: int) -> Rule:
    """Allow whole numbers from low to high."""
    return Rule(lambda value: _is_whole(value) and low <= value <= high, f"a whole number from {low:,} to {high:,}")


def number(low: float, high: float, ends: str = "") -> Rule:
    """Allow numbers between low and high; `ends` holds "low", "high" or both where these are allowed too."""

    def holds(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return low < value < high or ("low" in ends and value == low) or ("high" in ends and value == high)

    above = f"of at least {low:g}" if "low" in ends else f"above {low:g}"
    below = f" and at most {high:g}" if "high" in ends else f" and below {high:g}"
    return Rule(holds, f"a number {above}{'' if high == float('inf') else below}")


def one_of(*names: str) -> Rule:
    """Allow these names."""
    return Rule(lambda value: isinstance(value, str) and value in names, f"one of {', '.join(names)}")


def or_null(rule: Rule) -> Rule:
    """Allow null as well."""
    return Rule(lambda value: value is None or rule.holds(value), f"{rule.wanted}, or null")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    sizes = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(whole(1, MOST_PIXELS).holds(size) for size in sizes)


def _are_betas(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(number(0, 1, "high").holds(beta) for beta in value)


def _are_channels(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(COUNT.holds(channels) for channels in value)


MOST_PIXELS = 8192
"""On a side of what a denoiser is given."""

FLAG = Rule(lambda value: value is None or isinstance(value, bool), "true or false")
POSITIVE = number(0, float("inf"))
BETA = number(0, 1, "high")
COUNT = whole(1, 2**15)
NAMES = Rule(lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value), "a list of names")

SCHEDULER: Mapping[str, Rule] = {
    "num_train_timesteps": whole(2, 10**5),
    "prediction_type": one_of(*get_args(PredictionType)),
    "beta_schedule": one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace"),
    "beta_start": BETA,
    "beta_end": BETA,
    "trained_betas": or_null(Rule(_are_betas, "a list of two or more numbers above 0 and at most 1")),
    "rescale_betas_zero_snr": FLAG,
    "timestep_spacing": one_of("leading", "linspace", "trailing"),
    "timestep_type": one_of("discrete", "continuous"),
    "steps_offset": whole(0, 10**5),
    "clip_sample": FLAG,
    "clip_sample_range": POSITIVE,
    "thresholding": FLAG,
    "dynamic_thresholding_ratio": number(0, 1, "high"),
    "sample_max_value": number(1, float("inf"), "low"),
    "set_alpha_to_one": FLAG,
    "variance_type": or_null(
        one_of("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
    ),
    "use_karras_sigmas": FLAG,
    "sigma_min": or_null(POSITIVE),
    "sigma_max": or_null(POSITIVE),
    "shift": or_null(POSITIVE),
    "flow_shift": or_null(POSITIVE),
    "invert_sigmas": FLAG,
    "use_dynamic_shifting": FLAG,
}
"""Of schedulers with betas, or of flows."""

SIGMAS: Mapping[str, Rule] = {
    "num_train_timesteps": whole(2, 10**5),
    "prediction_type": one_of("epsilon", "v_prediction"),
    "sigma_schedule": one_of("karras", "exponential"),
    "sigma_min": POSITIVE,
    "sigma_max": POSITIVE,
    "sigma_data": POSITIVE,
    "rho": POSITIVE,
    "clip_denoised": FLAG,
    "s_noise": Rule(lambda value: value == 1 and not isinstance(value, bool), "1"),
}
"""Of schedulers that state sigma."""

UNET: Mapping[str, Rule] = {
    "sample_size": Rule(_is_size, f"a whole number from 1 to {MOST_PIXELS:,}, or [height, width]"),
    "in_channels": COUNT,
    "out_channels": COUNT,
    "block_out_channels": Rule(_are_channels, "a list of whole numbers above 0"),
    "down_block_types": NAMES,
    "up_block_types": NAMES,
    "downsample_padding": whole(0, 16),
    "num_class_embeds": or_null(whole(1, 10**6)),
    "norm_num_groups": or_null(COUNT),
    "norm_eps": POSITIVE,
    "dropout": number(0, 1, "low"),
    "mid_block_scale_factor": POSITIVE,
    "class_embed_type": or_null(one_of("timestep")),
}

DIT: Mapping[str, Rule] = {key: UNET[key] for key in ("sample_size", "in_channels", "out_channels", "dropout")}


def check_values(file: str, config: Mapping[str, Any], rules: Mapping[str, Rule]) -> None:
    """Look at every value that has a rule.

    Raises:
        BadInput: one cannot be used; the message names the file, the key, the value and what is right.
    """
    for key, rule in rules.items():
        if key in config and not rule.holds(config[key]):
            raise BadInput(f"{file}, {key}: is {shown(config[key])}, wanted {rule.wanted}")


def check_scheduler(file: str, config: Mapping[str, Any], cls: str) -> None:
    """Look at the configuration of a noise schedule, loaded by this class of diffusers.

    Raises:
        BadInput: a value cannot be used, or two contradict each other.
    """
    own = config.get("_class_name", cls)
    if not isinstance(own, str) or kind_of(own) != kind_of(cls):
        raise BadInput(
            f"{file}, _class_name: is {shown(own)}, but model_index.json says {cls}: name the one it was trained with"
        )
    check_values(file, config, SIGMAS if kind_of(cls) in ("EDM", "consistency", "score SDE") else SCHEDULER)
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if low is not None and high is not None and low >= high:
        raise BadInput(f"{file}, sigma_max: is {shown(high)}, wanted a number above sigma_min, which is {shown(low)}")
    betas, steps = config.get("trained_betas"), config.get("num_train_timesteps", 1000)
    if betas is not None and kind_of(cls) == "betas" and len(betas) != steps:
        raise BadInput(f"{file}, trained_betas: holds {len(betas):,} values, wanted num_train_timesteps, {steps:,}")


def kind_of(scheduler: str) -> str:
    """Return what a scheduler of diffusers states: betas, a flow, or sigma in one of three ways.

    Examples:
        >>> kind_of("PNDMScheduler"), kind_of("FlowMatchEulerDiscreteScheduler"), kind_of("EDMEulerScheduler")
        ('betas', 'flow', 'EDM')
    """
    starts = {"FlowMatch": "flow", "EDM": "EDM", "CMStochasticIterative": "consistency", "ScoreSde": "score SDE"}
    return next((kind for start, kind in starts.items() if scheduler.startswith(start)), "betas")


def check_denoiser(file: str, config: Mapping[str, Any], cls: str) -> None:
    """Look at the configuration of a denoiser of the pixel and latent families, loaded by this class of diffusers.

    Raises:
        BadInput: a value cannot be used, or two contradict each other.
    """
    embeds = config.get("class_embed_type")
    if embeds is not None and embeds != "timestep" and cls.startswith("UNet"):
        raise BadInput(
            f"{file}, class_embed_type: is {shown(embeds)}, wanted null or timestep: a class is known by its "
            "number here, not by an embedding that the caller makes"
        )
    if "sample_size" not in config:
        raise BadInput(f"{file}, sample_size: is missing, wanted {UNET['sample_size'].wanted}")
    check_values(file, config, UNET if cls.startswith("UNet") else DIT)
    if embeds is not None and config.get("num_class_embeds") is None:
        raise BadInput(f"{file}, num_class_embeds: is missing; with class_embed_type {embeds} it says how many classes")
    channels, groups = config.get("block_out_channels"), config.get("norm_num_groups")
    if channels is not None and groups and any(channel % groups for channel in channels):
        raise BadInput(
            f"{file}, norm_num_groups: is {groups}, wanted a divisor of block_out_channels, {shown(channels)}"
        )
    size, step = config.get("sample_size"), 2 ** (len(channels or [0]) - 1)
    if cls == "UNet2DModel" and any(side % step for side in (size if isinstance(size, list) else [size or 0])):
        raise BadInput(
            f"{file}, sample_size: is {shown(size)}, wanted a multiple of {step}: each block but one halves it"
        )
    given, made = config.get("in_channels"), config.get("out_channels")
    if given is not None and made is not None and made not in (given, 2 * given):
        raise BadInput(
            f"{file}, out_channels: is {made}, wanted in_channels, {given}, or {2 * given} where it says variances too"
        )


def check_together(file: str, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    """Refuse a denoiser that cannot take the times that its schedule gives it; no error of diffusers would say so.

    Raises:
        BadInput: the kind of its time embedding does not fit.
    """
    kind, steps = denoiser.get("time_embedding_type"), scheduler.get("num_train_timesteps", 1000)
    stated = kind_of(str(scheduler.get("_class_name", "")))
    by_sigma = stated in ("EDM", "consistency") or scheduler.get("timestep_type") == "continuous"
    if kind == "fourier" and (by_sigma or stated == "betas"):
        raise BadInput(
            f"{file}, time_embedding_type: is {shown(kind)}, which takes the logarithm of a time that is 0 or below in "
            "this schedule; wanted positional"
        )
    if kind == "learned" and (by_sigma or not _is_whole(known := denoiser.get("num_train_timesteps")) or known < steps):
        raise BadInput(
            f"{file}, num_train_timesteps: is {shown(denoiser.get('num_train_timesteps'))}, wanted {steps:,} or more: "
            "learned time embeddings, and the schedule has so many timesteps"
        )
