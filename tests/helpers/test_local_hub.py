"""The Hub that other tests speak to answers the real huggingface_hub as the real one does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from local_hub import TOKEN, LocalHub

CLIENT = r"""
import json, sys
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download


first, second = sys.argv[1:]
api, said = HfApi(), {}


def name_of(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except Exception as error:
        return type(error).__name__
    return "fine"


said["branch"] = api.model_info("someone/tiny", revision="main").sha
said["files"] = sorted(api.list_repo_files("someone/tiny", revision=first))
folder = snapshot_download("someone/tiny", revision=first, allow_patterns=["unet/*"])
said["folder"] = folder
said["old"] = open(f"{folder}/unet/weights.safetensors").read()
said["new"] = open(hf_hub_download("someone/tiny", "unet/weights.safetensors", revision=second)).read()
said["missing"] = name_of(snapshot_download, "someone/nothing")
said["wrong revision"] = name_of(snapshot_download, "someone/tiny", revision="v9")
said["gated"] = name_of(snapshot_download, "someone/gated", token=False)
said["gated stranger"] = name_of(snapshot_download, "someone/gated", token="hf_of_a_stranger")
said["private"] = name_of(snapshot_download, "someone/private", token=False)
said["own"] = [name_of(snapshot_download, name) for name in ("someone/gated", "someone/private")]

said["user"] = api.whoami()["name"]
url = api.create_repo("tester/records", repo_type="dataset")
said["again"] = name_of(api.create_repo, "tester/records", repo_type="dataset")
empty = api.dataset_info("tester/records").sha
more = {"repo_id": "tester/records", "repo_type": "dataset", "commit_message": "a record"}
record = [CommitOperationAdd("records/a.json", b'{"ams": 1}')]
made = api.create_commit(operations=record, parent_commit=empty, **more)
said["made"] = made.oid
said["stale"] = name_of(api.create_commit, operations=[CommitOperationAdd("b", b"b")], parent_commit=empty, **more)
asked = api.create_commit(operations=[CommitOperationAdd("c", b"c")], create_pr=True, **more)
said["request"] = [asked.pr_num, asked.pr_revision]
said["main"] = sorted(api.list_repo_files("tester/records", repo_type="dataset"))
said["proposed"] = sorted(api.list_repo_files("tester/records", repo_type="dataset", revision="refs/pr/1"))
said["read"] = open(hf_hub_download("tester/records", "records/a.json", repo_type="dataset", revision=made.oid)).read()
print(json.dumps(said))
"""


def test_real_client_downloads_and_uploads(tmp_path: Path) -> None:
    with LocalHub() as hub:
        tiny = hub.add("models", "someone/tiny", {"unet/weights.safetensors": b"old", "unet/config.json": b"{}"})
        first = tiny.branches["main"]
        second = tiny.commit({"unet/weights.safetensors": b"new", "README.md": b"hello"})
        hub.add("models", "someone/gated", {"a.json": b"{}"}, gated=True)
        hub.add("models", "someone/private", {"a.json": b"{}"}, private=True)
        said = ask(CLIENT, hub, tmp_path, first, second)

        records = hub.repos["datasets", "tester/records"]
        assert records.commits[records.branches["main"]] == {"records/a.json": b'{"ams": 1}'}
    assert said["branch"] == second and said["files"] == ["unet/config.json", "unet/weights.safetensors"]
    assert Path(said["folder"]).name == first
    assert (said["old"], said["new"]) == ("old", "new")
    assert (said["missing"], said["private"]) == ("RepositoryNotFoundError", "RepositoryNotFoundError")
    assert said["wrong revision"] == "RevisionNotFoundError"
    assert (said["gated"], said["gated stranger"]) == ("GatedRepoError", "GatedRepoError")
    assert said["own"] == ["fine", "fine"]
    assert (said["user"], said["again"], said["stale"]) == ("tester", "HfHubHTTPError", "HfHubHTTPError")
    assert said["made"] == records.branches["main"] and said["read"] == '{"ams": 1}'
    assert said["request"] == [1, "refs/pr/1"]
    assert (said["main"], said["proposed"]) == (["records/a.json"], ["c", "records/a.json"])


AGAIN = r"""
import json, sys
from huggingface_hub import snapshot_download
print(json.dumps(open(snapshot_download("someone/tiny", revision=sys.argv[1]) + "/a.safetensors").read()))
"""


def test_broken_download_is_resumed_and_a_cached_commit_asks_nothing(tmp_path: Path) -> None:
    with LocalHub() as hub:
        sha = hub.add("models", "someone/tiny", {"a.safetensors": b"0123456789"}).branches["main"]
        hub.interruptions["a.safetensors"] = 1
        assert ask(AGAIN, hub, tmp_path, sha) == "0123456789"
        assert hub.interruptions["a.safetensors"] == 0
        assert hub.requests.count(f"GET /someone/tiny/resolve/{sha}/a.safetensors") == 2
        hub.requests.clear()
        assert ask(AGAIN, hub, tmp_path, sha) == "0123456789"
        assert hub.requests == []


def ask(code: str, hub: LocalHub, home: Path, *arguments: str) -> Any:
    """Run a script against this Hub as a logged-in user and return what it prints as JSON."""
    command = [sys.executable, "-c", code, *arguments]
    found = subprocess.run(command, env=hub.environment(home, TOKEN), capture_output=True, text=True, timeout=120)
    if found.returncode:
        pytest.fail(found.stderr[-3000:])
    return json.loads(found.stdout)
