"""A stand-in for an object store: as much of S3's wire as files need, in memory, on a port of 127.0.0.1.

A file appears whole or not at all, may be made only where none is, and comes in parts where it is large. What the
store has seen can be looked at, and it can be told to misbehave.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from xml.sax.saxutils import escape

from aiohttp import web

from served import served

KEY, SECRET = "AKIA-of-the-test", "secret-of-the-store-0123456789"
BUCKET = "bucket"


@dataclass
class Store:
    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    """Key -> content, of the one bucket."""
    times: dict[str, datetime] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    """Method and key of each request, as "PUT run/journal.sqlite"."""
    seen: list[float] = field(default_factory=list)
    """When each of them came."""
    fault: Callable[[str], tuple[int, str] | None] = lambda request: None
    """(status, S3's code) to answer a request with, by how it stands in the log."""
    heeds_conditions: bool = True
    """Whether it has "write this where none is", which not all that speak S3 do."""
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What leads a client here."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{bucket}", self._bucket)
        app.router.add_route("*", "/{bucket}/", self._bucket)
        app.router.add_route("*", "/{bucket}/{key:.+}", self._object)
        return app

    def _refused(self, request: web.Request, key: str) -> web.Response | None:
        self.log.append(f"{request.method} {key}")
        self.seen.append(time.monotonic())
        if request.match_info["bucket"] != BUCKET:
            return _error(404, "NoSuchBucket")
        if f"Credential={KEY}/" not in request.headers.get("Authorization", ""):
            return _error(403, "AccessDenied")
        fault = self.fault(self.log[-1])
        return _error(*fault) if fault else None

    async def _bucket(self, request: web.Request) -> web.Response:
        if refused := self._refused(request, ""):
            return refused
        if request.method == "POST" and "delete" in request.query:
            body = (await request.text()).split("<Key>")[1:]
            for part in body:
                self.objects.pop(part.split("</Key>")[0], None)
            return _xml("<DeleteResult/>")
        if request.method != "GET":
            return web.Response()
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        files, folders = [], set()
        for key in sorted(key for key in self.objects if key.startswith(prefix)):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                files.append(key)
        listed = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{self.times[key].isoformat()}</LastModified>"
            f"<ETag>{_etag(self.objects[key])}</ETag><Size>{len(self.objects[key])}</Size>"
            f"<StorageClass>STANDARD</StorageClass></Contents>"
            for key in files
        )
        listed += "".join(
            f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in sorted(folders)
        )
        about = f"<Name>{BUCKET}</Name><IsTruncated>false</IsTruncated><KeyCount>{len(files) + len(folders)}</KeyCount>"
        return _xml(f"<ListBucketResult>{about}{listed}</ListBucketResult>")

    async def _object(self, request: web.Request) -> web.Response:
        key = request.match_info["key"]
        body = await request.read()
        if refused := self._refused(request, key):
            return refused
        query = request.query
        if request.method == "POST" and "uploads" in query:
            upload = uuid.uuid4().hex
            self.parts[upload] = {}
            return _xml(
                f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key>"
                f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        if request.method == "POST" and "uploadId" in query:
            parts = self.parts.pop(query["uploadId"])
            self._keep(key, b"".join(parts[number] for number in sorted(parts)))
            tag = _etag(self.objects[key])
            return _xml(f"<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>")
        if request.method == "PUT" and "uploadId" in query:
            self.parts[query["uploadId"]][int(query["partNumber"])] = body
            return web.Response(headers={"ETag": _etag(body)})
        if request.method == "PUT":
            condition = request.headers.get("If-None-Match") if self.heeds_conditions else None
            if condition == "*" and key in self.objects:
                return _error(412, "PreconditionFailed")
            self._keep(key, body)
            return web.Response(headers={"ETag": _etag(body)})
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return web.Response(status=204)
        if key not in self.objects:
            return _error(404, "NoSuchKey")
        content = self.objects[key]
        headers = {
            "ETag": _etag(content),
            "Last-Modified": format_datetime(self.times[key], usegmt=True),
            "Accept-Ranges": "bytes",
        }
        asked = request.http_range
        if asked.start is not None or asked.stop is not None:
            first, end, _ = asked.indices(len(content))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            return web.Response(status=206, body=content[first:end], headers=headers)
        if request.method == "HEAD":
            headers["Content-Length"] = str(len(content))
            return web.Response(headers=headers)
        return web.Response(body=content, headers=headers)

    def _keep(self, key: str, content: bytes) -> None:
        self.objects[key] = content
        self.times[key] = datetime.now(UTC).replace(microsecond=0)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _xml(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, content_type="application/xml")


def _error(status: int, code: str) -> web.Response:
    return _xml(f"<Error><Code>{code}</Code><Message>{code}</Message></Error>", status)


@contextmanager
def serving() -> Iterator[Store]:
    """The stand-in, in a thread of its own until the block ends."""
    store = Store()
    with served(store.app()) as store.port:
        yield store
