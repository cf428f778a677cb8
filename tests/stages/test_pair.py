"""The pair stages: which samples may be paired, and what a row without a pair is dropped for."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthpref.core.stage import Load
from synthpref.core.types import Comparison, Drop, Pair, Row, Sample, Score, Vote
from synthpref.stages import pair as pairing
from synthpref.stages.pair import (
    Extremes,
    MinOfK,
    MuSigma,
    PairStage,
    Random,
    Ranked,
    Threshold,
    Verified,
)
from synthpref.testing import run_stage

STAGES: dict[str, PairStage] = {
    "extremes": Extremes(score="s"),
    "mu_sigma": MuSigma(score="s"),
    "min_of_k": MinOfK(score="s", k=50),
    "threshold": Threshold(score="s", min_margin=0),
    "ranked": Ranked(score="s"),
    "verified": Verified(score="s", right=9, wrong=3),
    "random": Random(score="s"),
}
every_stage = pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES.keys())


def sample(text: str, score: float | None = None, **fields: Any) -> Sample:
    made = Score(score) if score is not None else Score(None, why="no verdict found")
    return Sample(text, scores={"s": made}, **{"finish_reason": "stop", **fields})


def row(*samples: Sample, id: str = "row-1", **fields: Any) -> Row:
    return Row(id=id, prompt=({"role": "user", "content": "Why?"},), samples=samples, **fields)


def scored(*values: float | None) -> Row:
    return row(*(sample(f"answer {i}", value) for i, value in enumerate(values)))


def run(stage: PairStage, one: Row) -> Row | Drop:
    made = run_stage(stage, [one])
    assert len(made) == 1
    return made[0]


def paired(stage: PairStage, one: Row) -> list[tuple[int, int]]:
    made = run(stage, one)
    assert isinstance(made, Row), made
    return [(pair.chosen, pair.rejected) for pair in made.pairs]


def dropped(stage: PairStage, one: Row) -> Drop:
    made = run(stage, one)
    assert isinstance(made, Drop), made
    return made


@every_stage
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_better_response_is_chosen_first_middle_or_last(stage: PairStage, place: int) -> None:
    values = [2.0, 3.0]
    values.insert(place, 9.0)
    assert {chosen for chosen, _ in paired(stage, scored(*values))} <= {place, values.index(3.0)}
    assert place in {chosen for chosen, _ in paired(Extremes(score="s"), scored(*values))}
    for chosen, rejected in paired(stage, scored(*values)):
        assert values[chosen] > values[rejected]
    values = [2.0, 2.0]
    values.insert(place, 9.0)
    assert {chosen for chosen, _ in paired(stage, scored(*values))} == {place}


@every_stage
def test_tied_scores_make_no_pair(stage: PairStage) -> None:
    drop = dropped(stage, scored(9.0, 9.0, 9.0))
    assert drop.reason in ("all scores equal", "all right")


@every_stage
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_missing_score_drops_only_its_sample(stage: PairStage, place: int) -> None:
    values: list[float | None] = [9.0, 3.0]
    values.insert(place, None)
    assert paired(stage, scored(*values)) == [(values.index(9.0), values.index(3.0))]


@every_stage
def test_a_row_in_which_no_reply_was_read_is_dropped_with_the_reason(stage: PairStage) -> None:
    assert dropped(stage, scored(None, None)) == Drop("no scores", "left out: 2 without a score")


@every_stage
def test_truncated_responses_are_not_paired_unless_asked_for(stage: PairStage) -> None:
    one = row(sample("whole", 3.0), sample("cut off", 10.0, finish_reason="length"), sample("fine", 9.0))
    assert paired(stage, one) == [(2, 0)]
    kept = stage.model_copy(update={"truncated": "keep"})
    assert any(1 in indices for indices in paired(kept.model_copy(update={"max_pairs": 9}), one))
    lone = row(sample("cut off", 10.0, finish_reason="length"), sample("fine", 9.0))
    assert dropped(stage, lone) == Drop("one usable sample", "left out: 1 truncated")


@every_stage
def test_empty_responses_are_never_paired(stage: PairStage) -> None:
    one = row(sample(" \n", 0.0), sample("fine", 9.0), sample("less", 3.0))
    assert paired(stage, one) == [(1, 2)]
    assert paired(stage.model_copy(update={"truncated": "keep"}), one) == [(1, 2)]


@every_stage
def test_one_text_is_never_both_chosen_and_rejected(stage: PairStage) -> None:
    """A noisy judge scored the same words twice."""
    assert dropped(stage, row(sample("same", 9.0), sample("same\n", 3.0))).reason == "all texts equal"
    for chosen, rejected in paired(
        stage, row(sample("same", 10.0), sample("same ", 9.0), sample("other", 3.0))
    ):
        assert {chosen, rejected} <= {0, 1, 2}
        assert {chosen, rejected} != {0, 1}


def test_copies_of_a_text_count_once_by_the_mean_of_their_scores() -> None:
    one = row(
        sample("same", 10.0), sample("same", 1.0), sample(" same\n", 5.5), sample("a", 6.0), sample("b", 4.0)
    )
    assert paired(Extremes(score="s"), one) == [(3, 4)]
    made = run(MuSigma(score="s"), one)
    assert isinstance(made, Row)
    assert made.pairs[0].facts["n"] == 3
    low = run(Extremes(score="s"), row(*one.samples[:3], sample("b", 7.0)))
    assert isinstance(low, Row)
    (pair,) = low.pairs
    assert (pair.chosen, pair.rejected, pair.margin) == (3, 0, 1.5)
    assert (pair.facts["rejected_copies"], pair.facts["rejected_score"]) == (3, 5.5)
    assert "chosen_copies" not in pair.facts
    assert low.samples == (*one.samples[:3], sample("b", 7.0)), "the scores themselves stay as they are"


def test_copies_without_a_score_have_no_say() -> None:
    one = row(sample("same", 9.0), sample("same", None), sample("b", 3.0))
    made = run(Extremes(score="s"), one)
    assert isinstance(made, Row)
    assert (made.pairs[0].margin, "chosen_copies" in made.pairs[0].facts) == (6.0, False)


def test_equal_scores_of_copies_are_exactly_that_score() -> None:
    assert (
        dropped(Extremes(score="s"), row(*[sample("same", 0.1)] * 3, sample("b", 0.1))).reason
        == "all scores equal"
    )


def test_a_text_that_was_sampled_twice_is_rejected_no_more_often_than_another() -> None:
    """By the lower of two scores it was rejected in two pairs of three."""
    rng = random.Random(5)
    lost = 0
    for n in range(3000):
        one = row(*(sample(text, rng.gauss(5, 2)) for text in ("twice", "once", "twice")), id=f"r{n}")
        ((_, rejected),) = paired(Extremes(score="s"), one)
        lost += one.samples[rejected].text == "twice"
    # Within 3.5 standard errors of a half.
    assert abs(lost / 3000 - 0.5) < 3.5 * 0.5 / 3000**0.5


def test_the_votes_on_all_copies_count() -> None:
    def judged(text: str, *votes: float) -> Sample:
        score = Score(
            sum(votes) / len(votes), votes=tuple(Vote(f"j{i}", v, role=f"j{i}") for i, v in enumerate(votes))
        )
        return Sample(text, scores={"s": score})

    made = run(Extremes(score="s"), row(judged("same", 9.0), judged("same", 8.0), judged("b", 3.0)))
    assert isinstance(made, Row)
    assert made.pairs[0].margin == 5.5
    two = run(Extremes(score="s"), row(judged("same", 9, 8), judged("same", 7, 8), judged("b", 3, 2)))
    one = run(Extremes(score="s"), row(judged("same", 9, 8), judged("b", 3, 2)))
    assert isinstance(two, Row)
    assert isinstance(one, Row)
    assert (two.pairs[0].votes or 0) >= (one.pairs[0].votes or 0) > 0


@every_stage
def test_no_samples_has_its_own_reason(stage: PairStage) -> None:
    assert dropped(stage, row()) == Drop("no samples")
    blank = row(sample("", 1.0), sample(" ", 2.0))
    assert dropped(stage, blank) == Drop("no usable sample", "left out: 2 empty")


@every_stage
def test_the_score_is_found_by_name_and_never_by_place(stage: PairStage) -> None:
    other = [Sample(f"answer {i}", scores={"other": Score(v)}) for i, v in enumerate([1.0, 9.0])]
    assert dropped(stage, row(*other)).reason == "no scores"
    mixed = row(*other, sample("good", 9.0), sample("bad", 3.0))
    assert paired(stage, mixed) == [(2, 3)]


answers = st.lists(
    st.builds(
        lambda text, value, finish: sample(text, value, finish_reason=finish),
        st.sampled_from(["", "  ", "a", "b", "c", "d", "e", "f", "g", "a ", "B", "long\nanswer"]),
        st.one_of(st.none(), st.integers(0, 10).map(float)),
        st.sampled_from(["stop", "length", None]),
    ),
    max_size=14,
)


def mean_of_copies(samples: list[Sample], one: Sample, truncated: str) -> float:
    values = [
        value
        for s in samples
        if s.text.strip() == one.text.strip()
        and (truncated == "keep" or not s.truncated)
        and (value := s.scores["s"].value) is not None
    ]
    return sum(values) / len(values)


@every_stage
@given(samples=answers, truncated=st.sampled_from(["exclude", "keep"]))
def test_every_row_ends_as_sound_pairs_or_a_reason(
    stage: PairStage, samples: list[Sample], truncated: str
) -> None:
    made = run(stage.model_copy(update={"truncated": truncated}), row(*samples))
    if isinstance(made, Drop):
        assert made.reason
        return
    assert made.pairs
    for pair in made.pairs:
        chosen, rejected = samples[pair.chosen], samples[pair.rejected]
        better, worse = (mean_of_copies(samples, side, truncated) for side in (chosen, rejected))
        assert pair.margin == pytest.approx(better - worse)
        assert pair.margin > 0
        assert chosen.text.strip() != rejected.text.strip()
        assert not chosen.empty
        assert not rejected.empty
        assert truncated == "keep" or not (chosen.truncated or rejected.truncated)
    assert made.samples == tuple(samples)


@every_stage
@given(data=st.data())
def test_the_order_of_the_samples_decides_nothing(stage: PairStage, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 4).map(lambda v: 3.0 * v), min_size=2, max_size=12))
    samples = [sample(f"answer {i}", value) for i, value in enumerate(values)]
    moved = data.draw(st.permutations(samples))
    before, after = run(stage, row(*samples)), run(stage, row(*moved))
    if isinstance(before, Drop):
        assert after == before
        return
    assert isinstance(after, Row)

    def texts(made: Row) -> list[tuple[str, str]]:
        return [(made.samples[p.chosen].text, made.samples[p.rejected].text) for p in made.pairs]

    assert texts(after) == texts(before)


def test_ties_favour_no_place_and_no_model() -> None:
    chosen = [
        paired(
            Extremes(score="s"),
            row(*(sample(f"answer {i}", v) for i, v in enumerate([9, 9, 9, 1])), id=f"r{n}"),
        )
        for n in range(300)
    ]
    counts = [sum(pairs[0][0] == place for pairs in chosen) for place in range(3)]
    assert min(counts) > 70


def test_min_margin_holds_for_every_rule() -> None:
    one = scored(9.0, 8.0, 3.0)
    for stage in STAGES.values():
        wide = stage.model_copy(update={"min_margin": 5.0})
        assert set(paired(wide, one)) <= {(0, 2), (1, 2)}
    drop = dropped(Extremes(score="s", min_margin=7), one)
    assert drop == Drop("margin too small", "the widest is 6")
    assert paired(Extremes(score="s", min_margin=0.2), scored(0.3, 0.1)) == [(0, 1)]


def test_facts_and_rule_are_on_the_pair() -> None:
    made = run(MuSigma(score="s"), scored(9.0, 5.0, 3.0))
    assert isinstance(made, Row)
    assert made.pairs[0].rule == "mu_sigma"
    assert set(made.pairs[0].facts) == {
        "score",
        "n", "mu", "sigma", "target", "z", "chosen_z", "was_min", "below_all", "missed", "fallback"
    }  # fmt: skip
    assert made.pairs[0].facts["fallback"] == "min"
    assert made.pairs[0].facts["score"] == "s"
    assert [run(stage, scored(9.0, 3.0)).pairs[0].rule for stage in STAGES.values()] == list(STAGES)  # type: ignore[union-attr]


# ---- several pair stages on one row


def test_pairs_of_an_earlier_stage_stay_and_are_not_made_twice() -> None:
    one = scored(9.0, 5.0, 3.0)
    first = run(Extremes(score="s"), one)
    assert isinstance(first, Row)
    assert paired(Extremes(score="s"), first) == [(0, 2)]
    assert paired(Ranked(score="s"), first) == [(0, 2), (0, 1)]


def test_a_row_that_has_pairs_is_not_dropped_for_getting_no_more() -> None:
    one = replace(scored(9.0, 9.0), pairs=(Pair(0, 1, "brought"),))
    assert run(Extremes(score="s"), one) == one


def test_the_opposite_of_a_pair_is_not_made() -> None:
    one = replace(scored(9.0, 5.0, 3.0), pairs=(Pair(2, 0, "by another score"),))
    assert paired(Ranked(score="s"), one) == [(2, 0), (0, 1)]


def test_copies_of_a_paired_text_make_no_second_pair() -> None:
    one = row(sample("a", 9.0), sample("b", 1.0), sample("a", 9.5), pairs=(Pair(2, 1, "earlier"),))
    assert paired(Extremes(score="s"), one) == [(2, 1)]


def test_p_is_that_of_the_comparison_whichever_way_round_it_was() -> None:
    won = Comparison("s", 0, 1, p=0.75)
    for one, p in (
        (replace(scored(9.0, 3.0), comparisons=(won,)), 0.75),
        (replace(scored(3.0, 9.0), comparisons=(won,)), 0.25),
        (replace(scored(9.0, 3.0), comparisons=(replace(won, name="other"),)), None),
        (replace(scored(9.0, 3.0), comparisons=(replace(won, p=None),)), None),
        (replace(scored(9.0, 5.0, 3.0), comparisons=(won,)), None),
    ):
        made = run(Extremes(score="s"), one)
        assert isinstance(made, Row)
        assert made.pairs[0].p == p


def voted(*values: float, a: int = 0, b: int = 1) -> Comparison:
    """Each value is one juror's vote, for `a` where it is 1."""
    votes = tuple(Vote("j", value, role=f"juror {i}") for i, value in enumerate(values))
    return Comparison("s", a, b, sum(values) / len(values), votes=votes)


@pytest.mark.parametrize(
    ("fields", "votes", "reason"),
    [
        ({"min_p": 0.8}, (1, 1, 1, 1, 0), None),
        ({"min_p": 0.81}, (1, 1, 1, 1, 0), "probability too low"),
        ({"min_agreement": 0.6}, (1, 1, 1, 0.5, 0.5), None),
        ({"min_agreement": 0.61}, (1, 1, 1, 0.5, 0.5), "too little agreement"),
        ({"min_p_low": 0.5}, (1, 1, 1, 1), None),
        ({"min_p_low": 0.5}, (1, 1, 1), "probability too unsure"),
        ({"min_p": 0.5, "min_agreement": 0.9}, (1, 0.5), "too little agreement"),
        ({"min_p": 0.1}, (), "no votes to be sure by"),
        ({"min_p_low": 0.0}, (), "no votes to be sure by"),
        ({"min_agreement": 0.0}, (), "no votes to be sure by"),
        ({}, (), None),
    ],
)
def test_a_pair_that_is_not_sure_enough_is_not_made(
    fields: dict[str, Any], votes: tuple[float, ...], reason: str | None
) -> None:
    one = replace(scored(9.0, 3.0), comparisons=(voted(*votes),) if votes else ())
    made = run(Extremes(score="s", **fields), one)
    assert (made.reason if isinstance(made, Drop) else None) == reason


def test_of_several_pairs_those_that_are_sure_are_made() -> None:
    games = (voted(1, 1, 1), voted(1, 1, 0, b=2), voted(1, 0, a=1, b=2))
    one = replace(scored(9.0, 5.0, 3.0), comparisons=games)
    stage = Threshold(score="s", min_margin=0, min_agreement=0.6)
    assert paired(stage, one) == [(0, 2), (0, 1)]
    made = run(Threshold(score="s", min_margin=0, min_agreement=0.6, max_pairs=1), one)
    assert isinstance(made, Row)
    (pair,) = made.pairs
    assert (pair.p, pair.agreement, pair.votes) == (pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert pair.p_low is not None
    assert pair.p_high is not None


# ---- fields


@every_stage
def test_what_a_pair_stage_needs_and_gives(stage: PairStage) -> None:
    assert stage.needs() == {"samples", "score:s"}
    assert stage.gives() == {"pairs"}
    assert stage.load(16) == Load(16)
    assert stage.requires() == {}


@every_stage
def test_every_field_is_documented(stage: PairStage) -> None:
    assert type(stage).__doc__
    for name, field in type(stage).model_fields.items():
        assert field.description, name


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (MuSigma, {"chosen": "best"}, "neither 'max' nor a point"),
        (MuSigma, {"chosen": "mu-2sigma"}, "does not lie above the rejected point"),
        (MuSigma, {"chosen": "mu-3sigma", "k": 1}, "does not lie above the rejected point"),
        (MuSigma, {"k": 2, "quantile": 0.1}, "give one of them"),
        (MuSigma, {"quantile": 0}, "greater than 0"),
        (MuSigma, {"tolerance": -1}, "greater than or equal to 0"),
        (MuSigma, {"ddof": 2}, "0 or 1"),
        (MinOfK, {"k": 0}, "greater than or equal to 1"),
        (Threshold, {}, "give min_margin, or eta"),
        (Threshold, {"eta": 1}, "less than 1"),
        (Threshold, {"min_margin": 1, "tau": 2}, "give eta too"),
        (Ranked, {"ranks": [1]}, "greater than or equal to 2"),
        (Ranked, {"ranks": [2, 2]}, "name a rank twice"),
        (Ranked, {"ranks": [2], "pairing": "adjacent"}, "pairing: best"),
        (Verified, {"right": 0, "wrong": 0}, "must lie below right"),
        (Random, {"max_pairs": 0}, "greater than or equal to 1"),
        (Extremes, {"min_margin": -1}, "greater than or equal to 0"),
        (Extremes, {"truncated": "maybe"}, "'exclude' or 'keep'"),
        (Extremes, {"margin": 1}, "Extra inputs are not permitted"),
    ],
)
def test_bad_fields_are_refused(kind: type[PairStage], fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(score="s", **fields)


def test_eta_works_from_a_recipe() -> None:
    stage = Threshold(score="s", eta=0.85, tau=1.0, max_pairs=1, take="random")
    assert paired(stage, scored(9.0, 8.5, 3.0)) in ([(0, 2)], [(1, 2)])


def test_a_rule_of_ones_own() -> None:
    class SecondBest(PairStage):
        def choose(self, scores: Any, eligible: Any, rng: Any) -> Any:
            order = sorted(eligible, key=lambda i: -scores[i])
            return [Pair(order[1], order[-1], "second", margin=scores[order[1]] - scores[order[-1]])]

    assert paired(SecondBest(score="s"), scored(9.0, 1.0, 5.0)) == [(2, 1)]


def test_the_words_are_the_classes() -> None:
    words = {"extremes", "mu_sigma", "min_of_k", "threshold", "ranked", "verified", "random"}
    for word in words:
        assert issubclass(getattr(pairing, "".join(part.title() for part in word.split("_"))), PairStage)
