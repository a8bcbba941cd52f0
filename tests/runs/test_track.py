"""What trackers are told of a run, by clients that stand in for theirs, and what becomes of one that fails."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sidebench.benchmark.errors import BadInput, UnknownName
from sidebench.benchmark.results.run_folder import RunFolder
from sidebench.benchmark.results.secret_seeds import NONCE_FILE
from sidebench.benchmark.runs.track import PROJECT, SERVICES, Tracker, key_of, rates_of, send, trackers


class Client:
    """Notes each call by the name of its function; those named in `failing` raise."""

    def __init__(self, *failing: str) -> None:
        self.calls: list[tuple[str, Any, Any]] = []
        self.failing = failing
        self.files: dict[str, bytes] = {}
        self.known: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        def called(*given: Any, **named: Any) -> Any:
            print("hello from the client")
            self.calls.append((name, given, named))
            if name in self.failing and "exit" in self.failing:
                raise SystemExit(1)
            if name in self.failing:
                raise ConnectionError("no route to host\nmore of it")
            return {"search_runs": lambda: self.known, "start_run": lambda: self}.get(name, lambda: self.keep(given))()

        return called

    def keep(self, given: tuple[Any, ...]) -> Any:
        """Read what is sent while its file is there."""
        file = Path(given[0]) if given and isinstance(given[0], str) else Path()
        if file.is_file():
            self.files[file.name] = file.read_bytes()
        return SimpleNamespace(add_file=lambda path: self.keep((path,)))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append(("ended", (), {}))

    def named(self, name: str) -> list[tuple[Any, Any]]:
        return [(given, named) for called, given, named in self.calls if called == name]


@pytest.fixture
def client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Client:
    found = Client(*getattr(request, "param", ()))
    for service in SERVICES:
        monkeypatch.setitem(sys.modules, service, found)
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_told_rates_plots_and_manifest(service: str, finished: Any, client: Client, capsys: Any) -> None:
    folder, metrics = finished.folder, finished.metrics
    assert send([Tracker(service, "mine")], folder, metrics) == [service]
    result = next(one for one in metrics.results if one.attack == "side")
    rates = client.named("log_metrics")[0][0][0] if service == "mlflow" else client.named("log")[0][0][0]
    step = client.named("log_metrics" if service == "mlflow" else "log")[0][1]["step"]
    assert rates["side/copies"] == pytest.approx(result.bands[0].training.ams.value) and step == 40
    assert {"side/control", "side/excess", "side/excess_low", "carlini-uncond/hits_per_1000_nfe"} <= rates.keys()
    assert json.loads(client.files["manifest.json"])["run_id"] == folder.path.name
    assert client.files["overview.png"].startswith(b"\x89PNG") and len(client.files) > 4
    assert capsys.readouterr().out == ""
    if service == "mlflow":
        assert client.named("set_experiment") == [(("mine",), {})]
        ((_, started),) = client.named("start_run")
        assert started["run_name"] == folder.path.name
        assert started["tags"]["sidebench"] == key_of(folder.path.name, folder.manifest())
        (config, _), _ = client.named("log_dict")[0]
    else:
        ((_, given),) = client.named("init")
        key = key_of(folder.path.name, folder.manifest())
        assert (given["project"], given["resume"]) == ("mine", "allow")
        named = {"name": key} if service == "trackio" else {"name": folder.path.name, "id": key}
        assert given.items() >= named.items()
        assert len(client.named("finish")) == 1
        config = given["config"]
    manifest = folder.manifest()
    assert config["settings"]["side.s0"] == manifest["units"]["side.s0"]["settings"]
    assert config["candidates"] == 40 and str(folder.path.parent) not in json.dumps(config)


def test_a_run_that_is_sent_again_goes_on_under_its_name(finished: Any, client: Client) -> None:
    client.known.append(SimpleNamespace(info=SimpleNamespace(run_id="abc")))
    assert send([Tracker("mlflow", "mine")], finished.folder, finished.metrics) == ["mlflow"]
    key = key_of(finished.folder.path.name, finished.folder.manifest())
    assert client.named("search_runs")[0][1]["filter_string"] == f"tags.sidebench = '{key}'"
    assert client.named("start_run")[0][1]["run_id"] == "abc"
    assert "run_name" not in client.named("start_run")[0][1]


@pytest.mark.parametrize("client", [("log", "start_run"), ("init", "set_experiment")], indirect=True)
def test_a_service_that_fails_costs_one_line(finished: Any, client: Client, caplog: Any) -> None:
    assert send(trackers(["trackio", "wandb:mine", "mlflow"]), finished.folder, finished.metrics) == []
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3 and all("no route to host); its results stand" in line for line in lines)
    assert [line.split()[0] for line in lines] == ["trackio", "wandb", "mlflow"]
    assert len(client.named("finish")) == (2 if "log" in client.failing else 0)


@pytest.mark.parametrize("client", [("init", "exit")], indirect=True)
def test_a_client_that_exits_is_a_service_that_fails(finished: Any, client: Client, caplog: Any) -> None:
    assert send([Tracker("wandb", "mine")], finished.folder, finished.metrics) == []
    assert "(SystemExit: 1); its results stand" in caplog.text


def test_a_key_is_of_one_folder_and_stays() -> None:
    unit = {"attack": "side", "seed": 0, "settings": {"width": 8}}
    manifest = {"units": {"side.s0": unit}, "device": "cpu", "environment": {}, "candidates": 40}
    key = key_of("digits-x", manifest)
    assert key.startswith("digits-x-") and key == key_of("digits-x", {**manifest, "candidates": 80, "data": {}})
    for change in ({"units": {"side.s0": {**unit, "settings": {}}}}, {"units": {}}, {"device": "cuda"}):
        assert key_of("digits-x", {**manifest, **change}) != key


def test_a_folder_of_its_name_is_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    with pytest.raises(BadInput, match="its client is not installed"):
        trackers(["wandb"])


def test_a_service_is_known_and_its_client_installed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trackers(["trackio", "mlflow:a:b"]) == [Tracker("trackio", PROJECT), Tracker("mlflow", "a:b")]
    with pytest.raises(UnknownName, match="unknown tracker 'trackoi': did you mean trackio"):
        trackers(["trackoi"])
    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="--track wandb: its client is not installed: pip install wandb"):
        trackers(["wandb"])


def test_what_is_not_known_is_not_sent() -> None:
    figures = {"copies": 0.5, "control": None, "unique": 3, "hits_per_1000_nfe": None, "excess": None}
    assert rates_of({"attacks": {"mine:x": figures}}) == {"mine-x/copies": 0.5, "mine-x/unique": 3.0}


def test_a_run_under_secret_seeds_is_sent_to_nobody(finished: Any, copied: Path, client: Client, caplog: Any) -> None:
    (copied / NONCE_FILE).write_bytes(bytes(32))
    assert send([Tracker("trackio", "mine")], RunFolder(copied), finished.metrics) == [] and not client.calls
    assert "is sent to nobody" in caplog.text
