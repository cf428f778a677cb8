"""The door out: Rows -> the records that trainers read. Formats and column names are those of TRL's dataset
formats; columns beyond them are passed over by its trainers.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import orjson
import pyarrow as pa
from pydantic import PrivateAttr, field_validator, model_validator

from synthpref.core.errors import ExportError
from synthpref.core.export import Exporter
from synthpref.core.thinking import join_thinking
from synthpref.core.types import Message, Pair, Row, Sample
from synthpref.io import parquet
from synthpref.io.tally import Spread

_TEXT, _FLOAT, _INT = pa.string(), pa.float64(), pa.int64()
_MESSAGES = pa.list_(pa.struct([pa.field("role", _TEXT), pa.field("content", _TEXT)]))

Extra = Literal["id", "scores", "margin", "p", "agreement", "models", "rule", "rationale", "licence"]
_EXTRAS: dict[str, dict[str, pa.DataType]] = {
    "id": {"id": _TEXT},
    "scores": {"chosen_score": _FLOAT, "rejected_score": _FLOAT},
    "margin": {"margin": _FLOAT},
    "p": {"p": _FLOAT, "p_low": _FLOAT, "p_high": _FLOAT},
    "agreement": {"agreement": _FLOAT, "votes": _INT},
    "models": {"chosen_model": _TEXT, "rejected_model": _TEXT},
    "rule": {"rule": _TEXT},
    "rationale": {"rationale": _TEXT},
    "licence": {"licence": _TEXT},
}


@dataclass(frozen=True, slots=True)
class ExportStats:
    """What was written."""

    path: Path
    records: int
    columns: tuple[str, ...]
    sha256: str = ""
    """Of the file's bytes."""


def data_file(*, jsonl: bool) -> str:
    """Where a dataset's rows are, in its folder."""
    return f"data/train.{'jsonl' if jsonl else 'parquet'}"


def write(rows: Iterable[Row], exporter: Exporter, folder: Path, *, jsonl: bool = False) -> ExportStats:
    """Write `folder`/data/train.parquet (or .jsonl), streamed; the same rows give the same bytes.

    A file of the other kind is removed, as a loader would read both. Raises ExportError, and then leaves
    what was there before.
    """
    schema = exporter.columns()
    path, other = (folder / data_file(jsonl=kind) for kind in (jsonl, not jsonl))
    if jsonl:
        count = _write_jsonl(path, exporter.records(rows))
    else:
        count = parquet.write(path, schema, exporter.records(rows))
    other.unlink(missing_ok=True)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportStats(path, count, tuple(schema.names), digest)


def _write_jsonl(path: Path, records: Iterable[dict[str, Any]]) -> int:
    count = 0
    with parquet.replaced(path) as part, part.open("wb") as file:
        for record in records:
            file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            count += 1
    return count


# ---- what the formats share


def _duo(row: Row, pair: Pair) -> tuple[Sample, Sample]:
    """(chosen, rejected). Whatever made the pair, two that say the same, or nothing, are not written."""
    chosen, rejected = row.samples[pair.chosen], row.samples[pair.rejected]
    if chosen.text.strip() == rejected.text.strip():
        raise ExportError(f"row {row.id}: chosen and rejected are the same text (rule {pair.rule!r})")
    if chosen.empty or rejected.empty:
        raise ExportError(f"row {row.id}: a response of a pair is empty (rule {pair.rule!r})")
    return chosen, rejected


class _Answers(Exporter):
    """Base of the formats that hold responses."""

    reasoning: Literal["drop", "keep"] = "drop"
    """What a reasoning model thought before it answered: `drop` leaves it out; `keep` writes it before the answer,
    between <think> and </think> as the chat templates of Qwen3 and DeepSeek-R1 have it, for training such models."""

    def text(self, sample: Sample) -> str:
        """The response as it is written."""
        return join_thinking(sample.reasoning, sample.text) if self.reasoning == "keep" else sample.text

    def answer(self, sample: Sample) -> list[Message]:
        """The same, as a message."""
        return [{"role": "assistant", "content": self.text(sample)}]


def _score(row: Row, pair: Pair, sample: Sample) -> float | None:
    """The sample's score that the pair was made by, where that is certain: the one that the pair names, or
    the only one that both samples have."""
    duo = row.samples[pair.chosen], row.samples[pair.rejected]
    name = pair.facts.get("score")
    if name is None:
        both = [n for n in duo[0].scores if all(n in s.scores and s.scores[n].value is not None for s in duo)]
        name = both[0] if len(both) == 1 else None
    side = "chosen_score" if sample is duo[0] else "rejected_score"
    if side in pair.facts:
        # The mean of several copies of the text.
        return float(pair.facts[side])
    found = sample.scores.get(str(name))
    return found.value if found else None


def _plain(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _labelled(row: Row) -> Iterator[tuple[Sample, bool]]:
    """Each paired response once, as (sample, was it chosen), chosen first. One that was chosen in one pair and
    rejected in another stands between good and bad, and is left out."""
    good: dict[str, Sample] = {}
    bad: dict[str, Sample] = {}
    for pair in row.pairs:
        chosen, rejected = _duo(row, pair)
        good.setdefault(chosen.text.strip(), chosen)
        bad.setdefault(rejected.text.strip(), rejected)
    yield from ((sample, True) for text, sample in good.items() if text not in bad)
    yield from ((sample, False) for text, sample in bad.items() if text not in good)


class _Pairs(_Answers):
    extras: tuple[Extra, ...] = ("id", "scores", "p", "agreement", "models", "rule", "rationale")
    """Columns beside the texts: "p" is the probability that chosen is preferred, with the ends of its 95 % interval;
    "agreement" the share of the votes on the label's side, and how many votes there are. All may hold nulls but `margin`: RewardTrainer reads it, and takes it for whole
    if the first record has one, so a pair without a margin is then an error."""
    meta: tuple[str, ...] = ()
    """Columns of the rows to write too, such as the principles that a row was judged by: texts as they are, anything
    else as JSON."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        written = {column for columns in _EXTRAS.values() for column in columns} | {
            "prompt",
            "chosen",
            "rejected",
        }
        if taken := written & set(self.meta):
            raise ValueError(f"meta: {min(taken)!r} is the name of a column that the format itself writes")
        return self

    def needs(self) -> set[str]:
        return {"pairs", *(f"meta:{column}" for column in self.meta)}

    def texts(self, row: Row, chosen: Sample, rejected: Sample) -> dict[str, Any]:
        """The columns that the trainer reads."""
        raise NotImplementedError

    def kinds(self) -> dict[str, pa.DataType]:
        """Their types."""
        raise NotImplementedError

    def wanted(self) -> tuple[Extra, ...]:
        return self.extras

    def margin_of(self, row: Row, pair: Pair) -> float | None:
        """The margin as it is written."""
        return pair.margin

    def records(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        wanted = self.wanted()
        for row in rows:
            for pair in row.pairs:
                chosen, rejected = _duo(row, pair)
                if "margin" in wanted and pair.margin is None:
                    fix = "leave the margin out of this export, or pair by a score"
                    raise ExportError(f"row {row.id}: a pair of rule {pair.rule!r} has no margin; {fix}")
                values = {
                    "id": row.id,
                    "chosen_score": _score(row, pair, chosen),
                    "rejected_score": _score(row, pair, rejected),
                    "margin": self.margin_of(row, pair),
                    "p": pair.p,
                    "p_low": pair.p_low,
                    "p_high": pair.p_high,
                    "agreement": pair.agreement,
                    "votes": pair.votes,
                    "chosen_model": chosen.model or None,
                    "rejected_model": rejected.model or None,
                    "rule": pair.rule,
                    "rationale": pair.rationale,
                    "licence": row.licence,
                }
                columns = [column for extra in wanted for column in _EXTRAS[extra]]
                record = self.texts(row, chosen, rejected) | {name: values[name] for name in columns}
                yield record | {name: _plain(row.meta.get(name)) for name in self.meta}

    def columns(self) -> pa.Schema:
        kinds = self.kinds()
        for extra in self.wanted():
            kinds |= _EXTRAS[extra]
        kinds |= dict.fromkeys(self.meta, _TEXT)
        return pa.schema(list(kinds.items()))


class TrlPreference(_Pairs):
    """Pairs for DPO and reward models, as conversations with the prompt apart: `prompt`, `chosen` and
    `rejected` are lists of messages."""

    def texts(self, row: Row, chosen: Sample, rejected: Sample) -> dict[str, Any]:
        return {"prompt": row.prompt, "chosen": self.answer(chosen), "rejected": self.answer(rejected)}

    def kinds(self) -> dict[str, pa.DataType]:
        return {"prompt": _MESSAGES, "chosen": _MESSAGES, "rejected": _MESSAGES}


class TrlPreferenceStandard(_Pairs):
    """Pairs as plain texts: `prompt`, `chosen`, `rejected`. No chat template is applied; a prompt of several
    messages is written as "role: text" paragraphs."""

    def texts(self, row: Row, chosen: Sample, rejected: Sample) -> dict[str, Any]:
        return {"prompt": row.prompt_text, "chosen": self.text(chosen), "rejected": self.text(rejected)}

    def kinds(self) -> dict[str, pa.DataType]:
        return {"prompt": _TEXT, "chosen": _TEXT, "rejected": _TEXT}


class TrlImplicit(_Pairs):
    """Pairs as whole conversations: `chosen` and `rejected` hold the prompt's messages and the response."""

    def texts(self, row: Row, chosen: Sample, rejected: Sample) -> dict[str, Any]:
        return {
            "chosen": [*row.prompt, *self.answer(chosen)],
            "rejected": [*row.prompt, *self.answer(rejected)],
        }

    def kinds(self) -> dict[str, pa.DataType]:
        return {"chosen": _MESSAGES, "rejected": _MESSAGES}


class TrlReward(_Pairs):
    """Pairs for reward models, as conversations, with the `margin` by which the scores differ."""

    prompt: Literal["explicit", "implicit"] = "explicit"
    """`explicit`: the prompt in a column of its own. `implicit`: at the head of chosen and of rejected."""
    margin: Literal["z", "raw", "none"] = "z"
    """The margin, by which RewardTrainer asks the rewards to differ (Llama 2, arXiv:2307.09288, section 3.2.2): in
    standard deviations of the paired scores ("z"), in the score's own units ("raw"), or not written ("none"). Rewards
    begin near 0, so a margin of 400 raw units is a loss of 400 that no reward model comes down from."""
    extras: tuple[Extra, ...] = ("id", "scores", "p", "agreement", "models")
    """Columns beside the texts and the margin."""
    _scales: dict[str, float] = PrivateAttr(default_factory=dict)

    @field_validator("margin", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        # As recipes of version 0.1 say it.
        return {True: "z", False: "none"}.get(value, value) if isinstance(value, bool) else value

    def fitted(self, rows: Callable[[], Iterable[Row]]) -> TrlReward:
        """With the standard deviation of the paired scores, by the score's name."""
        if self.margin != "z":
            return self
        spreads: defaultdict[str, Spread] = defaultdict(Spread)
        for row in rows():
            for pair in row.pairs:
                chosen, rejected = (_score(row, pair, row.samples[i]) for i in (pair.chosen, pair.rejected))
                if chosen is None or rejected is None:
                    # Of scores that are not known the difference is: as if they lay around 0.
                    chosen, rejected = (pair.margin or 0.0) / 2, -(pair.margin or 0.0) / 2
                spreads[str(pair.facts.get("score"))].add(chosen)
                spreads[str(pair.facts.get("score"))].add(rejected)
        made = self.model_copy()
        made._scales = {name: sd for name, spread in spreads.items() if (sd := spread.sd())}
        return made

    def margin_of(self, row: Row, pair: Pair) -> float | None:
        scale = self._scales.get(str(pair.facts.get("score"))) if self.margin == "z" else None
        return pair.margin if pair.margin is None or scale is None else pair.margin / scale

    def texts(self, row: Row, chosen: Sample, rejected: Sample) -> dict[str, Any]:
        return self._like().texts(row, chosen, rejected)

    def kinds(self) -> dict[str, pa.DataType]:
        return self._like().kinds()

    def wanted(self) -> tuple[Extra, ...]:
        return tuple(dict.fromkeys((*self.extras, *(("margin",) if self.margin != "none" else ()))))

    def _like(self) -> TrlPreference | TrlImplicit:
        made = TrlPreference if self.prompt == "explicit" else TrlImplicit
        return made(format=self.format, reasoning=self.reasoning)


class TrlKto(_Answers):
    """Single responses for KTO: `prompt`, `completion` and `label`, true for a chosen one.

    A response that was paired several times is written once, and one that was both chosen and rejected is left
    out. KTOTrainer reads rows in order and measures its KL term on the neighbour's completion, so chosen and
    rejected alternate and responses to one prompt are kept apart, as far as the rows allow.
    """

    def records(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        return _apart(
            {
                "prompt": row.prompt,
                "completion": self.answer(sample),
                "label": label,
                "id": row.id,
                "model": sample.model or None,
            }
            for row in rows
            for sample, label in _labelled(row)
        )

    def columns(self) -> pa.Schema:
        return pa.schema(
            {
                "prompt": _MESSAGES,
                "completion": _MESSAGES,
                "label": pa.bool_(),
                "id": _TEXT,
                "model": _TEXT,
            }
        )


_HELD = 256
"""Records that wait to be put in order; enough to find a neighbour of another row."""


def _apart(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same records, with labels alternating and neighbours from different rows wherever that is possible
    among those held. The label of which more are waiting goes first."""
    waiting: dict[bool, deque[dict[str, Any]]] = {True: deque(), False: deque()}
    last: dict[str, Any] = {"label": False, "id": None}
    for record in records:
        waiting[record["label"]].append(record)
        if len(waiting[True]) + len(waiting[False]) > _HELD:
            last = _following(waiting, last)
            yield last
    while waiting[True] or waiting[False]:
        left = Counter(record["id"] for queue in waiting.values() for record in queue)
        last = _following(waiting, last, left)
        yield last


def _following(
    waiting: Mapping[bool, deque[dict[str, Any]]], last: dict[str, Any], left: Counter[str] | None = None
) -> dict[str, Any]:
    """Take out the record that goes after `last`. Near the end, `left` counts each row's records: the row with
    most goes first, and whatever its label if it has more than half, or its records would meet."""
    more = len(waiting[True]) - len(waiting[False])
    label = more > 0 if more else not last["label"]
    order = [queue for queue in (waiting[label], waiting[not label]) if queue]
    if left is None:
        fit = ((queue, i) for queue in order for i, r in enumerate(queue) if r["id"] != last["id"])
        queue, place = next(fit, (order[0], 0))
    else:
        ends = [(queue, i) for queue in order for i in range(len(queue))]

        def worth(end: tuple[deque[dict[str, Any]], int]) -> tuple[bool, bool, bool, int]:
            found = end[0][end[1]]
            count = left[found["id"]]
            return found["id"] != last["id"], 2 * count > left.total(), found["label"] == label, count

        queue, place = max(ends, key=worth)
    record = queue[place]
    del queue[place]
    return record


class TrlPromptOnly(Exporter):
    """The prompts alone, one record a row, as lists of messages: for GRPO, online DPO, or sampling elsewhere."""

    def needs(self) -> set[str]:
        return set()

    def records(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        return ({"prompt": row.prompt, "id": row.id} for row in rows)

    def columns(self) -> pa.Schema:
        return pa.schema({"prompt": _MESSAGES, "id": _TEXT})


class Sft(_Answers):
    """Conversations for supervised training: `messages` holds the prompt and a good response.

    That is each response that was chosen and never rejected; with `score`, the one response that scores
    highest, where it is neither empty nor truncated. A row that has none gives no record.
    """

    score: str | None = None
    """The score that names the best response; without it, pairs do."""

    def needs(self) -> set[str]:
        return {"samples", f"score:{self.score}"} if self.score else {"pairs"}

    def records(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        for row in rows:
            for sample in self._good(row):
                yield {
                    "messages": [*row.prompt, *self.answer(sample)],
                    "id": row.id,
                    "model": sample.model or None,
                }

    def _good(self, row: Row) -> list[Sample]:
        if self.score is None:
            return [sample for sample, chosen in _labelled(row) if chosen]
        scored = zip(row.samples, row.values(self.score), strict=True)
        fit = [
            (value, s)
            for s, value in scored
            if value is not None and not (s.empty or s.truncated or s.filtered)
        ]
        return [max(fit, key=lambda pair: pair[0])[1]] if fit else []

    def columns(self) -> pa.Schema:
        return pa.schema({"messages": _MESSAGES, "id": _TEXT, "model": _TEXT})
