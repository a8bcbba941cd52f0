"""Send a scored run to a tracker of experiments, by its own client: trackio, Weights & Biases or MLflow.

What is sent: rates by attack, the plots of the report, and the manifest. No image of the data is in any of them. The
run's results stand in its folder before anything is sent, so a service that cannot be reached costs a line, not a run.
"""

import contextlib
import importlib
import importlib.util
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import BadInput, UnknownName
from ..files import short_hash
from ..progress import say
from ..reports.page import pictures
from ..reports.page_data import read_contents
from ..reports.plot_style import picture_file, styled
from ..reports.summary import summary
from ..results.run_folder import RunFolder
from ..results.schema import Metrics
from ..results.secret_seeds import nonce_in

PROJECT = "sidebench"
"""Where runs go unless a project is named."""


TOLD = ("pair", "revision", "defences", "control", "protocol", "measure", "band", "candidates", "seeds")
"""What of a run's summary says what it is."""


class Tracker(NamedTuple):
    """A service, and its project that runs go to."""

    service: str
    project: str


class Told(NamedTuple):
    """What a service is told of a run."""

    name: str
    """The run folder's name."""
    key: str
    """Of this folder: the same one sent again goes on under it, another of the same name does not."""
    candidates: int
    """The step at which rates stand, so that a run that is continued grows a curve."""
    config: dict[str, Any]
    verdict: str
    rates: dict[str, float]
    figures: dict[str, Path]
    """PNG files by name."""
    manifest: Path


def trackers(named: Iterable[str]) -> list[Tracker]:
    """Return the services that are named as `SERVICE` or `SERVICE:PROJECT`.

    Raises:
        UnknownName: there is no such service.
        BadInput: its client is not installed.
    """
    found = []
    for text in named:
        service, _, project = text.partition(":")
        if service not in SERVICES:
            raise UnknownName("tracker", service, SERVICES)
        if not _is_installed(service):
            raise BadInput(f"--track {service}: its client is not installed: pip install {service}")
        found.append(Tracker(service, project or PROJECT))
    return found


def _is_installed(service: str) -> bool:
    """Return whether a client can be imported; a folder of its name, as Weights & Biases makes one, is no package."""
    if service in sys.modules:
        return True
    spec = importlib.util.find_spec(service)
    return spec is not None and spec.origin is not None


def send(chosen: Sequence[Tracker], folder: RunFolder, metrics: Metrics) -> list[str]:
    """Send a scored run to each service and return the names of those that took it.

    Whatever a client raises, or an exit of its, ends in one line of the log and goes no further. A run under secret
    seeds is sent to nobody.
    """
    if chosen and nonce_in(folder):
        say(f"{folder.path.name} is sent to nobody: whoever knows its seeds, which are secret, can make its candidates")
        return []
    taken = []
    for service, project in chosen:
        try:
            # Clients greet on stdout, where the results of the command are.
            with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as place:
                client = importlib.import_module(service)
                SERVICES[service](client, project, told(folder, metrics, Path(place)))
        except (Exception, SystemExit) as error:  # anything may go wrong in a client, or on its way
            reason = str(error).strip().partition("\n")[0][:200]
            say(f"{service} did not take {folder.path.name} ({type(error).__name__}: {reason}); its results stand")
        else:
            taken.append(service)
    return taken


def told(folder: RunFolder, metrics: Metrics, place: Path) -> Told:
    """Return what is sent of a run; its figures are drawn into the folder `place`."""
    found, manifest = summary(folder, metrics), folder.checked_manifest() or {}
    identity = manifest["identity"]
    config = {
        **{key: found[key] for key in TOLD},
        "dtype": identity["protocol"].get("dtype"),
        "settings": {name: unit["settings"] for name, unit in manifest["units"].items()},
        "versions": manifest.get("environment", {}).get("versions", {}),
    }
    figures = {}
    for name, picture in pictures(read_contents(folder)).items():
        figures[name] = place / f"{_plain(name)}.png"
        with styled():
            figures[name].write_bytes(picture_file(picture.draw(), name, "png"))
    rates = rates_of(found)
    name, key = folder.path.name, key_of(folder.path.name, manifest)
    return Told(name, key, found["candidates"], config, found["answer"], rates, figures, folder.manifest_file)


def key_of(name: str, manifest: Mapping[str, Any]) -> str:
    """Return a run folder's name with a hash of its units and of where it was begun, which its name says nothing of.

    More candidates leave it as it is; another attack or seed, or other settings, are another run to a tracker.
    """
    begun = {key: manifest.get(key) for key in ("units", "device", "environment")}
    return f"{name}-{short_hash(begun)}"


def rates_of(found: Mapping[str, Any]) -> dict[str, float]:
    """Return a summary's figures as `attack/figure`, shares of the candidates; what is not known is left out."""
    rates: dict[str, float] = {}
    for attack, figures in found["attacks"].items():
        ends = figures["excess"] or {}
        excess = {"excess": ends.get("value"), "excess_low": ends.get("low"), "excess_high": ends.get("high")}
        named = {**{key: figures[key] for key in ("copies", "control", "unique", "hits_per_1000_nfe")}, **excess}
        rates.update({f"{_plain(attack)}/{key}": float(value) for key, value in named.items() if value is not None})
    return rates


def _plain(name: str) -> str:
    """Return a name of letters, digits, dots, hyphens and underscores, which every service takes."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


# ---- The services ------------------------------------------------------------------------------------


def _trackio(client: Any, project: str, run: Told) -> None:
    client.init(
        project=project,
        name=run.key,  # by which it finds a run again
        config={**run.config, "verdict": run.verdict},
        resume="allow",
        embed=False,
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    _log(client, run)


def _wandb(client: Any, project: str, run: Told) -> None:
    config = {**run.config, "verdict": run.verdict}
    client.init(project=project, name=run.name, id=run.key, config=config, resume="allow")
    _log(client, run)


def _log(client: Any, run: Told) -> None:
    """Log by the words that trackio shares with Weights & Biases; the run is finished however it ends."""
    try:
        images = {f"figures/{name}": client.Image(str(file)) for name, file in run.figures.items()}
        client.log({**run.rates, **images}, step=run.candidates)
        artifact = client.Artifact(f"{_plain(run.name)}-manifest", type="manifest")
        artifact.add_file(str(run.manifest))
        client.log_artifact(artifact)
    finally:
        client.finish()


def _mlflow(client: Any, project: str, run: Told) -> None:
    client.set_experiment(project)
    same = client.search_runs(filter_string=f"tags.sidebench = '{run.key}'", output_format="list", max_results=1)
    which = {"run_id": same[0].info.run_id} if same else {"run_name": run.name}
    with client.start_run(**which, tags={"sidebench": run.key, "verdict": run.verdict}):
        client.log_dict(run.config, "config.json")
        client.log_metrics(run.rates, step=run.candidates)
        for file in run.figures.values():
            client.log_artifact(str(file), "figures")
        client.log_artifact(str(run.manifest))


SERVICES: Mapping[str, Callable[[Any, str, Told], None]] = {"trackio": _trackio, "wandb": _wandb, "mlflow": _mlflow}
"""By the name of the client's package."""
