"""Networks from an address: whole or not there, resumed where they broke off, and never of two versions."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from local_hub import LocalHub

from sidebench.benchmark.errors import BadInput, CannotReach, CannotWrite
from sidebench.benchmark.measures import fetch_weights, weights

CONTENT, OTHER = (np.random.default_rng(seed).bytes(300_000) for seed in (0, 1))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(weights, "cache", lambda: tmp_path / "cache")
    with LocalHub() as server:
        server.add("models", "someone/net", {"net.pt": CONTENT})
        yield server


def fetch(hub: LocalHub, file: str = "net.pt") -> str:
    return fetch_weights.bring_in(f"net.pt={hub.endpoint}/someone/net/resolve/main/{file}")


def test_a_broken_download_goes_on_where_it_broke_off(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.interruptions["net.pt"] = 1
    with pytest.raises(CannotReach, match=r"^net\.pt: the download broke off .*; the same command goes on$"):
        fetch(hub)
    with pytest.raises(BadInput, match="which is not here"):
        weights.check("net.pt", "net")
    asked = []
    real = fetch_weights._request
    monkeypatch.setattr(fetch_weights, "_request", lambda *given: asked.append(real(*given)) or asked[-1])
    assert fetch(hub) == hashlib.sha256(CONTENT).hexdigest()
    assert asked[0].get_header("Range") == "bytes=150000-"
    assert sorted(file.name for file in weights.folder().iterdir()) == ["net.pt", "net.pt.json"]
    assert weights.check("net.pt", "net")[0].read_bytes() == CONTENT


def test_a_file_that_changed_in_between_is_taken_whole(hub: LocalHub) -> None:
    hub.interruptions["net.pt"] = 1
    with pytest.raises(CannotReach):
        fetch(hub)
    hub.repos["models", "someone/net"].commit({"net.pt": OTHER})
    assert fetch(hub) == hashlib.sha256(OTHER).hexdigest()


def test_the_rest_of_another_address_is_not_taken(hub: LocalHub) -> None:
    hub.repos["models", "someone/net"].commit({"net.pt": CONTENT, "other.pt": OTHER})
    hub.interruptions["net.pt"] = 1
    with pytest.raises(CannotReach):
        fetch(hub)
    assert fetch(hub, "other.pt") == hashlib.sha256(OTHER).hexdigest()


@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) + 5])
def test_a_part_that_is_too_long_is_dropped(hub: LocalHub, length: int) -> None:
    hub.interruptions["net.pt"] = 1
    with pytest.raises(CannotReach):
        fetch(hub)
    (weights.folder() / ".net.pt.part").write_bytes((CONTENT + b"longer")[:length])
    with pytest.raises(CannotReach, match="answered 416"):
        fetch(hub)
    assert fetch(hub) == hashlib.sha256(CONTENT).hexdigest()


def test_what_cannot_be_had_is_one_line(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotReach, match=r"^net\.pt: the server answered 404; check the address"):
        fetch(hub, "missing.pt")
    for address in ("http://127.0.0.1:9/net.pt", "https://", "http://[::1/", "http://127.0.0.1:port/", "http://a b/"):
        with pytest.raises(CannotReach, match=r"^net\.pt: the download broke off \(\w+\)"):
            fetch_weights.bring_in(f"net.pt={address}")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch_weights.shutil, "copyfileobj", full)
    with pytest.raises(CannotWrite, match=r"net\.pt: No space left on device"):
        fetch(hub)
