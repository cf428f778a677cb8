"""Uploading a dataset to the Hugging Face Hub."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from tenacity import (
    Retrying,
    before_sleep_log,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from synthpref.core.errors import ExportError

_PASSING = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
"""What may pass: a busy Hub, and 412, when another commit came in between."""
_ATTEMPTS = 6

log = logging.getLogger("synthpref")


def push(folder: Path, repo: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload README.md and data/ of `folder` as the dataset `repo` ("org/name"), made if it is not there; its
    address. Data files that an earlier upload left there are removed. Without `token`, HF_TOKEN or the token
    of `hf auth login` is used.

    Raises ExportError, which says what to do.
    """
    if not any(folder.glob("data/train.*")) or not (folder / "README.md").is_file():
        raise ExportError(f"{folder}: holds no dataset (README.md and data/train.*); export one first")
    if not _holds_records(folder):
        raise ExportError(
            f"{folder}: the dataset holds no records; `synthpref report` says where the rows went"
        )
    import huggingface_hub

    token = token or huggingface_hub.get_token()
    if not token:
        raise ExportError("no token for the Hub; set HF_TOKEN to one that may write, or run `hf auth login`")
    hub = huggingface_hub.HfApi(token=token)
    try:
        made: Any = _patiently(hub.create_repo, repo, repo_type="dataset", private=private, exist_ok=True)
        if private and not _patiently(hub.repo_info, made.repo_id, repo_type="dataset").private:
            fix = "make it private in its settings, or name another"
            raise ExportError(f"{made}: exists and is public, so nothing was uploaded; {fix}")
        _patiently(
            hub.upload_folder,
            repo_id=made.repo_id,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=["README.md", "data/train.*"],
            delete_patterns=["data/train.*"],
            commit_message="Upload with synthpref",
        )
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{repo} was not uploaded: {_explained(error, repo)}") from error
    return str(made)


def _holds_records(folder: Path) -> bool:
    import pyarrow.parquet as pq

    return any(
        pq.read_metadata(path).num_rows > 0 if path.suffix == ".parquet" else path.stat().st_size > 0
        for path in folder.glob("data/train.*")
    )


def _patiently(call: Any, *args: Any, **kwargs: Any) -> Any:
    retrying = Retrying(
        retry=retry_if_exception(lambda error: _status(error) in _PASSING),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.5, max=30),
        before_sleep=before_sleep_log(log, logging.INFO),
        reraise=True,
    )
    return retrying(call, *args, **kwargs)


def _status(error: BaseException) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def _explained(error: Exception, repo: str) -> str:
    status = _status(error)
    if status == 401:
        return "the Hub does not know the token; set HF_TOKEN to a valid one, or run `hf auth login`"
    if status == 403:
        return f"the token may not write there; use one with write access to {repo.split('/')[0]!r}"
    if status in _PASSING:
        return f"the Hub answered {status} {_ATTEMPTS} times; nothing was changed, try again later"
    kind = type(error).__name__
    told = str(error).strip().split("\n")[0]
    fix = "check the name" if isinstance(error, ValueError) else "check the network and HF_ENDPOINT"
    return f"{kind}: {told}; {fix}" if status is None else f"{kind} ({status}): {told}"
