"""What the journal cannot hold never enters it: the plugin that made it is named, and the next start asks nothing again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import forked
from synthpref.core.errors import StageError
from synthpref.core.stage import RowStage
from synthpref.testing import row, run_stage
from wire import Server, serving

PLUGIN = """
import datetime, math
from dataclasses import replace
from synthpref import Barrier, Comparison, Pair, RowStage, Sample, Score


class Odd(RowStage):
    '''Puts something on the row.'''
    what: str
    async def run(self, row, ask):
        (got,) = await ask(row.prompt, model="policy")
        good = Sample(got.text, scores={"s": Score(1.0)})
        if self.what == "number": return replace(row, samples=(replace(good, scores={"polite": 1}),))
        if self.what == "content": return replace(row, prompt=({"role": "user", "content": ["a"]},))
        if self.what == "finish": return replace(row, samples=(replace(good, finish_reason={"type": "stop"}),))
        if self.what == "text": return replace(row, samples=(replace(good, text=3),))
        if self.what == "set": return replace(row, meta={"tags": {1, 2}})
        if self.what == "key": return replace(row, meta={1: "a"})
        if self.what == "surrogate": return replace(row, meta={"t": "\\ud83d"})
        if self.what == "big": return replace(row, meta={"n": 2**70})
        if self.what == "pair": return replace(row, samples=(good,), pairs=(Pair(0, 7, "mine"),))
        if self.what == "score": return replace(row, samples=(good,), pairs=(Pair(0, "1", "mine"),))
        if self.what == "ask": await ask([{"role": "user", "content": [{"type": "text", "text": "a"}]}], model="policy")
        if self.what == "plain": return replace(row, samples=(good,), meta={"t": (1, 2), "d": datetime.date(2026, 1, 2), "n": math.nan})
        return row


class See(RowStage):
    '''Notes what it sees.'''
    async def run(self, row, ask):
        return replace(row, meta={**row.meta, "seen": repr(row.meta)})


class Wall(Barrier):
    '''Puts something on every row.'''
    def run(self, rows, rng):
        for row in rows:
            yield replace(row, samples=(Sample("a", scores={"polite": 1}),))


STAGES = {"my.odd": Odd, "my.see": See, "my.wall": Wall}
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def run(folder: Path, server: Server, *stages: Any) -> tuple[int, str]:
    (folder / "plugin.py").write_text(PLUGIN, encoding="utf-8")
    tree = {
        "name": "kept",
        "plugins": ["plugin.py"],
        "models": {"policy": {"backend": "openai", "model": "policy", "base_url": server.url}},
        "source": {"rows": [f"Question {i}?" for i in range(3)]},
        "stages": list(stages),
        "limits": {"max_reject_rate": 1.0},
        "export": {"format": "trl-prompt-only"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    done = forked.run("run", "recipe.yaml", "--out", "out", cwd=folder)
    return done.returncode, done.stdout + done.stderr


ODD = {
    "number": "samples.0.scores.polite is 1, where a Score",
    "content": "prompt.0.content",
    "finish": "samples.0.finish_reason is {",
    "text": "samples.0.text is 3",
    "set": "JSON cannot hold",
    "key": "JSON cannot hold",
    "surrogate": "JSON cannot hold",
    "big": "JSON cannot hold",
    "pair": "pairs.0.rejected is 7, and the row has 1 samples",
    "ask": "message 0 is ",
}


@pytest.mark.parametrize("what", ODD)
def test_a_value_that_no_journal_can_hold_is_the_stages_error(
    tmp_path: Path, server: Server, what: str
) -> None:
    for _ in range(2):
        _, out = run(tmp_path, server, {"my.odd": {"what": what}})
        assert "damaged" not in out
        left = [json.loads(line) for line in (tmp_path / "out/left.jsonl").read_text("utf-8").splitlines()]
        assert [one["how"] for one in left] == ["reject"] * 3
        assert {(one["stage"], one["reason"]) for one in left} == {("my.odd", "stage_error")}
        assert all(ODD[what] in one["detail"] for one in left), left[0]["detail"]
        assert server.requests == 3, "what was answered is not asked again"


def test_what_json_says_in_its_own_way_is_seen_so_by_later_stages_and_later_starts(
    tmp_path: Path, server: Server
) -> None:
    code, out = run(tmp_path, server, {"my.odd": {"what": "plain"}}, "my.see")
    assert code == 0, out
    first = pq.read_table(tmp_path / "out/rows.parquet").to_pylist()
    assert json.loads(first[0]["meta"])["seen"] == "{'d': '2026-01-02', 'n': None, 't': [1, 2]}"
    code, out = run(tmp_path, server, {"my.odd": {"what": "plain"}}, "my.see", "my.see")
    assert code == 0, out
    assert server.requests == 3


def test_a_barrier_is_named_too(tmp_path: Path, server: Server) -> None:
    for _ in range(2):
        code, out = run(tmp_path, server, {"my.odd": {"what": "plain"}}, "my.wall")
        assert code == 1, out
        assert "my.wall: samples.0.scores.polite is 1, where a Score" in out
        assert "damaged" not in out
    assert server.requests == 3


def test_the_author_of_a_plugin_sees_it_in_a_test() -> None:
    class Odd(RowStage):
        async def run(self, row: Any, ask: Any) -> Any:
            from dataclasses import replace

            return replace(row, samples=tuple(replace(s, scores={"polite": 1}) for s in row.samples))

    with pytest.raises(StageError, match="polite is 1, where a Score"):
        run_stage(Odd(), [row("?", "a")])
