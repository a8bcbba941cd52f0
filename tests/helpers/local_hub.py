"""A Hub on this machine: model and data repositories over HTTP, for tests through the real huggingface_hub.

    with LocalHub() as hub, Commands(hub, place) as sidebench:
        repo = hub.add("models", "someone/tiny", folder)
        code, out, err = sidebench("fetch", "pair.yaml")

The address and the cache must be in the environment before huggingface_hub is imported, so what speaks to this
Hub runs in a process of its own: `Commands`. Every request is kept in `requests`, as "METHOD /path".
"""

import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["models", "datasets"]
Files = dict[str, bytes]

TOKEN = "hf_of_the_local_hub"
"""Opens private and gated repositories and may write; any other token is a stranger's."""
SEVERAL = r"""
import contextlib, io, json, os, sys
from sidebench.cli import main
for line in sys.stdin:
    out, err, asked = io.StringIO(), io.StringIO(), json.loads(line)
    os.environ.update(asked["environment"])
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(asked["command"])
        except SystemExit as left:
            code = left.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Run several commands in one process, a line of JSON each; answer each with a line: exit code, stdout and stderr."""
LARGE = (".safetensors", ".bin", ".parquet", ".tar")
"""Files that a real Hub keeps in LFS: their SHA-256 stands in the listing."""


@dataclass
class Repo:
    """A repository: commits by 40-digit id, and branches that point to them."""

    kind: Kind
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    def commit(self, files: Path | Files, branch: str = "main") -> str:
        """Make a commit of these files alone (a folder or contents by name), move the branch, return its id."""
        if isinstance(files, Path):
            files = {f.relative_to(files).as_posix(): f.read_bytes() for f in files.rglob("*") if f.is_file()}
        listing = [(name, hashlib.sha1(content).hexdigest()) for name, content in sorted(files.items())]
        seed = json.dumps([self.kind, self.name, len(self.commits), listing])
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def resolve(self, revision: str) -> str | None:
        """Return the commit id of a branch or commit."""
        return revision if revision in self.commits else self.branches.get(revision)


class LocalHub:
    """The server, as a context manager; it listens on loopback only."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[str] = []
        self.moved: dict[tuple[str, str], str] = {}
        """New name by kind and old name; a request for the old one is redirected."""
        self.interruptions: Counter[str] = Counter()
        """How many more times a download of a file of this name breaks off half-way."""
        self.meanwhile: list[Callable[[], object]] = []
        """What happens, once each, between the first word of a commit and the commit itself."""
        self.connections: set[socket.socket] = set()
        hub = self

        class Bound(_Handler):
            local = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Answer nobody within: the port is closed, and so are the connections that clients hold."""
        self.__exit__()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        yield
        address = self._server.server_address
        self._server = ThreadingHTTPServer(("127.0.0.1", int(address[1])), self._server.RequestHandlerClass)
        self._server.daemon_threads = True
        self.__enter__()

    def add(self, kind: Kind, name: str, files: Path | Files | None = None, **options: Any) -> Repo:
        """Make a repository, with a first commit on main where files are given."""
        repo = self.repos[kind, name] = Repo(kind, name, **options)
        if files is not None:
            repo.commit(files)
        return repo

    def environment(self, home: Path, token: str | None = None, **more: str) -> dict[str, str]:
        """Return this process's environment with the Hub at this address and a cache of its own.

        It is the proxy too, so that a request to any other host is refused and kept among the requests.
        """
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
        }
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        proxy = {"HTTPS_PROXY": self.endpoint, "HTTP_PROXY": self.endpoint, "NO_PROXY": "127.0.0.1"}
        return {**clean, **own, **proxy, **({"HF_TOKEN": token} if token else {}), **more}


class Commands:
    """Commands of sidebench, one after the other in one process that speaks to a Hub; a context manager.

    Importing the client and what reads its files takes seconds, so one process serves several commands. Its cache lies
    in `place`, which is its folder too.

    Args:
        hub: the Hub that it speaks to.
        place: where it works.
        before: code to run before the first command.
        after: code to run after the last one; the process must leave with exit code 0.
        more: changes of its environment.
    """

    def __init__(self, hub: LocalHub, place: Path, *, before: str = "", after: str = "", **more: str) -> None:
        self._errors: IO[str] = (place / "errors.txt").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + SEVERAL + after],
            env=hub.environment(place / "home", **more),
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __call__(self, *command: str, **environment: str) -> tuple[int, str, str]:
        """Run a command, with changes of the environment that stay, and return its exit code, stdout and stderr."""
        asked, answers = self.process.stdin, self.process.stdout
        assert asked is not None and answers is not None
        print(json.dumps({"command": command, "environment": environment}), file=asked, flush=True)
        answer = answers.readline()
        assert answer, Path(self._errors.name).read_text(encoding="utf-8")[-2000:]
        code, out, err = json.loads(answer)
        return code, out, err

    def __enter__(self) -> "Commands":
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self.process.communicate()
        self._errors.close()
        assert failed or self.process.returncode == 0


class _Refused(Exception):
    """An answer other than 200: status, X-Error-Code, message."""


class _Handler(BaseHTTPRequestHandler):
    local: LocalHub
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.local.connections.add(self.connection)

    def finish(self) -> None:
        self.local.connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: requests are kept."""

    def do_HEAD(self) -> None:
        self._answer(self._get)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_CONNECT(self) -> None:
        self.local.requests.append(f"CONNECT {self.path}")
        self._send(403, b"", {})

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, make: Any) -> None:
        url = urlsplit(self.path)
        self.local.requests.append(f"{self.command} {unquote(url.path)}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for (kind, old), new in self.local.moved.items():
            for head in (f"/api/{kind}/", f"/{kind}/" if kind == "datasets" else "/"):
                if f"{url.path}/".startswith(f"{head}{old}/"):
                    self._send(307, b"", {"Location": head + new + self.path[len(head + old) :]})
                    return
        try:
            made = make(unquote(url.path).strip("/").split("/"), parse_qs(url.query), body)
        except _Refused as refused:
            status, code, message = refused.args
            self._send(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code} if code else {})
            return
        if made is not None:
            self._send(200, json.dumps(made).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut

    @property
    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    # ---- Reading ----

    def _get(self, parts: list[str], query: dict[str, list[str]], body: bytes) -> Any:
        if parts == ["api", "whoami-v2"]:
            self._must_know()
            return {"type": "user", "name": "tester", "orgs": [], "auth": {"accessToken": {"role": "write"}}}
        if parts[0] == "api":
            repo, action, rest = self._repo(parts[1], parts[2:])
            sha = self._commit(repo, rest[0] if rest else "main")
            if action == "tree":
                return _listing(repo.commits[sha], "/".join(rest[1:]), "true" in query.get("recursive", []))
            if action in (None, "revision"):
                files = [entry for entry in _listing(repo.commits[sha], "", True) if entry["type"] == "file"]
                siblings = [{**f, "rfilename": f["path"], "blobId": f["oid"]} for f in files]
                extra = {"private": repo.private, "gated": "manual" if repo.gated else False, "cardData": repo.card}
                return {"id": repo.name, "modelId": repo.name, "sha": sha, "siblings": siblings, "tags": [], **extra}
            raise _Refused(404, None, f"no route {self.path}")
        kind = "datasets" if parts[0] == "datasets" else "models"
        repo, action, rest = self._repo(kind, parts[1:] if kind == "datasets" else parts)
        if action != "resolve":
            raise _Refused(404, None, f"no route {self.path}")
        self._download(repo, rest[0], "/".join(rest[1:]))
        return None

    def _download(self, repo: Repo, revision: str, name: str) -> None:
        if repo.gated and self._token != TOKEN:
            raise _Refused(403 if self._token else 401, "GatedRepo", f"Access to {repo.name} is restricted")
        sha = self._commit(repo, revision)
        if name not in repo.commits[sha]:
            raise _Refused(404, "EntryNotFound", "Entry not found")
        content = repo.commits[sha][name]
        headers = {"ETag": f'"{_blob(name, content)}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        cut = self.command == "GET" and self.local.interruptions[Path(name).name] > 0
        if cut:
            self.local.interruptions[Path(name).name] -= 1
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        if self.headers.get("If-Range", headers["ETag"]) != headers["ETag"]:
            start = 0
        if start and start >= len(content):
            raise _Refused(416, None, "Range Not Satisfiable")
        if start and not cut:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._send(206, content[start:], headers)
        else:
            self._send(200, content, headers, cut)

    # ---- Writing ----

    def _post(self, parts: list[str], query: dict[str, list[str]], body: bytes) -> Any:
        if parts == ["api", "validate-yaml"]:
            return {"errors": [], "warnings": []}
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        repo, action, rest = self._repo(parts[1], parts[2:])
        if action == "paths-info":
            wanted = json.loads(body)["paths"] if body[:1] == b"{" else parse_qs(body.decode())["paths"]
            files = repo.commits[self._commit(repo, "/".join(rest))]
            return [entry for entry in _listing(files, "", True) if entry["path"] in wanted]
        self._must_know()
        if action == "preupload":
            while self.local.meanwhile:
                self.local.meanwhile.pop()()
            files = json.loads(body)["files"]
            return {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if action == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            return self._make_commit(repo, rest[0], lines, "1" in query.get("create_pr", []))
        raise _Refused(404, None, f"no route {self.path}")

    def _create(self, wanted: dict[str, Any]) -> Any:
        self._must_know()
        kind: Kind = "datasets" if wanted.get("type") == "dataset" else "models"
        name = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        if (kind, name) in self.local.repos:
            raise _Refused(409, None, "You already created this repo")
        self.local.add(kind, name, {}, private=bool(wanted.get("private")))
        return {"url": f"{self.local.endpoint}/{'datasets/' if kind == 'datasets' else ''}{name}", "name": name}

    def _make_commit(self, repo: Repo, branch: str, lines: list[Any], pull_request: bool) -> Any:
        header, *changes = lines
        parent = self._commit(repo, branch)
        if header["value"].get("parentCommit", parent) != parent:
            raise _Refused(412, None, "The branch has moved since its parent commit")
        files = dict(repo.commits[parent])
        for change in changes:
            if change["key"] == "deletedFile":
                files.pop(change["value"]["path"], None)
            else:
                files[change["value"]["path"]] = base64.b64decode(change["value"]["content"])
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        sha = repo.commit(files, f"refs/pr/{number}" if pull_request else branch)
        page = f"{self.local.endpoint}/{'datasets/' if repo.kind == 'datasets' else ''}{repo.name}"
        made = {"success": True, "commitOid": sha, "commitUrl": f"{page}/commit/{sha}", "hookOutput": ""}
        return {**made, "pullRequestUrl": f"{page}/discussions/{number}"} if pull_request else made

    # ---- Who may see what ----

    def _must_know(self) -> None:
        if self._token != TOKEN:
            raise _Refused(401, None, "Invalid username or password.")

    def _repo(self, kind: str, parts: list[str]) -> tuple[Repo, str | None, list[str]]:
        """Return the repository at the front of a path, what is asked of it, and the rest of the path."""
        repo = self.local.repos.get((kind, "/".join(parts[:2])))
        if repo is None or (repo.private and self._token != TOKEN):
            raise _Refused(404 if self._token else 401, "RepoNotFound", "Repository not found")
        rest = parts[3:]
        if rest[:2] == ["refs", "pr"]:
            rest = ["/".join(rest[:3]), *rest[3:]]
        return repo, parts[2] if len(parts) > 2 else None, rest

    def _commit(self, repo: Repo, revision: str) -> str:
        sha = repo.resolve(revision)
        if sha is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha


def _blob(name: str, content: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _listing(files: Files, under: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries of a tree below a folder, files with size and id."""
    entries: dict[str, dict[str, Any]] = {}
    for name, content in sorted(files.items()):
        if under and not name.startswith(f"{under}/"):
            continue
        inside = name[len(under) + 1 if under else 0 :].split("/")
        for depth in range(1, len(inside) if recursive else min(2, len(inside))):
            folder = "/".join(([under] if under else []) + inside[:depth])
            entries[folder] = {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        if recursive or len(inside) == 1:
            entries[name] = {"type": "file", "path": name, "oid": _blob(name, content), "size": len(content)}
            if name.endswith(LARGE):
                size = {"size": len(content), "pointerSize": 134}
                entries[name]["lfs"] = {"oid": _blob(name, content), "sha256": _blob(name, content), **size}
    return list(entries.values())
