"""Files at a URL: the one door to fsspec, which knows s3://, gs://, hf://, sftp://, https:// and many more.

Credentials are found where the filesystem's own package looks for them (environment, profile, instance), and never
pass through here. Everything that goes wrong is a RemoteError of one line, which says what to do.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from synthpref.core.errors import RemoteError

WHOLE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "oci", "tos", "hf", "memory"})
"""Kinds of store in which a file appears whole or not at all. Elsewhere it is written under another name first."""
VERSIONS = ("ETag", "etag", "blob_id", "md5Hash", "sha256")
"""What a store calls the hash, or the version, of what a file holds."""
TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "modify", "updated", "created")
LOGIN = frozenset({"ftp", "ftps", "sftp", "ssh", "smb", "http", "https", "webdav"})
"""Kinds whose addresses may hold a name and a password."""
IDLE_S = 60.0
"""A connection that was not used for so long is made anew: it may be gone without a word, or, as ftp:// tells it, each
file with it."""
NEVER_PASSING = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    TypeError,
    ValueError,
)
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""What a disk says that takes nothing more."""
UNKNOWN = (ValueError, TypeError, NotImplementedError)
"""How a filesystem says that it cannot make a file only where none is."""


class Remote:
    """A folder at a URL, by names relative to it. Every method raises RemoteError."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.kind = urlsplit(url).scheme
        self._own = threading.local()
        # Not one that fsspec keeps, whose connection may be broken.
        self._own.fs, root = opened(self.url, skip_instance_cache=True)
        self._root = root.rstrip("/")

    @property
    def _fs(self) -> Any:
        """The filesystem of this thread: those that hold a connection, as sftp:// does, are not to be shared."""
        own, now = self._own, time.monotonic()
        if self.kind in LOGIN and now - getattr(own, "used", now) > IDLE_S:
            vars(own).pop("fs", None)
        own.used = now
        if not hasattr(own, "fs"):
            own.fs, _ = opened(self.url, skip_instance_cache=True)
        return own.fs

    @contextmanager
    def _told(self, name: str, what: str) -> Iterator[None]:
        try:
            with told(self._at(name), what):
                yield
        except RemoteError:
            # A broken connection is not made again by who holds it.
            vars(self._own).pop("fs", None)
            raise

    def files(self) -> dict[str, str]:
        """What is there: name -> stamp, which changes when the file does."""
        with self._told("", "cannot be listed"):
            self._fs.invalidate_cache()
            # What cannot be listed would else be taken for empty.
            options = {} if self.kind in WHOLE else {"on_error": "raise"}
            with suppress(FileNotFoundError):
                found = self._fs.find(self._root, detail=True, **options)
                return {path[len(self._root) :].lstrip("/"): stamp(info) for path, info in found.items()}
            return {}

    def read(self, name: str) -> bytes | None:
        """What the file holds; None where there is none."""
        with self._told(name, "cannot be read"):
            self._fs.invalidate_cache()
            with suppress(FileNotFoundError):
                found: bytes = self._fs.cat_file(self._path(name))
                return found
            return None

    def create(self, name: str, content: bytes) -> bool:
        """Write the file where none is; False where one is. At once, in stores that can (S3, GCS, Azure)."""
        path = self._path(name)
        with self._told(name, "cannot be written"):
            self._folder_of(path)
            # Some stores that speak S3 do not heed the condition.
            self._fs.invalidate_cache()
            if self._fs.exists(path):
                return False
            try:
                self._fs.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            except Exception as error:
                self._fs.invalidate_cache()
                if self._fs.exists(path):
                    return False
                if not isinstance(error, UNKNOWN) and getattr(error, "errno", None) != errno.ENOSYS:
                    raise
                self._fs.pipe_file(path, content)
            return True

    def write(self, name: str, content: bytes) -> None:
        with self._told(name, "cannot be written"), self._whole(name) as path:
            self._fs.pipe_file(path, content)

    def put(self, file: Path, name: str) -> str:
        """Upload a file; its stamp there."""
        with self._told(name, "cannot be written"):
            with self._whole(name) as path:
                self._fs.put_file(str(file), path)
            self._fs.invalidate_cache()
            return stamp(self._fs.info(self._path(name)))

    def fetch(self, name: str, file: Path) -> None:
        """Download a file, which appears whole or not at all."""
        with self._told(name, "cannot be read"):
            fetched(self._fs, self._path(name), file)

    def remove(self, name: str) -> None:
        path = self._path(name)
        with self._told(name, "cannot be removed"):
            try:
                self._fs.rm_file(path)
            except Exception as error:
                # Each store says in its own way that there is none. `exists` says so also of what cannot be reached.
                self._fs.invalidate_cache()
                with suppress(FileNotFoundError):
                    self._fs.info(path)
                    raise error

    def _at(self, name: str) -> str:
        return f"{self.url}/{name}".rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _folder_of(self, path: str) -> None:
        # An object store has no folders, and would make a bucket of a misspelt name.
        if self.kind not in WHOLE:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _whole(self, name: str) -> Iterator[str]:
        path = self._path(name)
        if self.kind in WHOLE:
            yield path
            return
        self._folder_of(path)
        yield f"{path}.part"
        self._fs.mv(f"{path}.part", path)


def opened(url: str, **options: Any) -> tuple[Any, str]:
    """(filesystem, path in it). Raises RemoteError, also where the filesystem's package is missing."""
    import fsspec
    from fsspec.registry import known_implementations

    kind = urlsplit(url).scheme
    if kind in LOGIN and urlsplit(url).password:
        fix = f"set it as fsspec takes it from the environment, e.g. FSSPEC_{kind.upper()}_PASSWORD"
        raise RemoteError(
            f"{kind}://…: a password in an address shows in logs and in lists of processes; {fix}"
        )
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError:
        known = known_implementations.get(kind, {})
        package = known.get("class", kind).split(".")[0]
        if package == "fsspec":
            package = " ".join(re.findall(r'"(\w+)"', known.get("err", "")))
        fix = f"pip install {package}" if package else known.get("err", "")
        raise RemoteError(f"{url}: {kind}:// needs a package that is not installed; {fix}") from None
    except Exception as error:
        fix = "is the address right? https://filesystem-spec.readthedocs.io lists the kinds that there are"
        passing = not isinstance(error, NEVER_PASSING)
        raise RemoteError(
            f"{url}: cannot be opened ({_first_line(error)}); {fix}", passing=passing
        ) from error
    return fs, path


def stamp(info: Mapping[str, Any]) -> str:
    """What tells a file's content from what was there before: a hash where the store has one, else size and time."""
    for name in VERSIONS:
        if info.get(name):
            return str(info[name])
    time = next((info[name] for name in TIMES if info.get(name)), "")
    # Some say it in one way when they list, and in another when they are asked for a file.
    return f"{info.get('size')} {time.timestamp() if isinstance(time, datetime) else time}"


def fetched(fs: Any, path: str, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        fs.get_file(path, str(part))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def told(url: str, what: str) -> Iterator[None]:
    """Whatever goes wrong in the block, as a RemoteError."""
    try:
        yield
    except RemoteError:
        raise
    except FileNotFoundError as error:
        fix = "there is no such bucket, container or folder: make it first, or mend the name"
        raise RemoteError(f"{url}: {what}; {fix}") from error
    except NotImplementedError as error:
        raise RemoteError(
            f"{url}: {what}; {urlsplit(url).scheme}:// can only be read, name another"
        ) from error
    except Exception as error:
        # Whose packages raise what else for want of a key is known by name only: they need not be installed.
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            fix = f"set credentials that may, as {urlsplit(url).scheme}:// takes them{_for_example(url)}"
            raise RemoteError(f"{url}: {what} ({_first_line(error)}); {fix}") from error
        if getattr(error, "errno", None) in FULL:
            fix = f"make room there, or in {cache_folder()}, and run the same command again"
            raise RemoteError(f"{url}: {what} ({_first_line(error)}); {fix}") from error
        # Of what is neither refused nor wrong in itself, the network may be the cause.
        passing = not isinstance(error, NEVER_PASSING) and getattr(error, "errno", None) != errno.EINVAL
        fix = "check the address and the network"
        raise RemoteError(f"{url}: {what} ({_first_line(error)}); {fix}", passing=passing) from error


def _for_example(url: str) -> str:
    names = {
        "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "gs": "GOOGLE_APPLICATION_CREDENTIALS",
        "hf": "HF_TOKEN",
    }
    found = names.get(urlsplit(url).scheme)
    return f" ({found})" if found else ""


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# ---- files of a source


def cache_folder() -> Path:
    """Where what comes from elsewhere is kept on this machine: SYNTHPREF_WORK, or the user's cache folder."""
    if named := os.environ.get("SYNTHPREF_WORK"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synthpref"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def copies(url: str) -> list[tuple[str, Path]]:
    """(address, copy on this machine) of the file at `url`, or of all that a pattern names, sorted; none where nothing
    is there. What has not changed since it was copied is not copied again."""
    fs, path = opened(url)
    with told(url, "cannot be read"):
        fs.invalidate_cache()
        found = _of_name(fs, path)
        if not found and any(sign in path for sign in "*?["):
            found = {
                name: info for name, info in fs.glob(path, detail=True).items() if info["type"] == "file"
            }
        if any(info["type"] == "directory" for info in found.values()):
            raise RemoteError(f"{url} is a folder; name the files in it: {url.rstrip('/')}/*.jsonl")
        return [
            (str(fs.unstrip_protocol(name)), _copy(fs, name, info)) for name, info in sorted(found.items())
        ]


def _of_name(fs: Any, path: str) -> dict[str, Any]:
    """What there is of just this name."""
    try:
        return {path: fs.info(path)}
    except FileNotFoundError as error:
        # http says so of whatever fails.
        if (
            "http" in fs.protocol
            and error.__cause__
            and getattr(error.__cause__, "status", 0) not in (404, 410)
        ):
            raise error.__cause__ from None
        return {}


def _copy(fs: Any, path: str, info: Mapping[str, Any]) -> Path:
    home = cache_folder() / "sources" / digest(str(fs.unstrip_protocol(path)))
    file = home / digest(stamp(info)) / PurePosixPath(path).name
    # Where the store tells neither a version nor a time, nobody knows whether the copy is still the same.
    if not file.exists() or not any(info.get(name) for name in (*VERSIONS, *TIMES)):
        fetched(fs, path, file)
        for other in home.iterdir():
            if other != file.parent:
                shutil.rmtree(other, ignore_errors=True)
    return file
