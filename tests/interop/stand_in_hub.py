"""A hub on this machine: the part of the Hugging Face hub's HTTP API that a push and a download use, kept in memory.

Written after what huggingface_hub's client sends and expects: `whoami`, repositories, branches, `preupload`, Git LFS's
batch and its uploads, commits as lines of JSON, and files at a revision.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_standin"
USER = "someone"


class StandInHub:
    """What the hub holds.

    Attributes:
        repos: by type and name (`models/someone/tiny`): what create_repo sent, and the files of each branch.
        large: contents of Git LFS, by SHA-256.
        requests: every request as `METHOD path`, in order.
        readers: tokens that may read and not write.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.readers: set[str] = set()
        self.address = ""

    def add_files(self, repo: str, files: dict[str, bytes]) -> None:
        """Lay a repository out, as if someone had pushed it."""
        self.repos[repo] = {"created": {}, "branches": {"main": dict(files)}}

    def answer(self, method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        """A status, and what to send: an object as JSON, or bytes."""
        parts = path.strip("/").split("/")
        match method, parts:
            case "GET", ["api", "whoami-v2"]:
                return 200, {"name": USER, "type": "user", "auth": {"accessToken": {"role": "write"}}}
            case "POST", ["api", "repos", "create"]:
                return self.create(json.loads(body))
            case "POST", ["api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}
            case "PUT", ["lfs", oid]:
                if hashlib.sha256(body).hexdigest() != oid:
                    return 400, {"error": "the content has another hash"}
                self.large[oid] = body
                return 200, b""
            case "POST", [user, name, "info", "lfs", "objects", "batch"]:
                return 200, self.batch(json.loads(body))
            case _, ["api", kind, user, name, *rest]:
                repo = self.repos.get(f"{kind}/{user}/{name}")
                if repo is None:
                    return 404, {"error": "Repository not found"}
                return self.api(repo, f"{user}/{name}", method, rest, body)
            case "GET" | "HEAD", [*place, "resolve", revision, filename]:
                kind, place = ("datasets", place[1:]) if place[0] == "datasets" else ("models", place)
                return self.file(f"{kind}/{'/'.join(place)}", revision, filename)
        return 404, {"error": f"the stand-in has no {method} {path}"}

    def create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        full = f"{asked.get('organization') or USER}/{asked['name']}"
        if not full.startswith(f"{USER}/"):
            return 403, {"error": f'You don\'t have the rights to create a model under the namespace "{full}"'}
        if f"models/{full}" in self.repos:
            return 409, {"error": "You already created this model repo", "url": f"{self.address}/{full}"}
        self.repos[f"models/{full}"] = {"created": asked, "branches": {"main": {}}}
        return 200, {"url": f"{self.address}/{full}", "name": full, "id": full}

    def batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where to upload what the hub does not have yet."""
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | ({} if one["oid"] in self.large else {"actions": self.upload_of(one["oid"])})
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def upload_of(self, oid: str) -> dict[str, Any]:
        return {"upload": {"href": f"{self.address}/lfs/{oid}"}}

    def api(self, repo: dict[str, Any], name: str, method: str, rest: list[str], body: bytes) -> tuple[int, Any]:
        branches = repo["branches"]
        match method, rest:
            case "POST", ["branch", branch]:
                if branch in branches:
                    return 409, {"error": "Reference already exists"}
                branches[branch] = dict(branches["main"])
                return 200, {}
            case "POST", ["preupload", _]:
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                return 200, {"files": files}
            case "POST", ["commit", branch]:
                for line in map(json.loads, body.splitlines()):
                    value = line["value"]
                    if line["key"] == "file":
                        branches[branch][value["path"]] = base64.b64decode(value["content"])
                    if line["key"] == "lfsFile":
                        branches[branch][value["path"]] = self.large[value["oid"]]
                oid = commit_of(branches[branch])
                return 200, {"success": True, "commitOid": oid, "commitUrl": f"{self.address}/{name}/commit/{oid}"}
            case "GET", [] | ["revision", _]:
                revision = rest[1] if rest else "main"
                if revision not in named(branches):
                    return 404, {"error": f"Invalid rev id: {revision}"}
                files = named(branches)[revision]
                siblings = [{"rfilename": path} for path in files]
                return 200, {"id": "x/y", "sha": commit_of(files), "siblings": siblings, "tags": [], "private": False}
            case "GET", ["tree", revision, *_]:
                files = named(branches)[revision]
                return 200, [
                    {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for path, content in files.items()
                ]
        return 404, {"error": f"the stand-in has no {method} {'/'.join(rest)} of a repository"}

    def file(self, repo: str, revision: str, filename: str) -> tuple[int, Any]:
        branches = self.repos.get(repo, {"branches": {}})["branches"]
        content = named(branches).get(revision, {}).get(filename)
        return (404, {"error": "Entry not found"}) if content is None else (200, (content, commit_of(branches["main"])))


def commit_of(files: dict[str, bytes]) -> str:
    """Forty hex digits that stand for these files."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def named(branches: dict[str, dict[str, bytes]]) -> dict[str, dict[str, bytes]]:
    """The files by branch and by commit."""
    return branches | {commit_of(files): files for files in branches.values()}


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """Serve a hub on a free port of this machine while the block runs."""
    hub = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def respond(self) -> None:
            url = urlsplit(self.path)
            hub.requests.append(f"{self.command} {url.path}")
            body = self.body()
            token = (self.headers.get("authorization") or "").removeprefix("Bearer ")
            if self.command == "POST" and token != TOKEN:
                status = 403 if token in hub.readers else 401
                answer: Any = {"error": "Invalid credentials in Authorization header" if status == 401 else "Forbidden"}
            else:
                status, answer = hub.answer(self.command, unquote(url.path), parse_qs(url.query), body)
            headers = {"content-type": "application/json", "x-error-message": ""}
            if isinstance(answer, tuple):
                answer, commit = answer
                headers = {"x-repo-commit": commit, "etag": f'"{hashlib.sha1(answer).hexdigest()}"'}
            elif isinstance(answer, dict) and "error" in answer:
                headers["x-error-message"] = answer["error"]
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in (headers | {"content-length": str(len(content))}).items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length") or 0))
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)

        do_GET = do_HEAD = do_POST = do_PUT = respond

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
