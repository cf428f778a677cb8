"""A stand-in for the Hugging Face Hub: datasets only, in memory, on a port of 127.0.0.1.

It speaks as much of the wire as creating a dataset, uploading a folder and loading it again take. Git and LFS
objects are kept alike, by their SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from served import served

TOKEN = "hf_of_the_test"
LARGE = (".parquet", ".jsonl")


@dataclass
class Repo:
    private: bool
    commits: list[dict[str, str]] = field(default_factory=lambda: [{}])
    """Each commit is path -> SHA-256; its name is its place in the list."""

    def sha(self, number: int = -1) -> str:
        return hashlib.sha1(str(number % len(self.commits)).encode()).hexdigest()

    def files(self, revision: str) -> dict[str, str] | None:
        if revision in ("main", "refs/heads/main"):
            return self.commits[-1]
        return next((f for i, f in enumerate(self.commits) if self.sha(i) == revision), None)


class Hub:
    """What the server holds, and how it is to misbehave."""

    def __init__(self) -> None:
        self.address = ""
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[str] = []
        self.refusals: list[int] = []
        """Statuses that the next commits are answered with."""
        self.read_only = False

    def environment(self, home: str) -> dict[str, str]:
        """Variables that lead a client here, with its caches under `home`."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": TOKEN,
            "HF_HOME": home,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }

    def content(self, repo: str, path: str) -> bytes:
        return self.blobs[self.repos[repo].commits[-1][path]]

    # ---- the wire

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=2**30)
        repo = "/api/datasets/{org}/{name}"
        git = "/datasets/{org}/{name}"
        app.add_routes(
            [
                web.post("/api/repos/create", self.create),
                web.post("/api/validate-yaml", self.validate),
                web.get("/api/whoami-v2", self.whoami),
                web.get(repo, self.info),
                web.get(repo + "/refs", self.refs),
                web.get(repo + "/revision/{revision}", self.info),
                web.get(repo + "/tree/{revision}", self.tree),
                web.get(repo + "/tree/{revision}/{path:.*}", self.tree),
                web.post(repo + "/paths-info/{revision}", self.paths),
                web.post(repo + "/preupload/{revision}", self.preupload),
                web.post(repo + "/commit/{revision}", self.commit),
                web.post(git + ".git/info/lfs/objects/batch", self.batch),
                web.put("/lfs/{oid}", self.upload),
                web.post("/lfs-verify", self.verify),
                web.get(git + "/resolve/{revision}/{path:.*}", self.resolve),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization", f"Bearer {TOKEN}") != f"Bearer {TOKEN}":
            response = _error(401, "Unauthorized", "Invalid user token.")
        else:
            response = await handler(request)
        self.log.append(f"{request.method} {request.path} {response.status}")
        return response

    def _found(self, request: web.Request) -> tuple[Repo, dict[str, str]]:
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        repo = self.repos.get(name)
        if repo is None:
            raise _Absent("RepoNotFound", f"no dataset {name}")
        files = repo.files(request.match_info.get("revision", "main"))
        if files is None:
            raise _Absent("RevisionNotFound", "no such revision")
        return repo, files

    async def create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = f"{self.address}/datasets/{name}"
        if self.read_only:
            return _error(403, "Forbidden", "You don't have the rights to create a dataset here.")
        if name in self.repos:
            return web.json_response(
                {"error": "You already created this dataset repo", "url": url}, status=409
            )
        self.repos[name] = Repo(bool(asked.get("private") or asked.get("visibility") == "private"))
        return web.json_response({"url": url, "name": name, "id": name})

    async def validate(self, request: web.Request) -> web.Response:
        return web.json_response({"errors": [], "warnings": []})

    async def whoami(self, request: web.Request) -> web.Response:
        return web.json_response({"type": "user", "name": "me", "orgs": []})

    async def info(self, request: web.Request) -> web.Response:
        try:
            repo, files = self._found(request)
        except _Absent as absent:
            return absent.response
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        return web.json_response(
            {
                "id": name,
                "author": request.match_info["org"],
                "sha": repo.sha(),
                "private": repo.private,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )

    async def refs(self, request: web.Request) -> web.Response:
        repo, _ = self._found(request)
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.sha()}
        return web.json_response({"branches": [main], "tags": [], "converts": []})

    def _entry(self, path: str, oid: str) -> dict[str, Any]:
        size = len(self.blobs[oid])
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": oid[:40], "size": size}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": oid, "size": size, "pointerSize": 130}
        return entry

    async def tree(self, request: web.Request) -> web.Response:
        try:
            _, files = self._found(request)
        except _Absent as absent:
            return absent.response
        folder = request.match_info.get("path", "").strip("/")
        start = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, oid in sorted(files.items()):
            if not path.startswith(start):
                continue
            steps = path[len(start) :].split("/")
            for depth in range(1, len(steps)):
                inner = start + "/".join(steps[:depth])
                entries[inner] = {"type": "directory", "path": inner, "oid": "0" * 40, "size": 0}
            entries[path] = self._entry(path, oid)
        if folder and not entries:
            return _error(404, "EntryNotFound", f"{folder} does not exist")
        if request.query.get("recursive", "false").lower() != "true":
            entries = {path: entry for path, entry in entries.items() if "/" not in path[len(start) :]}
        return web.json_response(list(entries.values()))

    async def paths(self, request: web.Request) -> web.Response:
        _, files = self._found(request)
        asked = (await request.json())["paths"] if request.can_read_body else []
        return web.json_response([self._entry(path, files[path]) for path in asked if path in files])

    async def preupload(self, request: web.Request) -> web.Response:
        asked = (await request.json())["files"]
        return web.json_response(
            {
                "files": [
                    {
                        "path": f["path"],
                        "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                    }
                    for f in asked
                ]
            }
        )

    async def batch(self, request: web.Request) -> web.Response:
        objects = []
        for asked in (await request.json())["objects"]:
            wanted = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.blobs:
                wanted["actions"] = {
                    "upload": {"href": f"{self.address}/lfs/{asked['oid']}", "header": {}},
                    "verify": {"href": f"{self.address}/lfs-verify", "header": {}},
                }
            objects.append(wanted)
        return web.json_response(
            {"transfer": "basic", "objects": objects}, content_type="application/vnd.git-lfs+json"
        )

    async def upload(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self._keep(body) != request.match_info["oid"]:
            return web.Response(status=400)
        return web.Response()

    async def verify(self, request: web.Request) -> web.Response:
        asked = await request.json()
        return web.Response(status=200 if len(self.blobs.get(asked["oid"], b"")) == asked["size"] else 404)

    def _keep(self, body: bytes) -> str:
        oid = hashlib.sha256(body).hexdigest()
        self.blobs[oid] = body
        return oid

    async def commit(self, request: web.Request) -> web.Response:
        body = await request.text()
        if self.refusals:
            status = self.refusals.pop(0)
            return web.json_response({"error": f"refused with {status}"}, status=status)
        repo, files = self._found(request)
        files = dict(files)
        for line in body.splitlines():
            part = json.loads(line)
            value = part["value"]
            if part["key"] == "file":
                files[value["path"]] = self._keep(base64.b64decode(value["content"]))
            elif part["key"] == "lfsFile":
                if value["oid"] not in self.blobs:
                    return web.json_response({"error": "the object was not uploaded"}, status=400)
                files[value["path"]] = value["oid"]
            elif part["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    return _error(404, "EntryNotFound", "A file with this name doesn't exist")
            elif part["key"] != "header":
                return web.json_response({"error": f"unknown operation {part['key']}"}, status=400)
        repo.commits.append(files)
        name = f"{request.match_info['org']}/{request.match_info['name']}"
        return web.json_response(
            {
                "success": True,
                "commitOid": repo.sha(),
                "commitUrl": f"{self.address}/datasets/{name}/commit/{repo.sha()}",
                "hookOutput": "",
                "pullRequestUrl": None,
            }
        )

    async def resolve(self, request: web.Request) -> web.Response:
        try:
            repo, files = self._found(request)
        except _Absent as absent:
            return absent.response
        path = request.match_info["path"]
        if path not in files:
            return _error(404, "EntryNotFound", "Entry not found")
        body = self.blobs[files[path]]
        headers = {"ETag": f'"{files[path]}"', "X-Repo-Commit": repo.sha(), "Accept-Ranges": "bytes"}
        asked = request.http_range
        if request.method == "GET" and (asked.start is not None or asked.stop is not None):
            first, end, _ = asked.indices(len(body))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(body)}"
            return web.Response(status=206, body=body[first:end], headers=headers)
        return web.Response(body=body, headers=headers)


class _Absent(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.response = _error(404, code, message)


def _error(status: int, code: str, message: str) -> web.Response:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return web.json_response({"error": message}, status=status, headers=headers)


@contextmanager
def serving() -> Iterator[Hub]:
    """The stand-in, in a thread of its own until the block ends."""
    hub = Hub()
    with served(hub.app()) as port:
        hub.address = f"http://127.0.0.1:{port}"
        yield hub
