from __future__ import annotations

from synthpref.testing import row, run_stage
from synthpref_readability import Readability

EASY = "The cat sat. The dog ran. We all had fun in the sun."
HARD = (
    "Multidimensional organisational considerations necessitate comprehensive interdepartmental coordination."
)


def test_plain_words_in_short_sentences_score_higher() -> None:
    (scored,) = run_stage(Readability(), [row("Say it.", HARD, EASY)])
    hard, easy = scored.values("readability")
    assert hard is not None
    assert easy is not None
    assert easy > 100 > 0 > hard


def test_a_text_too_short_to_measure_gets_a_reason_and_no_number() -> None:
    (scored,) = run_stage(Readability(shortest=5), [row("Say it.", "Yes.")])
    assert scored.values("readability") == [None]
    assert scored.samples[0].scores["readability"].why == "fewer than 5 words"
