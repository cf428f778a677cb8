"""What a judge says about a text's verdict is not the judge's verdict: quotations, and sentences that name it as
the source.

A quotation is known by its marks (a blockquote, quotation marks, a fence, a block after "The response says:") or by its
words, which are those of a text that the judge was shown. A mention in the judge's own words ("it gives itself a 10") is
known by its sentence. In prose a verdict counts only in a form that says who gives it: at the start of a line or a
sentence, after "I", or after a verb of judging ("deserves a score of 7"). That is a list of what may be read and not of
what may not, so words in another language, or put in another way, are passed over and never taken for a verdict.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from functools import cached_property
from itertools import pairwise

from synthpref.core.others import Others, words_of

_QUOTES = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"(?<!\w)\"(?=[^\s\"])[^\"\n]*(?<=[^\s\"])\"(?![\w:])(?!\s*:)",
        r"“[^”]{0,2000}”|«[^»]{0,2000}»|„[^“”\n]*[“”]|「[^」]{0,2000}」|‹[^›]{0,2000}›",
        r"(?<![\w`])`[^`\n]+`(?!`)",
        r"(?<!\w)['‘](?=\S)[^'’‘\n]*(?<=\S)['’](?!\w)",
        r"(?m:^[ \t]*>[^\n]*)",
    )
]
"""Marks of a quotation, whoever is quoted."""
_VALUE = re.compile(r"[`\"'“”‘’«»]+[*_\s]*\w+(?:\s?/\s?\d+)?[*_\s.,]*[`\"'“”‘’«»]+")
_REPEATS = [re.compile(p, re.DOTALL) for p in (r"```.*?```", r"[^\n]+", r"(?<=[:.!?])[ \t]+[^\n]+")]
"""What is a quotation where its words are another's: a fence, a line, the end of a line."""

_WHO = (
    r"(?:response|candidate|answer|text|assistant|author|writer|model|output|submission|passage|user|prompt|reply"
    r"|it|its|they|he|she|which|that|who|one)(?:\s+\W?(?:[ab]|\d))?\W?"
)
_SAY = (
    r"(?:sa(?:ys?|id|ying)|claim\w*|assert\w*|stat(?:es?|ed|ing)|declar\w*|ask(?:s|ed|ing)?|demand\w*|request\w*"
    r"|insist\w*|contain\w*|includ\w*|writ(?:es?|ing|ten)|wrote|quot(?:es?|ed|ing)|mention\w*|suggest\w*|tell(?:s|ing)?"
    r"|told|instruct\w*|order(?:s|ed)|want(?:s|ed)|propos\w*|(?:end|begin|start|open|clos)(?:s|ed|ing)?\s*(?::|\b(?:with|by|in))"
    r"|boast\w*|announc\w*|call(?:s|ed|ing)?\s+(?:for|itself|this)|plead\w*|begs?|urg(?:es?|ed|ing)|hint\w*|pretend\w*"
    r"|tr(?:y|ies|ied|ying)\s+to|attempt\w*|inject\w*|embed\w*|append\w*|insert\w*|alleg\w*|supposed\w*"
    r"|so-called|ignor\w*|disregard\w*|dismiss\w*|overlook\w*|according\s+to(?!\s+(?:\w+\s+){0,3}(?:rubric|criteri\w+|guidelines?|scale))|self-\w+|reads?|verbatim|literally"
    r"|(?:it|them|him|her)sel(?:f|ves)|its\s+own|their\s+own|his\s+own|hidden|planted|prompt\s+injection"
    r"|award(?:s|ed)?\s+itself|advertis\w*|argu(?:es?|ed|ing)|(?<!I )(?:believ\w*|thinks?|feels?)|hopes?|expects?|wishes|deems?"
    r"|considers?\s+itself|would\s+(?:have|like)|lines?|phrase|sentence|the\s+words?|string|quotation|excerpt)"
)
_SAYS = re.compile(rf"\b{_SAY}(?!\w)", re.IGNORECASE)
_SAYS_AFTER = re.compile(
    rf"\b(?:{_SAY}\b|what\s+(?:the\s+)?{_WHO})|\bis\s+(?:not|no)\b|\bnot\s+(?:mine|my)\b"
    r"|\bin\s+(?:the|its)\s+(?:response|candidate|answer|text|output)\b",
    re.IGNORECASE,
)
_MENTION = re.compile(
    rf"\b{_WHO}\s+(?:\w+\s+){{0,3}}?(?:{_SAY}|ends?|ended|ending|begins?|began|starts?|closes?|reads?)\b|\b(?:ignor|disregard|dismiss|overlook|quot|inject|embed)\w*"
    r"|\b(?:claimed|planted|fake|false|ready-made|alleged|supposed(?:ly)?|so-called|hidden)\b"
    r"|\b(?:user|assistant|human)\s*:\s*$"
    rf"|\b{_WHO}\s+(?:suppl|provid|offer|present|show|giv|has|had|hold|carr|com)\w*\b[^.,;]{{0,40}}"
    r"\b(?:verdict|score|rating|json|evaluation|judge?ment)\b"
    r"|\b(?:response|candidate|answer|text)(?:['’]s\b|\s+(?:was|is|were|has|had|gives?|gave)\b)[^.]{0,20}$",
    re.IGNORECASE,
)
_MENTION_AFTER = re.compile(
    rf"[*_`\"”'’» ]*,?[ ]*(?:(?:is|was)\s+(?:what|the\s+(?:response|candidate|answer))|as\s+{_WHO}\s+{_SAY}|{_WHO}\s+{_SAY})\b",
    re.IGNORECASE,
)
_TURN = re.compile(
    r"\s*\([^()\d]*\d[^()]*\)|[\s,;.:()*_\"'`–—-]*(?:out of \d+|/\s*\d+|points?|stars?)?[\s,;()*_–—-]*(?:although|though|even though|but|despite"
    r"|whereas|while|yet|however|because|since|as\b|for\b|no matter|regardless|in spite|not\b|and not|instead of|rather)\b",
    re.IGNORECASE,
)
"""What may stand between the judge's verdict and its word about a text's: "I give it a 3, although it says 10"."""
_LED_BY = re.compile(
    r"\b(?:based\s+on|correct|better|best|solution|(?:assistant|response|output|answer|model|candidate)\s+\W?(?:\d|[ab])\b"
    r"|verdict|scor(?:e|es|ing)|ratings?|evaluations?|conclusion|judge?ment|assessment|result|final|overall|summary"
    r"|therefore|thus|hence|so|decision|choice|grade|output|my|here|i(?:\s+(?:would|will|give|rate|choose|chose|pick|conclude|say)|['’]d|['’]ll)|reflection|thoughts?|again|corrections?|revis\w+|actually|wait)\b",
    re.IGNORECASE,
)
"""A line that ends with a colon and leads to the judge's own verdict."""
_IT_SAYS = re.compile(rf"\b{_WHO}\s+(?:\w+\s+){{0,3}}?{_SAY}(?!\w)", re.IGNORECASE)
_CONCLUDES = re.compile(
    r"^\W*(?:therefore|thus|hence|so|based on|considering|given|in conclusion|overall|finally)\b"
    r"|\bI\s+(?:would\s+|will\s+)?(?:choose|chose|pick|select|rate|give|conclude)\b",
    re.IGNORECASE,
)
"""The start of a judge's last sentence: "Therefore, my answer is:"."""
_OF_A_TEXT = re.compile(
    rf"\b(?:{_SAY}|(?<!better )(?<!best )(?<!correct )(?<!final )(?:response|candidate|answer|text)(?:['’]s|\s+(?:was|is|were|has|had|gives?|gave)\b)|quoted?|it|its|not)\b|n['’]t\b"
    r"|^\W*(?:the\s+)?(?:response|candidate|answer|text|quote|quoted|excerpt|transcript)\b[^\n]{0,12}:?\W*$",
    re.IGNORECASE,
)
_I = re.compile(
    r"\b(?:I|we)(?:['’](?:d|ll|ve|m)|\s+(?:would|will|shall|must|can|do|am|have|still|therefore|thus|hence|only|hereby|now"
    r"|personally|also|to|going|decided|inclined|settled|settle|conclude|think|find|believe|judge|that))*\s+"
    r"(?:giv(?:e|ing)|gave|given|rat(?:e|ed|ing)|scor(?:e|ed|ing)|assign(?:ed)?|award(?:ed)?|grad(?:e|ed)|put|mark"
    r"|say|go(?:ing)?\s+(?:with|for)|settled?\s+(?:on|for)|chose|choose|pick|prefer|select|vote\s+for|find|the|it|this)\b"
    r"|\b(?:my|our)\b(?!\s+(?:own\s+)?words)",
    re.IGNORECASE,
)
"""The judge speaks of itself."""
_JUDGING = re.compile(
    r"\b(?:giv(?:e|en|ing)|gave|rat(?:e|ed|ing)|assign(?:ed)?|award(?:ed)?|receiv(?:es?|ed|ing)|gets?|got|earn(?:s|ed|ing)?"
    r"|deserv(?:es?|ed|ing)|merit(?:s|ed)?|warrant(?:s|ed)?|me(?:e?t|eti?n?g?|ets)|satisf\w+|fulfil\w*|align\w*|achiev\w*"
    r"|reach\w*|scor(?:es|ed)|land(?:s|ed)?|settle\w*|conclu\w+|result(?:s|ed|ing)?|put|place[sd]?|com(?:es?|ing)\s+to"
    r"|requir\w+|criteri\w+|rubric|perfect|appropriate|justif\w+|correspond\w*|qualif\w+|match\w*|fit(?:s|ted)?"
    r"|outlin\w+|describ\w+|demonstrat\w+|exhibit\w*|prevent\w*|reflect\w*|(?:it|this|that)(?:\s+is|['’]s))\b",
    re.IGNORECASE,
)
_SO = re.compile(
    r"\b(?:earn(?:s|ed|ing)|result(?:s|ed|ing)\s+in|receiv(?:es?|ed|ing)|which\s+is\s+why|therefore|thus|hence)\b",
    re.IGNORECASE,
)
"""What follows from what a text says: "it says nothing of the cost, earning it a score of 4"."""
_CLAUSE = re.compile(r"[,;:–—-]\s*\w*|\b(?:so|but|and|yet)\b", re.IGNORECASE)
_LEAD = re.compile(
    r"(?:\W|\b(?:an?|the|my|this|your|our|final|overall|total|numeric|integer|single|and|so|then|thus|hence|therefore|is|as|in|conclusion|summary|short|finally|consequently|given"
    r"|all|of|these|that|both|considered|on|balance|accordingly|output|for|reason|reasons|here|based|above|analysis"
    r"|evaluation|evaluations|factors|considering|sum|up|to|verdict|ok|okay|first|thoughts|reflection|no|wait"
    r"|after|weighing|everything|what|was|said|step|score|rating|grade|winner|choice|preference|decision|better|best"
    r"|judge?ment|result|conclude|i|it|would|be|of|at|yes|draw|\d)\b)*",
    re.IGNORECASE,
)
"""Words that may stand between the start of a sentence and the verdict in it."""
_VERDICT = re.compile(
    r"\b(?:score|rating|grade|verdict|winner|better)\b|\[\[|\d\s*/\s*\d|^\W*\w+\W*$", re.IGNORECASE
)
_STOP = re.compile(r"[.!?](?=\s|$)|\n")
_START = re.compile(r"(?:^|(?<!\.\.)(?<=[.!?])[\"'*_`)\]]*\s+|(?<=[;])\s+)", re.MULTILINE)


class Words:
    """The judge's prose: `text` is as long as the reply, with blanks for quotations and for what is not prose."""

    def __init__(self, prose: str, others: Others, reply: str = "") -> None:
        """`reply` is the text that the prose was taken from. `quoted` says that a line with a verdict, or a part of one, is a quotation."""
        text = _without_blocks(_without_fences(prose), reply or prose)
        if others:
            text = _without_lines(text, others)
            for pattern in _REPEATS:
                text = pattern.sub(lambda m: _blank(m[0]) if others.say(_bare(m[0])) else m[0], text)
        for pattern in _QUOTES:
            text = pattern.sub(_quotation, text)
        self.text = text
        self.quoted = text != prose and any(
            _VERDICT.search(line) and line != kept
            for line, kept in zip(prose.split("\n"), text.split("\n"), strict=True)
        )

    @cached_property
    def starts(self) -> list[int]:
        """Where sentences and lines begin."""
        return [0, *(m.end() for m in _START.finditer(self.text) if m.end())]

    def own(self, start: int, end: int) -> bool:
        """Whether a verdict at this place is the judge's by its sentence."""
        at = max(0, start - 600, self.starts[bisect_right(self.starts, start) - 1])
        before = self.text[at:start]
        # A number is matched with the full stop that follows it.
        ended = self.text[end - 1 : end] in (".", "!", "?")
        stop = _STOP.search(self.text, end, end + 600)
        after = "" if ended else self.text[end : stop.start() if stop else end + 600]
        said = max((m.end() for m in _SAYS.finditer(before)), default=0)
        first = next((m for m in _I.finditer(before, said)), None)
        if said:
            then = first or _SO.search(before, said)
            if not then or not _CLAUSE.search(before, said, then.start() + 1):
                return False
        if not _TURN.match(after) and _SAYS_AFTER.search(after):
            return False
        clause = re.search(r"[,;]\s*((?:so|thus|hence|therefore)\b[^,;]*)$", before)
        begun = _LEAD.fullmatch(before) or (clause and _LEAD.fullmatch(clause[1]))
        return bool(first or begun or _JUDGING.search(before))


def mentioned(text: str, start: int, end: int) -> bool:
    """Whether JSON that stands here is quoted from a text: in quotation marks, on a quoted line, in the marks of a text, or
    led to by words such as "the response says"."""
    line = text.rfind("\n", 0, start) + 1
    before = text[max(line, start - 600) : start]
    if before.lstrip().startswith(">"):
        return True
    opened = re.search(r"[^\W_].*[\"“„«‘'「]\s*[*_`.…]*$", before)
    if opened and re.match(r"[*_`.…]*\s*[\"”»’'」]", text[end : end + 8]):
        return True
    led = re.sub(r"^\s*(?:[-*•]\s*)?(?:```\w*)?\s*", "", before)
    if not re.search(r"[^\W_]", led):
        above = text[max(0, line - 700) : line].rstrip()
        fence = re.search(r"[^\W_][^\n]*?(?P<marks>[^\w\n]*```[\w ]*)$", above)
        above = re.sub(r"(?:\s*(?:[-*•]\s*)?```[\w ]*)+$", "", above).rstrip()
        led = above[above.rfind("\n") + 1 :]
        if re.fullmatch(r"<<[^<>/\n][^<>\n]*>>", led.strip()):
            return True
        if not fence and not led.rstrip(" \t*_").endswith((":", "：")):
            led = ""
    last = re.split(r"(?<=[.!?;])\s", led)[-1]
    return bool(_MENTION.search(last) or _MENTION_AFTER.match(text, end))


def stands_free(text: str, start: int) -> bool:
    """Whether what begins here is the first on its line, and no line such as "The response was:" leads to it."""
    line = text.rfind("\n", 0, start) + 1
    if re.search(r"[^\W_]", re.sub(r"^\s*```\w*", "", text[max(line, start - 600) : start])):
        return False
    above = re.sub(r"\s*```[\w ]*\s*$", "", text[max(0, line - 700) : line]).rstrip()
    return not _leads_to_a_quotation(above[above.rfind("\n") + 1 :])


def _leads_to_a_quotation(line: str) -> bool:
    """Whether the line is one such as "The response was:"."""
    line = line.strip(" \t*_#>")
    if not line.endswith((":", "：")):
        return False
    last = re.split(r"(?<=[.!?;])\s", line)[-1]
    if _CONCLUDES.search(last) and not _IT_SAYS.search(last):
        return False
    return bool(_OF_A_TEXT.search(last)) or not _LED_BY.search(last)


def _without_fences(prose: str) -> str:
    """The prose with blanks between marks such as those that the judge was shown a text between (`core.template`)."""
    parts, at = [], 0
    for opening in re.finditer(r"<<[^<>/\n][^<>\n]*>>\n", prose):
        if opening.start() >= at and (end := prose.find("\n<</", opening.end() - 1)) >= 0:
            parts += [prose[at : opening.start()], _blank(prose[opening.start() : end])]
            at = end
    return "".join([*parts, prose[at:]])


def _without_blocks(prose: str, reply: str) -> str:
    """The prose with blanks for each block that a line such as "The response says:" leads to: a fence, or the lines up
    to the next empty one."""
    lines, whole = prose.split("\n"), reply.split("\n")
    state = ""
    for i, line in enumerate(lines):
        bare = whole[i].strip()
        if state == "fence":
            lines[i] = _blank(line)
            state = "" if bare.startswith("```") else state
            continue
        if state and bare.startswith("```") and state != "block":
            state, lines[i] = "fence", _blank(line)
            continue
        if state == "led" and bare:
            state = "block"
        if state == "block":
            if bare:
                lines[i] = _blank(line)
                continue
            state = ""
        # Where JSON stood after the colon, nothing more is led to.
        if _leads_to_a_quotation(whole[i]):
            state = "led"
    return "\n".join(lines)


def _without_lines(text: str, others: Others) -> str:
    """The text with blanks for lines that follow one another in another's text too, however short they are: a line "A"
    would else be left over from a quotation, as if it were the judge's last word."""
    before = defaultdict[str, set[str]](set)
    for other in others.texts:
        for (_, first), (_, second) in pairwise(_lines(other)):
            before[second].add(first)
    gone: set[int] = set()
    for (i, first), (j, second) in pairwise(_lines(text)):
        if first in before[second]:
            gone |= {i, j}
        elif any(first.endswith(line) for line in before[second]):
            gone.add(j)
    lines = text.split("\n")
    return "\n".join(_blank(line) if i in gone else line for i, line in enumerate(lines))


def _lines(text: str) -> list[tuple[int, str]]:
    """The words of each line that has some, and where it stands."""
    bare = ((i, words_of(line)) for i, line in enumerate(text.split("\n")))
    return [(i, line) for i, line in bare if line.strip()]


def _bare(text: str) -> str:
    return re.sub(r"^<<[^\n]*>>\n|\n<<[^\n]*>>$|^```\w*|```$|^\s*(?:>|[-*•])\s?", "", text)


def _quotation(match: re.Match[str]) -> str:
    """Blanks, but for a single word or number: `Winner: "A"` quotes nothing."""
    return match[0] if _VALUE.fullmatch(match[0]) else _blank(match[0])


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)
