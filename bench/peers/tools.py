"""What is compared: for each tool its command, the requests it needs for a prompt, and how it was set."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent.parent / ".venv-peers"


@dataclass(frozen=True)
class Job:
    """One run to make: where the endpoint is, what is asked, and the folder that is the run's own."""

    url: str
    slots: int
    prompts: Path
    folder: Path


@dataclass(frozen=True)
class Tool:
    name: str
    command: Callable[[Job], list[str]]
    records: Callable[[Path], int] | None
    """How many records lie in a run's folder; None where no dataset is made."""
    requests: int
    """How many a prompt needs."""
    distribution: str | None
    """The package whose version is told."""
    settings: str
    """How it was set, for the page."""
    python: Path = Path(sys.executable)

    def version(self) -> str:
        if self.distribution is None:
            return ""
        asked = f"import importlib.metadata as m; print(m.version({self.distribution!r}))"
        return subprocess.run(
            [self.python, "-c", asked], capture_output=True, text=True, check=True
        ).stdout.strip()


def _bare(job: Job) -> list[str]:
    return [sys.executable, str(HERE / "bare.py"), *_flags(job)[:-2]]


def _flags(job: Job) -> list[str]:
    flags = {"url": job.url, "prompts": job.prompts, "slots": job.slots, "folder": job.folder}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def _synthpref(job: Job) -> list[str]:
    settings = {
        "models.m.base_url": job.url,
        "models.m.concurrency": job.slots,
        "source.path": job.prompts,
    }
    words = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    recipe, run = HERE / "synthpref" / "recipe.yaml", job.folder / "run"
    return [str(Path(sys.executable).with_name("synthpref")), "run", str(recipe), "--out", str(run), *words]


def _exported(folder: Path) -> int:
    files = (folder / "run" / "dataset" / "data").glob("*.parquet")
    return sum(int(pq.read_metadata(file).num_rows) for file in files)


def _lines(folder: Path) -> int:
    pairs = folder / "pairs.jsonl"
    return len(pairs.read_text(encoding="utf-8").splitlines()) if pairs.exists() else 0


def _peer(name: str, distribution: str, requests: int, settings: str) -> Tool:
    python = ENVIRONMENTS / name / "bin" / "python"

    def command(job: Job) -> list[str]:
        return [str(python), str(HERE / name / "job.py"), *_flags(job)]

    return Tool(name, command, _lines, requests, distribution, settings, python)


BARE = Tool("bare loop", _bare, None, 2, None, "aiohttp and a semaphore as wide as the endpoint")
SYNTHPREF = Tool(
    "synthpref",
    _synthpref,
    _exported,
    2,
    "synthpref",
    "`concurrency` as wide as the endpoint; the rest as it comes",
)
PEERS = (
    _peer(
        "distilabel",
        "distilabel",
        2,
        "`input_batch_size` as wide as the endpoint and at least 200, since a step asks for one batch at a time; cache on, as it comes; log level WARNING, "
        "because with the `openai` of today every request is logged otherwise",
    ),
    _peer(
        "curator",
        "bespokelabs-curator",
        2,
        "`max_concurrent_requests` as wide as the endpoint, limits of requests and tokens a minute out of the way; "
        "cache on, as it comes",
    ),
    _peer(
        "datadesigner",
        "data-designer",
        5,
        "`max_parallel_requests` as wide as the endpoint, no check of the model before the run, no port for metrics; a "
        "column holds one answer, so four samples are four columns and four requests",
    ),
)


def environment(folder: Path) -> dict[str, str]:
    """Telemetry off, everything kept in `folder`, nothing fetched.

    curator and Data Designer count tokens with a vocabulary that tiktoken fetches from the web; litellm, which
    curator brings, has that file inside, and TIKTOKEN_CACHE_DIR is tiktoken's own way of being told.
    """
    vocabulary = next(
        ENVIRONMENTS.glob("curator/lib/*/site-packages/litellm/litellm_core_utils/tokenizers"), None
    )
    return {
        **os.environ,
        **({"TIKTOKEN_CACHE_DIR": str(vocabulary)} if vocabulary else {}),
        "HOME": str(folder),
        "DISTILABEL_LOG_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NEMO_TELEMETRY_ENABLED": "false",
        "TELEMETRY_ENABLED": "false",
    }


def install(tool: Tool) -> None:
    """Make the tool's own environment from its pinned requirements, if it is not there."""
    home = tool.python.parent.parent
    done = home / "installed"
    wanted = (HERE / tool.name / "requirements.txt").read_text(encoding="utf-8")
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return
    print(f"installing {tool.name} into {home}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    pip = [tool.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "-r", HERE / tool.name / "requirements.txt"], check=True)
    done.write_text(wanted, encoding="utf-8")
