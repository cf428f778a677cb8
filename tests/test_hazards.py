"""Labels that lie: what must never happen between a source and a dataset, each as a whole run."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from synthpref import job
from synthpref.core.seam import Backend, Completion, Request
from synthpref.core.template import fenced
from synthpref.core.types import Usage
from synthpref.engine.registry import BUILT_IN
from synthpref.io.rows import read_rows
from synthpref.models.simulated import Simulated
from wire import Server, serving, status

Run = Callable[..., job.Result]
Stages = list[Any]


# ---- runs, and models that say what a test wants


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def start(stages: Stages, rows: Sequence[Any], models: Any = None, **more: Any) -> job.Result:
        name = more.pop("name", "hazard")
        brought = any(isinstance(row, dict) and "responses" in row for row in rows)
        scored = brought and any("s" in response for row in rows for response in row["responses"])
        samples = {"column": "responses", **({"scores": {"s": "s"}} if scored else {})}
        source = {
            "rows": list(rows),
            **({"id": "id", "samples": samples, "invalid": [-1]} if brought else {}),
        }
        tree = {"name": name, "seed": 3, "source": source, "stages": stages, "limits": {"max_reject_rate": 1}}
        tree |= {"models": models} if models else {}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**tree, **more}), encoding="utf-8")
        result = job.run(job.load(path), tmp_path / name)
        assert result.stopped == ""
        every_row_ends_once(result)
        return result

    return start


def every_row_ends_once(result: job.Result) -> None:
    books, gone, kept = result.books, left(result), rows_of(result)
    assert books.input + books.added == books.exported + books.dropped + books.rejected
    ids = [row["id"] for row in (*kept, *gone)]
    assert len(ids) == len(set(ids)) == books.input + books.added
    assert len(kept) == books.exported
    assert Counter(line["how"] for line in gone) == +Counter(drop=books.dropped, reject=books.rejected)
    assert all(line["reason"] and line["stage"] for line in gone)


def rows_of(result: job.Result) -> list[dict[str, Any]]:
    return [asdict(row) for row in read_rows(result.folder / "rows.parquet")]


def dataset(result: job.Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(result.folder / "dataset/data/train.parquet").to_pylist()
    return found


def left(result: job.Result) -> list[dict[str, Any]]:
    text = (result.folder / "left.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def reasons(result: job.Result) -> dict[str, str]:
    return {line["id"]: line["reason"] for line in left(result)}


def report(result: job.Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result.folder / "report.json").read_text(encoding="utf-8"))
    return found


def labels(result: job.Result) -> list[tuple[str, str, str]]:
    return [(r["id"], r["chosen"][0]["content"], r["rejected"][0]["content"]) for r in dataset(result)]


def brought(id: str, *values: float | None) -> dict[str, Any]:
    responses = [{"text": f"{id}: number {i}, worth {v}", "s": v} for i, v in enumerate(values)]
    return {"id": id, "prompt": f"Question {id}?", "responses": responses}


def plain(id: str, *texts: str) -> dict[str, Any]:
    return {"id": id, "prompt": f"Question {id}?", "responses": [{"text": text} for text in texts]}


class Says(Simulated):
    """Behind the server, a model that a function speaks for."""

    answer: Callable[[Request], Sequence[str | Completion]]
    pace: Callable[[Request], float] = lambda request: 0.0

    def open(self, shared: dict[str, Any]) -> Backend:
        return _Says(self)


class _Says:
    def __init__(self, spec: Says) -> None:
        self.spec = spec

    async def complete(self, request: Request) -> list[Completion]:
        await asyncio.sleep(self.spec.pace(request))
        said = self.spec.answer(request)
        made = [Completion(text=s, finish_reason="stop") if isinstance(s, str) else s for s in said]
        first = made[0]
        usage = Usage(10, 10)
        return [Completion(text=first.text, finish_reason=first.finish_reason, usage=usage), *made[1:]]

    async def aclose(self) -> None: ...


def roles(server: Server, *names: str, **fields: Any) -> dict[str, Any]:
    return {
        n: {"backend": "openai", "model": n, "base_url": server.url, "retries": 0, **fields} for n in names
    }


def shown(request: Request) -> dict[str, str]:
    """What a judge is shown, by label."""
    return {label: text for m in request.messages for label, text in fenced(m["content"])}


def verdict(value: Any) -> str:
    return json.dumps({"reasoning": "Seen.", "score": value})


# ---- pair rules on scores that are brought

RULES: dict[str, dict[str, Any]] = {
    "pair.extremes": {},
    "pair.mu_sigma": {},
    "pair.min_of_k": {},
    "pair.threshold": {"min_margin": 1},
    "pair.ranked": {},
    "pair.verified": {"right": 9, "wrong": 2},
    "pair.random": {},
}
every_rule = pytest.mark.parametrize("rule", RULES)


def test_no_pair_rule_goes_untested() -> None:
    assert set(RULES) == {word for word in BUILT_IN["stages"] if word.startswith("pair.")}


@every_rule
def test_the_better_response_is_chosen_wherever_it_stands(run: Run, rule: str) -> None:
    rows = [brought("first", 9, 2, 2), brought("middle", 2, 9, 2), brought("last", 2, 2, 9)]
    made = run([{rule: {"score": "s", **RULES[rule]}}], rows)
    assert {id for id, *_ in labels(made)} == {"first", "middle", "last"}
    for id, chosen, rejected in labels(made):
        assert chosen.startswith(f"{id}: ")
        assert chosen.endswith("worth 9")
        assert rejected.startswith(f"{id}: ")
        assert rejected.endswith("worth 2")


@every_rule
def test_a_tie_makes_no_pair_and_a_missing_score_takes_only_its_sample(run: Run, rule: str) -> None:
    rows = [
        brought("tied", 5, 5, 5),
        brought("first missing", None, 9, 2),
        brought("middle missing", 9, None, 2),
        brought("last missing", 2, 9, None),
        brought("marked as none", -1, 2, 9),
        brought("all missing", None, -1, None),
        brought("whole", 2, 9, 2),
    ]
    made = run([{rule: {"score": "s", **RULES[rule]}}], rows)
    good = {"first missing", "middle missing", "last missing", "marked as none", "whole"}
    assert {id for id, *_ in labels(made)} == good
    assert all(c.endswith("worth 9") and r.endswith("worth 2") for _, c, r in labels(made))
    gone = reasons(made)
    assert gone.keys() == {"tied", "all missing"}
    assert gone["tied"] in ("all scores equal", "none right or wrong")
    assert gone["all missing"] == "no scores"
    (counted,) = report(made)["stages"]
    assert counted == {"stage": rule, "dropped": dict.fromkeys(gone.values(), 1), "rejected": {}}


# ---- verdicts that are none

JUDGES: dict[str, dict[str, Any]] = {
    "judge.point": {"model": "judge", "name": "s"},
    "judge.aspects": {"model": "judge", "name": "s", "aspects": ["truthfulness", "helpfulness"]},
    "judge.point expected": {"model": "judge", "name": "s", "extract": "expected"},
    "judge.pair": {"model": "judge", "name": "s"},
    "judge.list": {"model": "judge", "name": "s"},
    "jury": {"judges": ["judge", "other"], "name": "s"},
}


@pytest.mark.parametrize("judge", JUDGES)
def test_a_judge_that_gives_no_verdict_gives_no_number(run: Run, judge: str) -> None:
    role = {"backend": "simulated", "malformed": 1.0}
    models = {
        "judge": {**role, "model": "j"},
        **({"other": {**role, "model": "k"}} if judge == "jury" else {}),
    }
    rows = [plain(str(i), *(f"Response {i} {j}." for j in range(3))) for i in range(4)]
    made = run([{judge.split()[0]: JUDGES[judge]}, {"pair.extremes": {"score": "s"}}], rows, models)
    assert (made.records, set(reasons(made).values())) == (0, {"no scores"})
    for line in left(made):
        for sample in line["row"]["samples"]:
            assert sample["scores"]
            for score in sample["scores"].values():
                assert score["value"] is None
                assert score["why"]
                assert all(vote["value"] is None and vote["why"] for vote in score["votes"])
        for comparison in line["row"]["comparisons"]:
            assert comparison["p"] is None
            assert all(vote["value"] is None and vote["why"] for vote in comparison["votes"])
        assert len(line["row"]["comparisons"]) == (3 if judge == "judge.pair" else 0)


def test_of_a_judge_that_often_gives_no_verdict_only_the_verdicts_count(run: Run) -> None:
    models = {"judge": {"backend": "simulated", "model": "j", "malformed": 0.7, "noise": 2.0}}
    rows = [plain(f"{i:02}", *(f"Response {i} {j}." for j in range(4))) for i in range(12)]
    judge = {"model": "judge", "name": "s", "repeats": 4, "again": 0}
    made = run([{"judge.point": judge}, {"pair.extremes": {"score": "s"}}], rows, models)
    lost = counted = 0
    samples = [sample for row in rows_of(made) for sample in row["samples"]]
    samples += [sample for line in left(made) for sample in line["row"]["samples"]]
    assert len(samples) == 48
    for sample in samples:
        score = sample["scores"]["s"]
        said = [vote["value"] for vote in score["votes"] if vote["value"] is not None]
        for vote in score["votes"]:
            lost += vote["value"] is None
            counted += vote["value"] is not None
            assert vote["value"] is None or json.loads(vote["reply"])["score"] == vote["value"]
        assert score["value"] == (pytest.approx(sum(said) / len(said)) if said else None)
    assert 0.5 < lost / (lost + counted) < 0.9
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in dataset(made))


NO_SCORE: dict[str, str | Completion] = {
    "nothing": "",
    "not applicable": "N/A",
    "not applicable, named": "Score: N/A",
    "not applicable, in JSON": verdict("N/A"),
    "null": verdict(None),
    "a truth value": verdict(True),
    "a word": verdict("high"),
    "one above the scale": verdict(11),
    "one below the scale": verdict(0),
    "minus one": verdict(-1),
    "far above": verdict(100),
    "between two": verdict(7.5),
    "above, in words": "Score: 11",
    "of a hundred": "I rate it 85/100.",
    "not a number": '{"reasoning": "x", "score": NaN}',
    "endless": '{"reasoning": "x", "score": 1e999}',
    "another key": '{"reasoning": "x", "verdict": 7}',
    "a refusal": "I'm sorry, but I can't rate this.",
    "cut off": Completion(text='{"reasoning": "x", "score": 1', finish_reason="length"),
    "filtered": Completion(text="", finish_reason="content_filter"),
}


def test_a_reply_without_a_score_on_the_scale_never_becomes_a_number(run: Run) -> None:
    def judge(request: Request) -> list[str | Completion]:
        seen = shown(request)
        worth = {"good": verdict(8), "poor": verdict(3)}
        return [worth.get(seen["response"]) or NO_SCORE[seen["response"]]]

    places = (("good", "poor"), ("poor", "good"))
    rows = [plain(f"{kind} {i}", *two, kind) for kind in NO_SCORE for i, two in enumerate(places)]
    rows += [plain(f"{kind} 2", kind, "good", "poor") for kind in NO_SCORE]
    with serving(worlds={"judge": Says(answer=judge)}) as server:
        stages: Stages = [
            {"judge.point": {"model": "judge", "name": "s"}},
            {"pair.extremes": {"score": "s"}},
        ]
        made = run(stages, rows, roles(server, "judge"))
    assert made.records == len(rows)
    assert {(chosen, rejected) for _, chosen, rejected in labels(made)} == {("good", "poor")}
    for row in rows_of(made):
        for sample in row["samples"]:
            score = sample["scores"]["s"]
            if sample["text"] in NO_SCORE:
                assert score["value"] is None, sample["text"]
                assert score["why"]
            else:
                assert score["value"] == {"good": 8, "poor": 3}[sample["text"]]
    found = report(made)["scores"]["s"]
    assert sum(found["failed"].values()) == len(rows)
    assert (found["values"]["min"], found["values"]["max"]) == (3, 8)


@pytest.mark.parametrize("form", ["JSON", "JSON in prose", "words", "bare"])
def test_each_score_of_the_scale_stays_what_it_is(run: Run, form: str) -> None:
    said: dict[str, Callable[[int], str]] = {
        "JSON": verdict,
        "JSON in prose": lambda k: f"Let me see.\n```json\n{verdict(k)}\n```",
        "words": lambda k: f"A fair try, with 3 flaws.\nScore: {k}",
        "bare": str,
    }
    rows = [plain("all", *(f"about {k}" for k in (7, 1, 10, 4, 2, 9, 3, 8, 6, 5)))]
    judge = Says(answer=lambda request: [said[form](int(shown(request)["response"].split()[1]))])
    with serving(worlds={"judge": judge}) as server:
        stages: Stages = [
            {"judge.point": {"model": "judge", "name": "s"}},
            {"pair.extremes": {"score": "s"}},
        ]
        made = run(stages, rows, roles(server, "judge", structured_output=form != "words"))
    assert labels(made) == [("all", "about 10", "about 1")]
    for sample in rows_of(made)[0]["samples"]:
        assert f"about {sample['scores']['s']['value']:g}" == sample["text"]


NO_WINNER = {
    "nothing": "",
    "not applicable": "N/A",
    "a third": json.dumps({"reasoning": "x", "winner": "C"}),
    "both": json.dumps({"reasoning": "x", "winner": "A or B"}),
    "null": json.dumps({"reasoning": "x", "winner": None}),
    "a mark for a third": "[[C]]",
    "a refusal": "I cannot choose between these.",
    "only reasons": "Response A is longer. Response B is shorter.",
}


def test_a_reply_without_a_winner_is_neither_a_win_nor_a_tie(run: Run) -> None:
    judge = Says(answer=lambda request: [NO_WINNER[shown(request)["prompt"].split(" ", 1)[1].rstrip("?")]])
    rows = [plain(kind, "this", "that") for kind in NO_WINNER]
    with serving(worlds={"judge": judge}) as server:
        stages: Stages = [
            {"judge.pair": {"model": "judge", "name": "s"}},
            {"pair.extremes": {"score": "s"}},
        ]
        made = run(stages, rows, roles(server, "judge"))
    assert reasons(made) == dict.fromkeys(NO_WINNER, "no scores")
    for line in left(made):
        (comparison,) = line["row"]["comparisons"]
        assert (comparison["p"], comparison["flipped"]) == (None, False)
        assert [vote["value"] for vote in comparison["votes"]] == [None, None]


# ---- answers that are none


def answers(request: Request, what: str = "answer") -> list[str]:
    return [
        f"{what} {(request.seed or 0) + i} to {request.messages[-1]['content']}" for i in range(request.n)
    ]


def by_text(request: Request) -> list[str]:
    """A score that hangs on the response alone."""
    return [verdict(worth(shown(request)["response"]))]


def worth(text: str) -> int:
    return random.Random(text).randint(1, 10)


SAMPLED: Stages = [
    {"sample.n": {"model": "policy", "n": 4}},
    {"judge.point": {"model": "judge", "name": "s"}},
    {"pair.extremes": {"score": "s"}},
]
REFUSED = "No response (bad request)."


def test_the_text_of_a_refused_call_never_becomes_a_response(run: Run) -> None:
    faults: dict[str, Callable[[], Any]] = {
        "bad": lambda: status(400, REFUSED),
        "filtered": lambda: status(400, {"message": REFUSED, "code": "content_filter"}),
        "too long": lambda: status(400, {"message": REFUSED, "code": "context_length_exceeded"}),
        "failing": lambda: status(500, REFUSED),
        "inside": lambda: status(200, {"message": REFUSED, "code": 400}),
    }
    worlds = {"policy": Says(answer=answers), "judge": Says(answer=by_text)}
    with serving(worlds=worlds) as server:

        def fault(request: Any, number: int) -> Any:
            body = server.bodies[-1]
            text = body["messages"][-1]["content"]
            asked = f"{body['model']}: " in text
            found = next((make for name, make in faults.items() if f": {name}?" in text), None)
            return found() if asked and found else None

        server.fault = fault
        prompts = [f"{who}: {kind}?" for who in ("policy", "judge") for kind in faults]
        made = run(SAMPLED, [*prompts, "fine: one?", "fine: two?"], roles(server, "policy", "judge"))
    expected = ("bad_request", "content_filter", "context_length", "transient", "bad_request")
    lost = {line["row"]["prompt"][0]["content"]: line for line in left(made)}
    assert [lost[prompt]["reason"] for prompt in prompts] == [*expected, *expected]
    assert all(line["how"] == "reject" and REFUSED in line["detail"] for line in lost.values())
    assert {row["prompt"][0]["content"] for row in rows_of(made)} == {"fine: one?", "fine: two?"}
    everything = [*rows_of(made), *(line["row"] for line in lost.values())]
    assert not any(REFUSED in sample["text"] for row in everything for sample in row["samples"])
    assert REFUSED not in json.dumps(dataset(made))


def test_what_a_filter_took_away_is_in_no_pair(run: Run) -> None:
    def policy(request: Request) -> list[str | Completion]:
        if "all?" in request.messages[-1]["content"]:
            return [Completion(text="", finish_reason="content_filter")] * request.n
        filtered = [
            Completion(text="", finish_reason="content_filter"),
            Completion(text="the best of all, but then", finish_reason="content_filter"),
        ]
        return [*filtered, "good", "poor"]

    values = {"the best of all, but then": 10, "good": 8, "poor": 3}
    judge = Says(answer=lambda request: [verdict(values[shown(request)["response"]])])
    with serving(worlds={"policy": Says(answer=policy), "judge": judge}) as server:
        made = run(SAMPLED, ["some?", "all?"], roles(server, "policy", "judge"))
    assert [(chosen, rejected) for _, chosen, rejected in labels(made)] == [("good", "poor")]
    (row,) = rows_of(made)
    assert [sample["finish_reason"] for sample in row["samples"]] == [*["content_filter"] * 2, "stop", "stop"]
    assert list(reasons(made).values()) == ["no usable response"]


def test_how_an_answer_ended_is_kept_and_a_cut_one_is_paired_only_on_demand(run: Run) -> None:
    worlds = {"policy": Simulated(model="policy", truncate=0.5), "judge": Simulated(model="judge", noise=0.0)}
    prompts = [f"How does engine number {i} work?" for i in range(15)]
    cut: dict[str, int] = {}
    with serving(worlds=worlds) as server:
        for truncated in ("exclude", "keep"):
            stages = [*SAMPLED[:2], {"pair.extremes": {"score": "s", "truncated": truncated}}]
            made = run(stages, prompts, roles(server, "policy", "judge"), name=truncated)
            rows = rows_of(made)
            ends = Counter(sample["finish_reason"] for row in rows for sample in row["samples"])
            assert ends.keys() == {"stop", "length"}
            assert report(made)["samples"]["truncated"] == ends["length"]
            pairs = [(row, pair) for row in rows for pair in row["pairs"]]
            cut[truncated] = sum(
                row["samples"][pair[side]]["finish_reason"] == "length"
                for row, pair in pairs
                for side in ("chosen", "rejected")
            )
    assert cut["exclude"] == 0
    assert cut["keep"] > 5


# ---- juries and orders


def test_a_tied_jury_is_settled_by_the_rule_of_the_recipe_and_not_by_who_sits_first(run: Run) -> None:
    says = {"a": {"left": 9, "right": 5}, "b": {"left": 3, "right": 5}}
    won = {"lowest": "right", "highest": "left", "mean": "left", "abstain": None}

    def juror(name: str) -> Says:
        return Says(answer=lambda request: [verdict(says[name][shown(request)["response"]])])

    with serving(worlds={name: juror(name) for name in says}) as server:
        for tie, winner in won.items():
            for texts in (("left", "right"), ("right", "left")):
                for judges in (["a", "b"], ["b", "a"]):
                    jury = {"judges": judges, "reducer": "majority", "tie": tie, "name": "s"}
                    made = run(
                        [{"jury": jury}, {"pair.extremes": {"score": "s"}}],
                        [plain("row", *texts)],
                        roles(server, "a", "b"),
                        name="-".join([tie, texts[0], *judges]),
                    )
                    if winner is None:
                        (line,) = left(made)
                        assert (made.records, line["reason"]) == (0, "one usable sample")
                        tied = line["row"]["samples"][texts.index("left")]["scores"]["s"]
                        assert (tied["value"], tied["why"]) == (None, "tied votes: 3 and 9")
                    else:
                        loser = {"left": "right", "right": "left"}[winner]
                        assert labels(made) == [("row", winner, loser)]


COMPARED: Stages = [
    {"sample.n": {"model": "policy", "n": 4}},
    {"judge.pair": {"model": "judge", "name": "s"}},
    {"pair.extremes": {"score": "s"}},
]


@pytest.mark.parametrize(("bias", "low", "high"), [(0.0, 0.0, 0.0), (6.0, 0.6, 1.0)])
def test_both_orders_are_asked_by_default_and_flips_are_recorded(
    run: Run, bias: float, low: float, high: float
) -> None:
    policy = {"backend": "simulated", "model": "policy"}
    judge = {"backend": "simulated", "model": "judge", "noise": 0.0, "position_bias": bias}
    made = run(COMPARED, [f"Why {i}?" for i in range(12)], {"policy": policy, "judge": judge})
    compared = [c for row in rows_of(made) for c in row["comparisons"]]
    compared += [c for line in left(made) for c in line["row"]["comparisons"]]
    assert len(compared) == 12 * 6
    for comparison in compared:
        votes = {vote["shown"]: vote["value"] for vote in comparison["votes"]}
        assert votes.keys() == {"ab", "ba"}
        assert comparison["flipped"] == ({votes["ab"], votes["ba"]} == {0.0, 1.0})
        assert comparison["p"] == (votes["ab"] + votes["ba"]) / 2
        assert not comparison["flipped"] or comparison["p"] == 0.5
    assert low <= sum(c["flipped"] for c in compared) / len(compared) <= high
    kept = [c for row in rows_of(made) for c in row["comparisons"]]
    if kept:
        told = report(made)["comparisons"]["s"]
        assert told["flipped"] == sum(c["flipped"] for c in kept)
        assert told["both_orders"] == len(kept)


def test_a_liking_for_length_is_in_the_report(run: Run) -> None:
    share = {}
    for name, bias in (("fair", 0.0), ("biased", 20.0)):
        policy = {"backend": "simulated", "model": "policy"}
        judge = {"backend": "simulated", "model": "judge", "noise": 0.0, "length_bias": bias}
        made = run(COMPARED, [f"Why {i}?" for i in range(40)], {"policy": policy, "judge": judge}, name=name)
        found = report(made)
        share[name] = found["length"]["chosen_longer_share"]
        told = "also learns to write more" in " ".join(found["statements"])
        assert told == (name == "biased")
    assert share["fair"] < 0.7
    assert share["biased"] > 0.95


# ---- who belongs to whom


def test_everything_is_joined_by_row_and_never_by_the_order_of_arrival(run: Run) -> None:
    def slow(direction: int) -> Callable[[Request], float]:
        return lambda request: random.Random(f"{direction}{request}").random() * 0.04

    prompts = [f"Question {i % 30} of {i // 30}?" for i in random.Random(1).sample(range(60), 60)]
    prompts += prompts[:5]
    made = []
    for pace in (1, 2):
        policy = Says(answer=answers, pace=slow(pace))
        judge = Says(answer=by_text, pace=slow(pace + 2))
        with serving(worlds={"policy": policy, "judge": judge}) as server:

            def fault(request: Any, number: int, server: Server = server) -> Any:
                body = server.bodies[-1]
                refused = {"policy": "Question 7 of", "judge": "Question 11 of"}[body["model"]]
                return status(400, "no") if refused in body["messages"][-1]["content"] else None

            server.fault = fault
            stages = [*SAMPLED, "filter.dedup"]
            made.append(run(stages, prompts, roles(server, "policy", "judge"), name=f"pace-{pace}"))
    refused = sum(p.startswith(("Question 7 of", "Question 11 of")) for p in prompts)
    assert made[0].books.rejected == refused >= 4
    rows = rows_of(made[0])
    assert len(rows) > 40
    for row in [*rows, *(line["row"] for line in left(made[0]) if line["how"] == "drop")]:
        prompt = row["prompt"][0]["content"]
        texts = [sample["text"] for sample in row["samples"]]
        assert len(set(texts)) == 4
        for sample in row["samples"]:
            assert sample["text"].endswith(f" to {prompt}")
            assert sample["scores"]["s"]["value"] == worth(sample["text"])
    for record in dataset(made[0]):
        prompt = record["prompt"][0]["content"]
        assert record["chosen"][0]["content"].endswith(f" to {prompt}")
        assert record["rejected"][0]["content"].endswith(f" to {prompt}")
        assert record["chosen_score"] == worth(record["chosen"][0]["content"])
    parquet = "dataset/data/train.parquet"
    assert (made[0].folder / parquet).read_bytes() == (made[1].folder / parquet).read_bytes()


def test_all_n_answers_are_kept_even_when_the_server_gives_one_at_a_time(run: Run) -> None:
    with serving(worlds={"policy": Says(answer=answers), "judge": Says(answer=by_text)}) as server:
        server.fault = lambda request, number: "fewer"
        stages: Stages = [{"sample.n": {"model": "policy", "n": 8}}, *SAMPLED[1:]]
        made = run(stages, [f"Q{i}?" for i in range(5)], roles(server, "policy", "judge"))
    rows = [*rows_of(made), *(line["row"] for line in left(made))]
    assert len(rows) == 5
    for row in rows:
        first = row["samples"][0]["seed"]
        prompt = row["prompt"][0]["content"]
        assert [s["seed"] for s in row["samples"]] == [first + i for i in range(8)]
        assert [s["text"] for s in row["samples"]] == [f"answer {first + i} to {prompt}" for i in range(8)]


def test_no_row_vanishes_however_many_ways_there_are_to_leave(run: Run) -> None:
    """37 rows, which no batch size divides; some without an answer, some refused, some alike, and children."""

    def policy(request: Request) -> list[str | Completion]:
        text = request.messages[-1]["content"]
        if "number 5" in text:
            return [Completion(text="", finish_reason="stop")] * request.n
        if "number 8" in text:
            return ["always the same"] * request.n
        return list(answers(request))

    with serving(worlds={"policy": Says(answer=policy), "judge": Says(answer=by_text)}) as server:

        def fault(request: Any, number: int) -> Any:
            body = server.bodies[-1]
            asked = body["messages"][-1]["content"]
            return status(400, "no") if body["model"] == "policy" and "number 6" in asked else None

        server.fault = fault
        stages: Stages = [
            {"synth.bootstrap": {"model": "writer", "per_row": 3}},
            *SAMPLED,
            {"filter.diversity": {"keep": 0.9}},
        ]
        rows = [f"What does number {i} mean in the town of {'xyz'[i % 3] * 4}?" for i in range(37)]
        made = run(stages, rows, roles(server, "policy", "judge", "writer"))
    books = made.books
    assert books.input == 37
    assert books.added > 50
    assert books.rejected == 1
    stages_left = Counter((line["stage"], line["reason"]) for line in left(made))
    assert stages_left["sample.n", "bad_request"] == 1
    assert stages_left["sample.n", "no usable response"] == 1
    assert stages_left["pair.extremes", "all texts equal"] == 1
    assert any(stage == "filter.diversity" for stage, _ in stages_left)
    counted = {
        (stage["stage"], reason): n
        for stage in report(made)["stages"]
        for how in ("dropped", "rejected")
        for reason, n in stage[how].items()
    }
    assert counted == stages_left
