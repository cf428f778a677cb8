"""Prompt templates: a jinja2 text with a block for each message, rendered in a sandbox.

    {% block system %}You are a fair judge.{% endblock %}
    {% block user %}{{ response | fence("response") }}{% endblock %}

Blocks are named system, user or assistant (with a suffix where one comes twice: user_2) and become messages
in the order of the file. Values are data: what stands in them is never read as template code, and `fence`
marks where a text that we did not write begins and ends.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

from jinja2 import FunctionLoader, StrictUndefined, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from synthpref.core.types import Message

_BLOCK = re.compile(r"{%-?\s*block\s+((?:system|user|assistant)(?:_\w+)?)\b")
_FENCE = re.compile(
    r"<<(?P<label>[^<>\n]+) (?P<tag>[0-9a-f]{16})>>\n(?P<text>.*?)\n<</(?P=label) (?P=tag)>>", re.S
)
_PARSER = ImmutableSandboxedEnvironment()


def fence(text: str, label: str) -> str:
    """`text` between marks that it cannot forge: their tag is a hash of the text itself.

    To hold its own closing mark a text would have to be found by trying: of 64 bits, not of the 32 that a
    single machine goes through in an hour.
    """
    tag = hashlib.sha256(f"{label}\n{text}".encode()).hexdigest()[:16]
    return f"<<{label} {tag}>>\n{text}\n<</{label} {tag}>>"


def fenced(prompt: str) -> list[tuple[str, str]]:
    """The (label, text) of each fence in a rendered prompt whose tag is that of its text, outermost first."""
    found = [(m["label"], m["text"], m["tag"]) for m in _FENCE.finditer(prompt)]
    return [
        (label, text) for label, text, tag in found if fence(text, label).startswith(f"<<{label} {tag}>>")
    ]


@lru_cache(maxsize=256)
def _included(text: str) -> list[str]:
    """The templates that a template names."""
    return [name for name in meta.find_referenced_templates(_PARSER.parse(text)) if name]


class Prompts:
    """The prompt templates of a run, read by name through `source`.

    `source(name)` returns a template's text, or None when there is none of that name.
    """

    def __init__(self, source: Callable[[str], str | None]) -> None:
        # Read once: a template that is edited while a run goes on is for the next start.
        self._source = cache(source)
        self._blocks = cache(lambda name: list(dict.fromkeys(_BLOCK.findall(self._source(name) or ""))))
        self._env = ImmutableSandboxedEnvironment(
            loader=FunctionLoader(self._source),
            undefined=StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._env.filters["fence"] = fence

    def text(self, name: str) -> str:
        """The template's text. Raises jinja2.TemplateNotFound."""
        self._env.get_template(name)
        return self._source(name) or ""

    def render(self, name: str, values: Mapping[str, Any]) -> list[Message]:
        """The messages of template `name`. Raises jinja2.TemplateError: not found, bad syntax, or a variable
        that is not among `values`."""
        template = self._env.get_template(name)
        blocks = self._blocks(name)
        if not blocks:
            return [{"role": "user", "content": template.render(values).strip()}]
        context = template.new_context(dict(values))
        texts = ((block, "".join(template.blocks[block](context)).strip()) for block in blocks)
        return [{"role": block.split("_")[0], "content": text} for block, text in texts if text]

    def variables(self, name: str) -> set[str]:
        """The variables that the template uses."""
        return meta.find_undeclared_variables(self._env.parse(self.text(name)))

    def digest(self, name: str) -> str:
        """A hash of the template and of all that it includes: a changed prompt is a changed call."""
        seen: dict[str, str] = {}
        todo = [name]
        while todo:
            current = todo.pop()
            if current not in seen:
                seen[current] = self.text(current)
                todo += _included(seen[current])
        return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:16]
