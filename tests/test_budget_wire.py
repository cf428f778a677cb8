"""Whole runs under a cap, over a wire: what the endpoint was paid, whatever it counts."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

import forked
from field import case_file
from synthpref import job
from wire import Server, running

N = 64
WORDS = 12
"""Of an answer without a bound, on average."""
QUESTION = "What is best with bread and butter, and what else is there, in case of"
DISHES = ("eggs", "ham", "rye")
PRICE = {"input": 10.0, "output": 100.0}


@dataclass
class Counting(Server):
    """Counts what it would bill: a token is a word of an answer, and 4.6 characters of a prompt. `counts` says what it
    tells of that."""

    counts: str = "all"
    latency_s: float = 0.005
    prompt: int = 0
    completion: int = 0
    first: float = 0.0
    """US dollars of the first call of each model."""
    largest: float = 0.0
    by_model: dict[str, float] | None = None

    async def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        n, limit = body.get("n", 1), body.get("max_tokens")
        prompt = round(sum(len(message["content"]) for message in body["messages"]) / 4.6)
        seed = body.get("seed") or 0
        lengths = [limit or WORDS // 2 + (seed + i) * 7919 % WORDS for i in range(n)]
        grade = body.get("response_format")
        texts = [
            json.dumps({"score": (seed + i) % 10 + 1})
            if grade
            else " ".join(DISHES[(seed + i + j) % 3] for j in range(length))
            for i, length in enumerate(lengths)
        ]
        if grade:
            lengths = [limit or 6] * n
        self.prompt += prompt
        self.completion += sum(lengths)
        cost = (prompt * PRICE["input"] + sum(lengths) * PRICE["output"]) / 1e6
        self.by_model = self.by_model or {}
        if body["model"] not in self.by_model:
            self.first += cost
        self.by_model[body["model"]] = self.by_model.get(body["model"], 0.0) + cost
        self.largest = max(self.largest, cost)
        usage = {"prompt_tokens": prompt, "completion_tokens": sum(lengths)}
        told = {
            "all": usage,
            "none": None,
            "zero": {"prompt_tokens": 0, "completion_tokens": 0},
            "negative": {"prompt_tokens": -5, "completion_tokens": -600},
            "one of n": usage | {"completion_tokens": lengths[0]},
        }[self.counts]
        choices = [
            {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            for i, text in enumerate(texts)
        ]
        return {"model": body["model"], "choices": choices} | ({"usage": told} if told else {})

    @property
    def paid(self) -> float:
        return (self.prompt * PRICE["input"] + self.completion * PRICE["output"]) / 1e6


@pytest.fixture
def server() -> Iterator[Counting]:
    with running(Counting()) as server:
        yield server


def recipe(
    folder: Path, server: Server, limits: dict[str, Any], rows: int = 600, judge: bool = True, **role: Any
) -> Path:
    shared = {"backend": "openai", "base_url": server.url, "price": PRICE, "concurrency": 256, **role}
    score = {"judge.point": {"model": "judge"}} if judge else {"verify": {"kind": "exact"}}
    for fields in score.values():
        fields["name"] = "s"
    tree = {
        "name": "capped",
        "seed": 1,
        "models": {
            name: {**shared, "model": name} for name in (["policy", "judge"] if judge else ["policy"])
        },
        "source": {
            "rows": [{"prompt": f"{QUESTION} {i}?", "answer": "ham"} for i in range(rows)],
            "reference": "answer",
        },
        "stages": [
            {"sample.n": {"model": "policy", "n": N}},
            score,
            {"pair.extremes": {"score": "s"}},
        ],
        "limits": limits,
        "allow": ["one_judge", "same_family"],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


def spent(folder: Path) -> float:
    models = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["models"]
    return sum(model["cost_usd"] for model in models.values())


@pytest.mark.parametrize("judge", [False, True], ids=["one role", "two roles"])
def test_a_cap_is_not_passed_where_the_most_of_an_answer_is_known(
    tmp_path: Path, server: Counting, judge: bool
) -> None:
    path = recipe(tmp_path, server, {"max_cost_usd": 1.0}, judge=judge, max_tokens=32)
    result = job.run(job.load(path), tmp_path / "out")
    assert "the budget of $1.00 (limits.max_cost_usd) is spent" in result.stopped
    assert not result.failed
    assert 1.0 - 2 * server.largest < server.paid <= 1.0
    assert spent(tmp_path / "out") == pytest.approx(server.paid)


def test_a_cap_on_tokens_holds_likewise(tmp_path: Path, server: Counting) -> None:
    path = recipe(tmp_path, server, {"max_tokens": 20_000}, judge=False, max_tokens=32)
    result = job.run(job.load(path), tmp_path / "out")
    assert "(limits.max_tokens) is spent" in result.stopped
    assert 20_000 - 2 * 33 * N < server.prompt + server.completion <= 20_000


@pytest.mark.parametrize("counts", ["all", "none", "zero", "negative", "one of n"])
@pytest.mark.parametrize("judge", [False, True], ids=["one role", "two roles"])
def test_a_cap_is_passed_by_a_quarter_at_most_where_it_is_not(
    tmp_path: Path, server: Counting, counts: str, judge: bool
) -> None:
    server.counts = counts
    path = recipe(tmp_path, server, {"max_cost_usd": 1.0}, judge=judge)
    result = job.run(job.load(path), tmp_path / "out")
    assert "is spent" in result.stopped
    assert 0.5 < server.paid <= 1.25 + server.first
    assert spent(tmp_path / "out") == pytest.approx(
        server.paid, rel=0.3 if judge or counts != "all" else 1e-6
    )


def test_a_run_that_is_killed_counts_on(tmp_path: Path, server: Counting) -> None:
    """Estimates, too: they are in the journal."""
    server.counts = "none"
    path = recipe(tmp_path, server, {"max_cost_usd": 1.0}, judge=False, max_tokens=32)
    for paid in (0.3, 0.6):
        with (tmp_path / "said").open("a", encoding="utf-8") as said:
            process = forked.start("run", path.name, "--out", "out", cwd=tmp_path, out=said)
        while process.poll() is None and server.paid < paid:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    result = job.run(job.load(path), tmp_path / "out")
    assert "is spent" in result.stopped
    # What was in flight at a kill was paid, and nobody knows.
    assert server.paid <= 1.0 + 2 * 0.35
    assert 0.7 < spent(tmp_path / "out") <= 1.0
    asked = server.requests
    again = job.run(job.load(path), tmp_path / "out")
    assert "is spent" in again.stopped
    assert server.requests == asked


def test_a_run_that_has_asked_all_ends_well_though_nothing_is_left(tmp_path: Path, server: Counting) -> None:
    path = recipe(tmp_path, server, {"max_cost_usd": 9.0}, rows=10, judge=False, max_tokens=32)
    assert not job.run(job.load(path), tmp_path / "out").stopped
    low = job.load(path, ["limits.max_cost_usd=0.001"])
    assert not job.run(low, tmp_path / "out").stopped
    assert server.requests == 10


def test_a_cap_below_one_call_asks_nothing_and_says_why(tmp_path: Path, server: Counting) -> None:
    path = recipe(tmp_path, server, {"max_cost_usd": 0.1}, judge=False, max_tokens=3200)
    done = forked.run("run", path.name, "--out", "out", cwd=tmp_path)
    told = " ".join(done.stderr.split())
    assert done.returncode == 3, told
    assert "the next call (models.policy in sample.n, n 64, max_tokens 3,200) may take $20.48" in told
    assert "lower n or max_tokens" in told
    assert server.requests == 0


def test_what_rests_on_estimates_or_lacks_a_price_is_called_so(tmp_path: Path, server: Counting) -> None:
    server.counts = "none"
    path = recipe(tmp_path, server, {}, rows=4, max_tokens=32)
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    del tree["models"]["judge"]["price"]
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = forked.run("run", path.name, "--out", "out", cwd=tmp_path)
    told = " ".join(done.stderr.split())
    answers = 4 * N * 2
    assert re.search(rf"about [\d,]+ tokens \(usage estimated for {answers} of {answers} answers\)", told), (
        told
    )
    assert re.search(r"at least \$0\.\d\d \(no price for: judge", told), told
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "no price for: judge; usage estimated for 512 of 512 answers" in report
    assert "at least $" in report
    # The same again, from the journal alone.
    (tmp_path / "out" / "summary.json").unlink()
    again = job.run(job.load(path), tmp_path / "out")
    assert not again.stopped
    models = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["models"]
    assert [models[role]["estimated"] for role in ("policy", "judge")] == [4 * N, 4 * N]
    assert "for at least $" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_usage_that_counts_one_of_n_is_made_up_for(tmp_path: Path, server: Counting) -> None:
    server.counts = "one of n"
    path = recipe(tmp_path, server, {}, rows=4, judge=False, max_tokens=32)
    job.run(job.load(path), tmp_path / "out")
    policy = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["models"]["policy"]
    assert policy["completion_tokens"] == pytest.approx(server.completion, rel=0.02)
    assert policy["prompt_tokens"] == server.prompt
    assert policy["estimated"] == 4 * N


@pytest.mark.parametrize("name", ["usage_none_budget", "usage_not_a_number"])
def test_recorded_endpoints_without_usage_stop_at_the_cap(tmp_path: Path, name: str) -> None:
    case = json.loads(case_file(f"wire/{name}.json").read_text(encoding="utf-8"))
    body = case["answer"]["body"]
    calls = 0

    def answer(request: web.Request, number: int) -> web.Response:
        nonlocal calls
        calls += 1
        return web.json_response(body)

    with running(Server(fault=answer)) as server:
        tree = yaml.safe_load(case["recipe"])
        for model in tree["models"].values():
            model |= {"base_url": server.url, "price": {"input": 1000, "output": 1000}}
        tree["source"] = {"rows": [f"Question {i}?" for i in range(24)]}
        tree["limits"] = {"max_cost_usd": 0.5, "max_reject_rate": 1}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
        done = forked.run("run", "recipe.yaml", "--out", "out", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "(limits.max_cost_usd) is spent" in " ".join(done.stderr.split())
    assert 0 < calls < 48


def test_answers_that_cannot_be_read_are_paid_for_too(tmp_path: Path, server: Counting) -> None:
    def half(request: web.Request, number: int) -> str | None:
        return "not json" if number % 2 else None

    server.fault = half
    path = recipe(tmp_path, server, {"max_cost_usd": 1.0}, judge=False, max_tokens=32)
    result = job.run(job.load(path), tmp_path / "out")
    assert "is spent" in result.stopped
    assert server.paid <= 1.0 + server.largest
