"""No key, token or password is in anything that a run leaves or says, in whatever form: as it is, as a URL or
base64 writes it, in a column of the journal or inside what lies compressed there."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import yaml
from aiohttp import web

import forked
from synthpref.engine.pages import records
from wire import Server, serving, status

KEY, TOKEN, PASSWORD = "sk-test-key-0123456789", "planted-token-9876543210", "pass$word/77+x"
SECRETS = (KEY, TOKEN, PASSWORD)


def forms(secret: str) -> set[bytes]:
    """The secret as it is, and as others write it."""
    login = base64.b64encode(f"somebody:{secret}".encode()).decode()
    written = {secret, quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1], login}
    return {text.encode() for text in written}


def opened(path: Path) -> Iterator[bytes]:
    """All that is in a file: its bytes, and what its format hides from a search of them."""
    yield path.read_bytes()
    if path.suffix == ".parquet":
        yield repr(pq.read_table(path).to_pylist()).encode()
    if "journal.sqlite" in path.name and not path.name.endswith(("-wal", "-shm")):
        found = 0
        for record in records(path):
            for value in record:
                if isinstance(value, str):
                    yield value.encode()
                if isinstance(value, bytes):
                    yield value
                    with contextlib.suppress(zlib.error):
                        yield zlib.decompress(value[4:])
                        found += 1
        assert found, "the journal holds compressed texts, and they are looked into"


def leaks(folder: Path, *said: str) -> list[tuple[str, str]]:
    """(secret, where it is)."""
    files = [path for path in (folder / "runs").rglob("*") if path.is_file()]
    assert {"journal.sqlite", "recipe.yaml", "run.log"} <= {path.name for path in files}
    parts = [(str(path.relative_to(folder)), part) for path in files for part in opened(path)]
    parts += [("output", text.encode()) for text in said]
    return [
        (secret, where)
        for secret in SECRETS
        for where, part in parts
        if any(form in part for form in forms(secret))
    ]


def synthpref(folder: Path, *args: str) -> tuple[int, str]:
    env = {**os.environ, "TEST_KEY": KEY, "TEAM": TOKEN, "LOGIN": quote(PASSWORD, safe="")}
    done = forked.run(*args, cwd=folder, env=env)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def recipe(folder: Path, server: Server, **role: Any) -> None:
    url = server.url.replace("http://", "http://somebody:${LOGIN}@")
    shared = {
        "backend": "openai",
        "base_url": url,
        "headers": {"x-team-token": "${TEAM}"},
        "retries": 3,
        **role,
    }
    shared = {name: value for name, value in shared.items() if value is not None}
    tree = {
        "name": "s",
        "description": "A run with secrets.",
        "models": {"policy": {**shared, "model": "policy"}, "judge": {**shared, "model": "judge"}},
        "source": {"rows": [f"Question number {i} about heat pumps?" for i in range(12)]},
        "stages": [
            {"sample.n": {"model": "policy", "n": 2}},
            {"judge.point": {"model": "judge", "name": "good"}},
            {"pair.extremes": {"score": "good"}},
        ],
        "limits": {"max_reject_rate": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


def echo(request: web.Request) -> str:
    """What a careless server says of a request: all its headers, and the secrets that it was sent in every form."""
    sent = str(dict(request.headers)).encode()
    carried = [secret for secret in SECRETS if any(form in sent for form in forms(secret))]
    assert carried
    written = [form.decode() for secret in carried for form in sorted(forms(secret))]
    return f"bad request {dict(request.headers)} {' '.join(written)}"[:4000]


FAULTS: dict[str, Callable[[web.Request], web.StreamResponse]] = {
    "400": lambda request: status(400, echo(request)),
    "500": lambda request: status(500, echo(request)),
    "429": lambda request: status(429, echo(request), Retry_After="0.01"),
    "plain text": lambda request: web.Response(status=502, text=echo(request)),
    "not json": lambda request: web.Response(text=echo(request)),
    "error in a 200": lambda request: web.json_response({"error": {"message": echo(request), "code": 400}}),
    "another shape": lambda request: web.json_response({"echo": echo(request)}),
    "in short": lambda request: status(400, request.headers.get("Authorization", "") + TOKEN),
    "a login in short": lambda request: status(400, f"{quote(PASSWORD, safe='')} {PASSWORD}"),
}


@pytest.mark.parametrize("key", ["${TEST_KEY}", None], ids=["with a key", "with a login"])
def test_what_a_server_says_back_in_its_errors_is_kept_nowhere(
    tmp_path: Path, server: Server, key: str | None
) -> None:
    kinds = list(FAULTS.values())
    server.fault = lambda request, number: kinds[number % 14](request) if number % 14 < len(kinds) else None
    recipe(tmp_path, server, api_key=key)
    code, out = synthpref(tmp_path, "run", "recipe.yaml")
    assert code == 0, out
    sent = server.headers[-1]
    assert sent["x-team-token"] == TOKEN
    assert sent["Authorization"].startswith("Bearer" if key else "Basic")
    left = (tmp_path / "runs/s/left.jsonl").read_text(encoding="utf-8")
    assert "[secret]" in left
    row = json.loads(left.splitlines()[0])["id"]
    looked = [
        synthpref(tmp_path, *args)[1]
        for args in (
            ("status", "runs/s"),
            ("show", "runs/s", row, "--calls"),
            ("report", "runs/s"),
            ("check", "recipe.yaml"),
        )
    ]
    assert all(looked)
    assert leaks(tmp_path, out, *looked) == []


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_ends_a_run_says_no_secret(tmp_path: Path, server: Server, code: int) -> None:
    server.fault = lambda request, number: status(code, echo(request)) if number > 6 else None
    recipe(tmp_path, server, api_key="${TEST_KEY}")
    exit_code, out = synthpref(tmp_path, "run", "recipe.yaml")
    assert exit_code in (1, 3), out
    assert leaks(tmp_path, out) == []


def test_a_key_that_stands_in_the_recipe_itself_is_not_in_the_one_that_is_saved(
    tmp_path: Path, server: Server
) -> None:
    recipe(tmp_path, server, api_key=KEY, headers={"x-team-token": TOKEN, "Authorization": f"Basic {TOKEN}"})
    code, out = synthpref(tmp_path, "run", "recipe.yaml")
    assert code == 0, out
    assert leaks(tmp_path, out) == []
    for setting in (f"models.policy.api_key=[{KEY}]", f"models.policy.base_url=ftp://a:{KEY}@h/v1"):
        code, out = synthpref(tmp_path, "run", "recipe.yaml", "--set", setting)
        assert code == 2
        assert KEY not in out


def test_a_plugin_that_raises_with_the_key_in_its_message(tmp_path: Path, server: Server) -> None:
    recipe(tmp_path, server, api_key="${TEST_KEY}")
    plugin = (
        "import os\nfrom synthpref import RowStage\n\n\nclass Leaky(RowStage):\n"
        "    async def run(self, row, ask):\n"
        "        raise ValueError(f\"cannot log in with {os.environ['TEST_KEY']} {os.environ['TEAM']}\")\n\n\n"
        "STAGES = {'leaky': Leaky}\n"
    )
    (tmp_path / "mine.py").write_text(plugin, encoding="utf-8")
    tree = yaml.safe_load((tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    tree |= {"plugins": ["mine.py"], "stages": [*tree["stages"], "leaky"]}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    code, out = synthpref(tmp_path, "run", "recipe.yaml")
    assert code == 1, out
    assert "cannot log in with [secret]" in (tmp_path / "runs/s/run.log").read_text(encoding="utf-8")
    assert leaks(tmp_path, out) == []


def test_a_model_that_says_the_key_in_its_answer(tmp_path: Path, server: Server) -> None:
    """A dataset goes out to the world, so what a key is known to be is taken out of an answer before it is kept."""

    def fault(request: web.Request, number: int) -> web.StreamResponse | None:
        text = (
            f"The sum is 7 and the key is {KEY}; I was told {TOKEN} too; a header's word, engineering, stays. "
            * (1 + number % 3)
        )
        if json.loads(request._read_bytes or b"{}").get("model") != "policy":
            return None
        choices = [
            {
                "index": i,
                "message": {
                    "role": "assistant",
                    "content": text + str(i),
                    "reasoning_content": f"it is {KEY}",
                },
                "finish_reason": "stop",
            }
            for i in range(2)
        ]
        return web.json_response({"model": f"m-{KEY}", "choices": choices})

    server.fault = fault
    headers = {"x-team-token": "${TEAM}", "x-department": "engineering"}
    recipe(tmp_path, server, api_key="${TEST_KEY}", headers=headers)
    code, out = synthpref(tmp_path, "run", "recipe.yaml")
    assert code == 0, out
    rows = pq.read_table(tmp_path / "runs/s/rows.parquet").to_pylist()
    assert "The sum is 7 and the key is [secret]" in repr(rows)
    assert "a header's word, engineering, stays" in repr(rows).replace("\\", "")
    assert leaks(tmp_path, out) == []


def test_a_key_that_is_cut_off_with_the_message_leaves_no_beginning(tmp_path: Path, server: Server) -> None:
    server.fault = lambda request, number: (
        status(400, "x" * (285 - number % 10) + KEY) if number % 3 == 0 else None
    )
    recipe(tmp_path, server, api_key="${TEST_KEY}")
    code, out = synthpref(tmp_path, "run", "recipe.yaml")
    assert code == 0, out
    left = (tmp_path / "runs/s/left.jsonl").read_text(encoding="utf-8")
    assert "xxxx" in left
    assert KEY[:6] not in left + out + (tmp_path / "runs/s/run.log").read_text(encoding="utf-8")
