"""`sidebench plan` and `sidebench fetch`: what a pair needs before a run, and getting it."""

import shutil
from pathlib import Path
from typing import Any

from ..contracts import Measure, Progress, Settings
from ..data import pipeline_folder
from ..data.dataset_files import fetch_data, find_data_files, recall_data
from ..data.hub import Listing, recall
from ..data.image_cache import load_rows
from ..data.model_files import (
    fetch_lora,
    fetch_model,
    find_lora_file,
    find_model_files,
    lora_key,
    model_configs,
    model_key,
)
from ..data.pair import LoraSource, ModelSource, Pair, is_own_location
from ..errors import BadInput
from ..measures import fetch_weights, weights
from ..models import inspect_files
from ..models.find_model import find_source
from ..progress import silent
from ..protocol import TOP_K
from .plugins import make_measures
from .timing import rehearse


class Part(Settings):
    """What is needed of one repository."""

    what: str
    repo: str
    revision: str
    commit: str
    files: int
    bytes: int
    here: bool
    """Whether all of it was fetched already."""
    access: str
    licence: str


class Outlook(Settings):
    """What a run of a pair needs."""

    pair: str
    verified: bool
    candidates: int
    parts: list[Part]
    run_bytes: int
    """On the disk, for images and scores of one attack and seed."""
    decoded_bytes: int | None
    """On the disk, for decoded reference images; None where their number is not known yet."""
    free_bytes: int
    weights_bytes: int | None
    """In the device's memory, for the weights alone."""
    seconds: float | None
    """Plain sampling on this machine, by a short calibration; None before the model was fetched, 0 of images that
    exist already."""
    peak_bytes: int | None
    """The most memory that the calibration held: the device's, on a CPU the whole process's."""
    measures: dict[str, str]
    """By measure what it lacks; nothing where it is ready."""
    device: str


def examine(
    pair: Pair, candidates: int, device: str = "auto", out: Path = Path("runs"), allow_pickle: bool = False
) -> Outlook:
    """Say what a run of a pair needs: files, access, licences, disk, memory, time. Downloads no weights and no data.

    Raises:
        BadInput: a repository cannot be used.
        CannotReach: the Hub cannot be reached, and the files are not here.
    """
    from ..environment import pick_device

    parts, rows = _model_parts(pair, allow_pickle), None
    if pair.data.source == "hub":
        part, rows = _data_part(pair)
        parts.append(part)
    height, width, channels = _image_size(pair, allow_pickle)
    ready = all(part.here for part in parts if part.what in ("model", "LoRA"))
    target = str(pick_device(device))
    given = pair.model.family == "images"
    tried = rehearse(pair, candidates, target, out, allow_pickle) if ready and not given else None
    return Outlook(
        pair=pair.name,
        verified=pair.verified,
        candidates=candidates,
        parts=parts,
        run_bytes=run_bytes(candidates, height * width * channels),
        decoded_bytes=None if rows is None or pair.data.size is None else rows * pair.data.channels * pair.data.size**2,
        free_bytes=shutil.disk_usage(next(p for p in (out.resolve(), *out.resolve().parents) if p.exists())).free,
        weights_bytes=next((part.bytes for part in parts if part.what == "model"), None),
        seconds=0.0 if given else None if tried is None else tried.seconds,
        peak_bytes=None if tried is None else tried.peak_bytes,
        measures=_lacking(pair, allow_pickle),
        device=target,
    )


def run_bytes(candidates: int, pixels: int) -> int:
    """Return about how much images of so many values and their scores take on the disk, for one attack and seed."""
    return candidates * (pixels + 40 * TOP_K)


def fetch(pair: Pair, allow_pickle: bool = False, progress: Progress = silent) -> list[Part]:
    """Fetch a pair's model and data at what its revisions are now, and decode the images; runs then need no network."""
    for _, model in _models(pair):
        fetch_model(model, allow_pickle, again=True)
    for _, lora in _loras(pair):
        fetch_lora(lora, again=True)
    if pair.data.source == "hub":
        fetch_data(pair.data, again=True)
    if pair.data.source in ("hub", "folder"):
        load_rows(pair.data, progress)
    parts = _model_parts(pair, allow_pickle) + _fetch_networks(pair, allow_pickle)
    return [*parts, _data_part(pair)[0]] if pair.data.source == "hub" else parts


def _models(pair: Pair) -> list[tuple[str, ModelSource]]:
    """Return the models of a pair that come from the Hub."""
    named = [("model", pair.model), ("reference model", pair.reference_model)]
    return [(what, model) for what, model in named if model is not None and model.repo is not None]


def _loras(pair: Pair) -> list[tuple[str, LoraSource]]:
    """Return the LoRAs of a pair that come from the Hub."""
    named = [("LoRA", pair.model), ("LoRA of the reference model", pair.reference_model)]
    found = [(what, model.lora) for what, model in named if model is not None]
    return [(what, lora) for what, lora in found if lora is not None and lora.repo is not None]


def _model_parts(pair: Pair, allow_pickle: bool) -> list[Part]:
    models = [_model_part(what, model, allow_pickle) for what, model in _models(pair)]
    return models + [_lora_part(what, lora) for what, lora in _loras(pair)]


def _lora_part(what: str, lora: LoraSource) -> Part:
    assert lora.repo is not None
    known = recall("model", lora.repo, lora.revision, lora_key(lora))
    if known is not None:
        return _part(what, known.model_dump(), known.sizes, "fetched")
    found, name = find_lora_file(lora)
    return _part(what, found._asdict(), {name: found.sizes[name]}, _access(found))


def _model_part(what: str, model: ModelSource, allow_pickle: bool) -> Part:
    assert model.repo is not None
    known = recall("model", model.repo, model.revision, model_key(model, allow_pickle))
    if known is not None:
        return _part(what, known.model_dump(), known.sizes, "fetched")
    found, names = find_model_files(model, allow_pickle)
    return _part(what, found._asdict(), {name: found.sizes[name] for name in names}, _access(found))


def _data_part(pair: Pair) -> tuple[Part, int | None]:
    """Return what is needed of the data, and the number of rows where the data set states it."""
    known = recall_data(pair.data)
    if known is not None:
        return _part("data", known.model_dump(), known.sizes, "fetched"), _rows(known.details)
    found, names, details = find_data_files(pair.data)
    return _part("data", found._asdict(), {name: found.sizes[name] for name in names}, _access(found)), _rows(details)


def _rows(details: dict[str, Any]) -> int | None:
    counted = [details["rows"].get(split) for split in details["files"]]
    return sum(count for count in counted if count) if all(counted) else None


def _part(what: str, named: dict[str, Any], sizes: dict[str, int], access: str) -> Part:
    own = {key: named[key] for key in ("repo", "revision", "commit", "licence")}
    here = access == "fetched"
    return Part(what=what, files=len(sizes), bytes=sum(sizes.values()), here=here, access=access, **own)


def _access(found: Listing) -> str:
    return "gated; this login has access" if found.gated else "open to this login"


def _measures(pair: Pair, allow_pickle: bool) -> list[Measure]:
    return make_measures(pair, _image_size(pair, allow_pickle))


def _image_size(pair: Pair, allow_pickle: bool) -> tuple[int, int, int]:
    """Return (height, width, channels) of the model's images; one of somebody's own is built for it."""
    if is_own_location(pair.model.location) or pair.model.family == "images":
        return inspect_files(find_source(pair.model, pair.name, allow_pickle).spec).image_size
    return pipeline_folder.image_size(model_configs(pair.model, allow_pickle)[0])


def _fetch_networks(pair: Pair, allow_pickle: bool) -> list[Part]:
    """Bring in the networks of the pair's measures that are on the Hub and not here yet."""
    parts = []
    for measure in _measures(pair, allow_pickle):
        for name, repo in measure.homes().items():
            if weights.recorded(name) is None:
                fetch_weights.bring_in(f"{name}={repo}")
            known = weights.origin(name) or {}
            if "repo" in known:
                parts.append(_part(f"network of {measure.name}", known, known["sizes"], "fetched"))
    return parts


def _lacking(pair: Pair, allow_pickle: bool) -> dict[str, str]:
    """Return by measure what it lacks, nothing where it is ready."""
    found = {}
    for measure in _measures(pair, allow_pickle):
        try:
            measure.weights()
            found[measure.id] = ""
        except BadInput as error:
            found[measure.id] = str(error)
    return found


def as_text(found: Outlook) -> str:
    """Return an outlook as a few lines."""
    lines = [f"{found.pair}, {found.candidates:,} candidates on {found.device}"]
    if not found.verified:
        lines.append("not verified: nobody has run this pair against the real Hub and checked it")
    lines += parts_as_text(found.parts)
    disk = f"disk: {_size(found.run_bytes)} for each attack and seed"
    if found.decoded_bytes is not None:
        disk += f", {_size(found.decoded_bytes)} for decoded images"
    lines.append(f"{disk}; {_size(found.free_bytes)} are free")
    memory = [] if found.weights_bytes is None else [f"{_size(found.weights_bytes)} for the weights alone"]
    if found.peak_bytes is not None:
        whose = "on the device" if found.device.startswith("cuda") else "in this process"
        memory.append(f"{_size(found.peak_bytes)} {whose} at most while calibrating")
    if memory:
        lines.append(f"memory: {', '.join(memory)}")
    lines += [lacks or f"measure {name}: ready" for name, lacks in found.measures.items()]
    if found.seconds is None:
        lines.append("time: known after sidebench fetch")
    elif not found.seconds:
        lines.append("time: that of scoring, these images exist already")
    else:
        lines.append(f"time: about {_duration(found.seconds)} of plain sampling, guided attacks several times that")
    return "\n".join(lines)


def parts_as_text(parts: list[Part]) -> list[str]:
    """Return a line for each repository."""
    return [
        f"{part.what}: {part.repo} at {part.commit} ({part.revision}): {part.files} files, {_size(part.bytes)}, "
        f"{part.access}, licence: {part.licence}"
        for part in parts
    ]


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e3:,.0f} kB"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{seconds / 60:.1f} minutes"
