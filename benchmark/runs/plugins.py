"""Attacks, defences and measures of a run, made and checked before any work."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..contracts import Attack, Defence, Measure
from ..data import pipeline_folder
from ..data.model_files import model_configs, owner_of
from ..data.pair import AS_GIVEN, GIVEN, IN_TRAINING, TRAINING_DEFENCES, Pair
from ..errors import BadInput, BadSetting, MeasureFailed
from ..models import WITH_AUTOENCODER
from ..protocol import default_measures
from ..registry import find, make_attack, make_defence, make_measure, split_ablation


def make_measures(
    pair: Pair, size: tuple[int, int, int], named: Sequence[str] = (), smallest: int | None = None
) -> list[Measure]:
    """Build the measures that are named, or the pair's, or the protocol's for images of (height, width, channels).

    Args:
        pair: May name measures.
        size: (height, width, channels).
        named: By the user.
        smallest: Number of images of the smaller side, where it is known.
    """
    smallest = None if pair.allow_dense_neighbours else smallest
    default = default_measures(size[0] * size[1], held_out=pair.data.has_held_out, smallest=smallest)
    ids = named or pair.measures or default
    return [make_measure(name) for name in ids]


def check_configs(pair: Pair, attacks: Sequence[Attack], measures: Sequence[str], allow_pickle: bool) -> None:
    """Refuse what the model's small files rule out already, before its weights are downloaded.

    Raises:
        BadInput: an attack does not fit the model, or a measure lacks its network.
    """
    folder = model_configs(pair.model, allow_pickle)[0]
    pipeline_folder.check_configs(folder, owner_of(folder))
    check_conditioning(attacks, pipeline_folder.conditioning(folder))
    for measure in make_measures(pair, pipeline_folder.image_size(folder), measures):
        measure.weights()


def check_autoencoder(measures: Sequence[Measure], family: str) -> None:
    """Raise `BadInput` for a measure of round trips where the model has no autoencoder."""
    from ..measures.scorer import no_autoencoder

    for measure in measures:
        if measure.round_trip_of is not None and family not in WITH_AUTOENCODER:
            raise BadInput(no_autoencoder(measure))


def try_measure(measure: Measure, size: tuple[int, int, int], device: str) -> None:
    """Let a measure describe one image of the model's size, so that what it lacks is known before any work."""
    import torch

    from ..measures.scorer import described

    height, width, channels = size
    ramp = torch.linspace(0, 1, channels * height * width).view(1, channels, height, width)
    try:
        described(measure, ramp.to(device))
    except MeasureFailed as error:
        raise BadInput(f"{error}; choose another --measure") from None


def check_family(attacks: Sequence[Attack], defences: Sequence[Defence], family: str) -> None:
    """Refuse an attack or a defence of images that exist already, and their attack on a model.

    Raises:
        BadInput: the first one that does not fit.
    """
    for attack in attacks:
        if family == "images" and attack.name != AS_GIVEN:
            raise BadInput(f"{attack.name} needs a model, and there are images alone: give --attack {AS_GIVEN}")
        if family != "images" and attack.name == AS_GIVEN:
            raise BadInput(f"{AS_GIVEN} scores images that exist already: give --model {GIVEN}PATH")
    if defences and family == "images":
        raise BadInput(f"{defences[0].name} changes how a model samples, and these images exist already")


def check_conditioning(attacks: Sequence[Attack], conditioning: str) -> None:
    """Raise `BadInput` for an attack that does not work on models with this conditioning."""
    for attack in attacks:
        if conditioning not in attack.conditionings:
            kinds = ", ".join(sorted(attack.conditionings))
            raise BadInput(f"{attack.name} works on models with conditioning {kinds}, not {conditioning}")


def check_captions(attacks: Sequence[Attack], pair: Pair) -> None:
    """Raise `BadInput` for an attack that replays captions or canaries where the pair has none."""
    for attack in attacks:
        if attack.replayed() == "captions" and pair.data.captions is None:
            raise BadInput(f"{attack.name} replays captions, and pair {pair.name} has none: give it data.captions")
        if attack.replayed() == "canaries" and getattr(pair.recipe, "canaries", None) is None:
            raise BadInput(f"{attack.name} replays canaries, and pair {pair.name} has none: give it recipe.canaries")


def make_attacks(pair: Pair, chosen: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> list[Attack]:
    """Build the attacks that were chosen, or those that the pair names, with settings over the pair's.

    Raises:
        BadInput: there is no such attack, setting or value, or two attacks share a name.
    """
    names = list(dict.fromkeys(chosen or pair.attacks))
    if not names:
        raise BadInput(f"pair {pair.name} names no attacks: choose with --attack")
    attacks = []
    for name in names:
        # An ablation takes the pair's and the user's settings of the attack that it is one of.
        base = split_ablation(name)[0]
        own = pair.attacks[base].settings if base in pair.attacks else {}
        named = dict.fromkeys([base, find("attack", base).name, find("attack", name).name, name])
        given = {key: value for each in named for key, value in settings.get(each, {}).items()}
        attacks.append(make_attack(name, {**own, **given}))
    if len({attack.name for attack in attacks}) < len(attacks):
        raise BadInput("two attacks of the same name cannot be in one run")
    return attacks


def make_defences(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> list[Defence]:
    """Build defences with their settings, which are given by registered name or by `file.py:Class`.

    Raises:
        BadInput: there is no such defence, setting or value, or the defence is one of the victim's training.
    """
    defences = []
    for name in names:
        if option := TRAINING_DEFENCES.get(name.removeprefix(IN_TRAINING)):
            raise BadInput(
                f"{name} is a defence in training: make the victim with `sidebench train PAIR {option}`, "
                "then run its pair.yaml"
            )
        given = {**settings.get(find("defence", name).name, {}), **settings.get(name, {})}
        defences.append(make_defence(name, given))
    return defences


def check_names(
    given: Sequence[str], methods: Sequence[Attack | Defence], settings: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse settings for what does not run, and an attack and a defence that share one name."""
    names = [method.name for method in methods]
    if unused := set(settings) - set(given) - set(names):
        raise BadSetting(f"settings for {sorted(unused)[0]!r}, which is not run: {', '.join(names)} are")
    if shared := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"{shared[0]} is the name of an attack and of a defence of this run")
