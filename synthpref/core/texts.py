"""A model's reply -> the text or the prompts that it was asked to write. Pure."""

from __future__ import annotations

import re
from typing import Any

from synthpref.core.json_parts import get, json_spans, plain
from synthpref.core.reply import Parsed, Reply, quoted, reasoning


def parse_text_field(reply: str, key: str) -> Parsed[str]:
    """The text under the JSON property `key`. A reply without the JSON fails: who knows where its preamble
    ends. Of several the last one counts: what comes before it is a draft."""
    parts = Reply(reply)
    names = {plain(key)}
    found = [holder.value for holder in parts.holders(names)]
    if not found:
        return Parsed(None, parts.nothing(repr(key)))
    value = get(found[-1], names)
    if not isinstance(value, str) or not value.strip():
        return Parsed(None, f"not a text: {key!r} is {quoted(value)}", reasoning(found[-1]))
    return Parsed(value.strip(), None, reasoning(found[-1]))


_ITEM = re.compile(r"^[ \t]*(?:#+[ \t]*)?(?:\*\*)?(?P<number>\d{1,3})[.):](?:\*\*)?[ \t]+", re.MULTILINE)


def parse_prompts(reply: str, key: str = "prompts") -> list[str]:
    """The texts in a JSON array under `key`, or in a reply that is such an array, or in a numbered list; the
    last such array binds. Empty when there are none."""
    names = {plain(key)}
    parts = Reply(reply)
    arrays = [get(holder.value, names) for holder in parts.holders(names)]
    arrays = arrays or [span.value for span in json_spans(parts.text)]
    read = [[_item(item) for item in array] for array in arrays if isinstance(array, list)]
    whole = [[text.strip() for text in texts if text and text.strip()] for texts in read]
    return next((texts for texts in reversed(whole) if texts), None) or _numbered(parts.prose)


def _item(item: Any) -> str | None:
    if isinstance(item, dict):
        item = next((item[key] for key in ("prompt", "instruction", "text") if key in item), None)
    return item if isinstance(item, str) else None


def _numbered(text: str) -> list[str]:
    """The items of the list 1, 2, 3, ... in `text`; an item may go on over several lines. A number that does
    not follow on belongs to the item it stands in."""
    starts: list[re.Match[str]] = []
    for match in _ITEM.finditer(text):
        if int(match["number"]) == len(starts) + 1:
            starts.append(match)
    if not starts:
        return []
    # What follows the last item after a blank line is a closing remark, as far as anyone can tell.
    blank = text.find("\n\n", starts[-1].end())
    ends = [*(match.start() for match in starts[1:]), len(text) if blank < 0 else blank]
    items = (
        text[start.end() : end].strip().strip("*").strip() for start, end in zip(starts, ends, strict=True)
    )
    return [item for item in items if item]
