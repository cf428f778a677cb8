"""Which family a model belongs to, from its name: a judge favours the answers of its own (Preference Leakage,
arXiv:2502.01534).

A family is a line of weights and what one developer builds in that line: Gemini and Gemma are one (the same
research and data), as are GPT, the o-series and gpt-oss. A model trained further belongs to the family of its
base (Tulu and Vicuna are Llamas), whoever wrote the data. A distilled model belongs to the base that holds its
weights and *inherits* from its teacher, which the paper finds about as strong as being the same model: so
`families_of` names both, the base first.

A name that the table does not know has no family. Nothing is guessed from a size or from a developer who
publishes several lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache

BASES: Mapping[str, str] = {
    "llama": r"(?:code)?llamas?(?![-.]?cpp)",
    "qwen": r"qwen|qwq|qvq|tongyi",
    "mistral": r"m[ia]stral(?:ai)?|ministral|mixtral|mathstral|magistral|(?:code|dev)stral|(?:pix|vox)tral",
    "gemini": r"gemma|recurrentgemma|codegemma|medgemma|shieldgemma|paligemma",
    "yi": r"yi|01-ai",
    "phi": r"phi",
    "olmo": r"olmoe?",
    "internlm": r"intern(?:lm|vl)|intern-s",
    "baichuan": r"baichuan",
    "glm": r"(?:chat|code)?glm|codegeex|zai-org|zhipu(?:ai)?|thudm",
    "falcon": r"falcon",
    "command": r"command(?=-(?:r|a|light|nightly|xlarge|medium)(?![a-z]))|c4ai|aya(?=-(?:23|expanse|vision))",
    "granite": r"granite",
    "pythia": r"pythia",
    "gpt-neo": r"gpt-?(?:j|neo(?:xt?)?)",
    "mpt": r"mpt",
    "bloom": r"bloomz?",
    "opt": r"opt(?=-\d)",
    "t5": r"(?:flan-|m|by|code)?t5",
    "starcoder": r"starcoder|starchat",
    "stablelm": r"(?:japanese-)?stablelm|stable-lm",
    "openllama": r"open-?llama",
    "tinyllama": r"tiny-?llama",
    "smollm": r"smollm",
    "rwkv": r"rwkv",
    "dbrx": r"dbrx",
    "jamba": r"jamba|jurassic",
    "arctic": r"arctic-instruct|snowflake-arctic",
    "minicpm": r"minicpm",
    "exaone": r"exaone",
    "xverse": r"xverse",
    "deberta": r"deberta|pairrm",
}
"""Lines of open weights, on which others build. Their names stand in the names of what is built on them."""

OWN: Mapping[str, str] = {
    "gpt": (
        r"(?:chat)?gpt-?[2345]o?(?!-?x-)|gpt-oss|chat-?gpt|(?:(?:text|code)-)?(?:davinci|curie|babbage|ada)(?=-\d)"
        r"|(?<!.)o[134](?=$|-(?:mini|pro|preview|\d))"
    ),
    "claude": r"claude",
    "gemini": r"gemini|learnlm|bard|palm|(?:text|chat)-bison",
    "deepseek": r"deepseek|deepseek-?ai|r1(?=-distill)",
    "nemotron": r"nemotron",
    "grok": r"grok",
    "kimi": r"kimi|moonshot(?:ai)?|moonlight",
    "minimax": r"minimax(?:ai)?|abab",
    "ernie": r"ernie",
    "hunyuan": r"hunyuan",
    "doubao": r"doubao|seed-oss",
    "step": r"stepfun|step-[123]",
    "nova": r"(?:amazon-)?nova(?=-(?:micro|lite|pro|premier))|titan-text",
    "reka": r"reka",
    "mercury": r"mercury-coder",
    "luminous": r"luminous",
}
"""Lines named for their developer's own models. Beside a base in one name, such a name is that of a teacher."""

TUNED: Mapping[str, str] = {
    "llama": (
        r"vicuna|alpaca|guanaco|koala|tulu|ultralm|ultrarm|wizardlm(?=-(?:7|13|30|70)b)|judgelm|pandalm|auto-j"
        r"|prometheus(?=-13b)|selene|xwin-lm|orca-2|stable-?beluga|platypus-?2|beaver|athene(?=-70b)|gpt4all(?=-13b)"
        r"|starling-rm(?=-7b)|pplx(?=-70b)|openchat(?=-3\.6)|lynx"
    ),
    "mistral": (
        r"zephyr|starling-lm|openchat(?=-3\.5)|neural-chat|solar-10\.7b|wizardlm-2|prometheus(?=-(?:7b-v2|8x7b|bgb))"
        r"|pplx(?=-7b)|eurus(?=-(?:rm-)?7b)"
    ),
    "qwen": r"compass-?judger|athene-v2|openthinker|sky-t1|marco-o1|eurus-2",
    "yi": r"starling-rm(?=-34b)",
    "phi": r"flow-judge|patronus-glider",
    "pythia": r"dolly-v2",
    "t5": r"fastchat-t5",
}
"""Well-known models whose names do not say what they were built on."""


def family_of(name: str, extra: Mapping[str, str] = {}) -> str | None:
    """The family whose weights the model called `name` has, None if it is not known. `extra` goes before the
    table: a mapping from names, or patterns with * and ?, to families."""
    return next(iter(families_of(name, extra)), None)


def families_of(name: str, extra: Mapping[str, str] = {}) -> tuple[str, ...]:
    """The family of a model and then those that its name says it learned from; empty if it is not known."""
    lowered = name.strip().lower()
    for pattern, family in extra.items():
        if fnmatchcase(lowered, pattern.strip().lower()):
            return (family,)
    parts = [part for part in re.split(r"[/\\]", lowered) if part]
    # The model's own name says more than that of who publishes or serves it.
    for part in reversed(parts[-2:]):
        if found := tuple(dict.fromkeys(_found(re.sub(r"[^a-z0-9.]+", "-", part)))):
            return found
    return ()


def _found(name: str) -> Iterator[str]:
    bases = list(_in_order(name, "bases"))
    yield from bases or _in_order(name, "tuned")
    yield from _in_order(name, "own")


def _in_order(name: str, table: str) -> list[str]:
    """The families of one table whose names stand in `name`, as they stand."""
    found = [(match.start(), family) for family, known in _compiled(table) for match in known.finditer(name)]
    return [family for _, family in sorted(found)]


@lru_cache(maxsize=3)
def _compiled(table: str) -> list[tuple[str, re.Pattern[str]]]:
    names = {"bases": BASES, "tuned": TUNED, "own": OWN}[table]
    return [
        (family, re.compile(rf"(?<![a-z0-9])(?:{known})(?![a-z])", re.IGNORECASE))
        for family, known in names.items()
    ]
