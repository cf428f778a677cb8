"""Weights and tokenizer of a model that runs here, and its tokens as texts. torch is handed in by models/local.py, which
alone loads it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from synthpref.core.seam import TokenLogprob
from synthpref.models.local_text import pieces
from synthpref.models.reward_json import head_names, named_heads
from synthpref.models.wire import LEAST, NO_NUMBERS

Others = tuple[tuple[str, float], ...]
"""Alternatives to a token, with their log-probabilities, the most probable first."""


class Loaded:
    """A model as transformers loads it, and what must be known of it. `context` is how many tokens it reads and writes,
    `filler` a token for padding, `usual` the settings of its own, `ends` the tokens that end an answer."""

    def __init__(self, torch: Any, model: Any, tokenizer: Any, device: Any) -> None:
        self.torch, self.model, self.tokenizer, self.device = torch, model, tokenizer, device
        config = model.config.get_text_config()
        limits = [getattr(config, "max_position_embeddings", None), tokenizer.model_max_length]
        self.context = int(min(limit for limit in limits if limit))
        self.vocabulary = int(config.vocab_size)
        self.takes = set(inspect.signature(model.forward).parameters)
        # Its name changed within transformers 5.
        self.cache = "cache" if "cache" in self.takes else "past_key_values"
        unpadded = tokenizer.pad_token_id is None
        self.filler = int((tokenizer.eos_token_id or 0) if unpadded else tokenizer.pad_token_id)
        own = getattr(model, "generation_config", None)
        self.usual: dict[str, Any] = own.to_diff_dict() if own is not None else {}
        ends = self.usual.get("eos_token_id")
        listed = ends if isinstance(ends, list) else [ends]
        self.ends = {int(end) for end in (*listed, tokenizer.eos_token_id) if end is not None}
        self._anchor = next(iter(tokenizer.encode("a", add_special_tokens=False)), self.filler)
        self._words: dict[int, str] = {}

    def tensor(self, values: Any) -> Any:
        return self.torch.tensor(values, device=self.device)

    def run(self, rows: Any, mask: Any, cache: Any = None, **more: Any) -> Any:
        """The model's output for rows of tokens, the last of those that the mask is for."""
        if cache is not None:
            more[self.cache] = cache
        if "position_ids" in self.takes:
            # By the tokens that are there, so that padding does not move them.
            places = (mask.cumsum(-1) - 1).clamp(min=0)
            more["position_ids"] = places[:, -rows.shape[1] :]
        return self.model(input_ids=rows, attention_mask=mask, **more)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
            )
        )

    def word(self, token: int) -> str:
        """A token as it reads within a text: some tokenizers do not show a blank that a text begins with."""
        if token not in self._words:
            first = self.decode([self._anchor])
            self._words[token] = self.decode([self._anchor, token])[len(first) :]
        return self._words[token]

    def alternatives(self, logprobs: Any, token: int, top: int) -> tuple[float, Others]:
        own = max(float(logprobs[token]), LEAST)
        if not top:
            return own, ()
        values, ids = logprobs.topk(min(top, len(logprobs)))
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return own, tuple((self.word(i), max(value, LEAST)) for i, value in pairs)

    def heads(self, output: Any) -> list[dict[str, float | None]]:
        """A grader's outputs by head, for each of a batch. One with code of its own may give `rewards` for its heads
        and a `score` made of them, as ArmoRM does (arXiv:2406.12845)."""
        names = head_names(self.model.config.id2label)
        several, total = getattr(output, "rewards", None), getattr(output, "score", None)
        if several is None:
            return [named_heads(values, names) for values in output.logits.float().tolist()]
        made = [named_heads(values, names) for values in several.float().tolist()]
        if total is None:
            return made
        totals = total.float().reshape(len(made)).tolist()
        return [{**heads, **named_heads([one])} for heads, one in zip(made, totals, strict=True)]

    def hold(self, logits: Any) -> None:
        """Raise ValueError where they make no probabilities: an infinity, or what is none, would draw any token."""
        # Of a row that holds a NaN it is the maximum.
        if not bool(logits.amax(-1).isfinite().all()):
            raise ValueError(NO_NUMBERS)

    def read(self, logits: Any, ids: list[int], top: int) -> tuple[TokenLogprob | None, ...]:
        """The prompt's tokens, each with its log-probability after those before it."""
        self.hold(logits[:-1])
        words = pieces(self.decode, ids)
        read: list[TokenLogprob | None] = [None]
        if top:
            for i, row in enumerate(logits[:-1], start=1):
                own, others = self.alternatives(row.float().log_softmax(-1), ids[i], top)
                read.append(TokenLogprob(words[i], own, others))
            return tuple(read)
        scores = logits[:-1].float()
        chosen = scores.gather(-1, self.tensor(ids[1:])[:, None])[:, 0]
        values = (chosen - scores.logsumexp(-1)).tolist()
        return (None, *(TokenLogprob(w, max(v, LEAST)) for w, v in zip(words[1:], values, strict=True)))
