"""What the thread of a model that runs here does with a batch: prompts into tokens, rewards, and who gets an error."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synthpref.core.errors import BackendError
from synthpref.core.seam import Completion, Request
from synthpref.core.types import Usage
from synthpref.models import local_text as texts
from synthpref.models.local_line import Waiting
from synthpref.models.local_loaded import Loaded
from synthpref.models.local_write import Prompt, Writer
from synthpref.models.reward_json import preference

MOST_LOGITS = 2**28
"""Numbers that the probabilities of a batch of whole prompts may take: 1 GiB."""


@dataclass(frozen=True, slots=True)
class Task:
    """A request, and what its role says of how it is asked."""

    request: Request
    top_k: int | None
    template: str | None
    template_kwargs: Mapping[str, Any]


Place = Waiting[Task, list[Completion]]


class Batches:
    """The work of a line. All but the making of it happens in the line's thread."""

    def __init__(self, name: str, open: Callable[[], Loaded]) -> None:
        self.name, self._open = name, open

    def load(self) -> None:
        self.loaded = self._open()
        self.writer = Writer(self.loaded, self.name)

    def drop(self) -> None:
        """Give the memory up, if there is any."""
        torch = self.loaded.torch if hasattr(self, "loaded") else None
        with contextlib.suppress(AttributeError):
            del self.writer, self.loaded
        gc.collect()
        if torch and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def work(self, batch: Sequence[Place]) -> None:
        """Do each task of a batch, or say why it failed."""
        prompts = []
        for waiting in batch:
            try:
                prompts.append(self._prompt(waiting))
            except BackendError as error:
                waiting.failed(self._of(error))
            except Exception as error:  # noqa: BLE001
                # A template's own complaint, such as on a system message that it has no place for.
                said = f"the chat template failed: {type(error).__name__}: {error}"
                waiting.failed(self._of(BackendError("bad_request", said)))
        for part in self._parts(prompts):
            self._do(part)

    def _parts(self, prompts: list[Prompt]) -> Iterator[list[Prompt]]:
        """The prompts in parts whose probabilities fit into memory, where those of whole prompts are wanted."""
        ordered = sorted(prompts, key=lambda prompt: len(prompt.ids))
        part: list[Prompt] = []
        for prompt in ordered:
            reads = prompt.request.prompt_logprobs is not None
            if reads and part and (len(part) + 1) * len(prompt.ids) * self.loaded.vocabulary > MOST_LOGITS:
                yield part
                part = []
            part.append(prompt)
        if part:
            yield part

    def _do(self, prompts: list[Prompt]) -> None:
        loaded, torch = self.loaded, self.loaded.torch
        reads = prompts[0].how is not None
        try:
            with torch.inference_mode():
                made = self.writer.completions(prompts) if reads else self._rewards(prompts)
        except (torch.OutOfMemoryError, MemoryError):
            fix = "lower max_tokens or n, set dtype: bfloat16, or choose a smaller model or device: cpu"
            longest = max(len(prompt.ids) for prompt in prompts)
            said = BackendError("bad_request", f"out of memory at {longest} tokens of prompt; {fix}")
        except BackendError as error:
            said = error
        except Exception as error:  # noqa: BLE001
            said = BackendError("bad_request", f"{type(error).__name__}: {error}")
        else:
            for prompt, answers in zip(prompts, made, strict=True):
                prompt.waiting.done(answers)
            return
        if len(prompts) > 1:
            # In parts it may fit, and a prompt that cannot be done costs no other its answer.
            if loaded.device.type == "cuda":
                torch.cuda.empty_cache()
            self._do(prompts[: len(prompts) // 2])
            self._do(prompts[len(prompts) // 2 :])
        else:
            prompts[0].waiting.failed(self._of(said))

    def _prompt(self, waiting: Place) -> Prompt:
        task, tokens = waiting.task, self.loaded.tokenizer
        request, types = task.request, None
        messages = [dict(message) for message in request.messages]
        if task.template is None and tokens.chat_template is None:
            if request.kind == "chat":
                raise BackendError("unsupported", "the model has no chat template; give the role one")
            # A classifier of two texts, as the first reward models were.
            *before, answer = (message["content"] for message in messages)
            if request.kind == "compare":
                *before, first = before
                answer = f"{first}{tokens.sep_token or ''}{answer}"
            pair = tokens("\n\n".join(before), answer, verbose=False)
            ids, types = pair["input_ids"], pair.get("token_type_ids")
        else:
            given = texts.template_arguments(request, task.template_kwargs)
            text = tokens.apply_chat_template(messages, chat_template=task.template, tokenize=False, **given)
            # Too long a prompt is our own error below, and no warning.
            ids = tokens(text, add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) > self.loaded.context:
            raise BackendError(
                "context_length",
                f"the prompt has {len(ids)} tokens, and the model reads {self.loaded.context}",
            )
        if request.kind != "chat":
            return Prompt(waiting, request, ids, types=types)
        how = texts.sampling(request, task.top_k, self.loaded.usual, self.loaded.context - len(ids))
        return Prompt(waiting, request, ids, how, begun=text.rstrip().endswith(texts.THOUGHT))

    def _rewards(self, prompts: list[Prompt]) -> list[list[Completion]]:
        loaded = self.loaded
        longest = max(len(prompt.ids) for prompt in prompts)
        # Padding stands at the right, where encoders and decoders pass over it, and is never what a prompt ends with:
        # the score is read at the last token that is no padding.
        last = {prompt.ids[-1] for prompt in prompts}
        filler = next(i for i in (loaded.filler, *range(loaded.vocabulary)) if i not in last)
        loaded.model.config.pad_token_id = filler
        rows = [prompt.ids + [filler] * (longest - len(prompt.ids)) for prompt in prompts]
        mask = [[1] * len(prompt.ids) + [0] * (longest - len(prompt.ids)) for prompt in prompts]
        given = {"input_ids": loaded.tensor(rows), "attention_mask": loaded.tensor(mask)}
        if "token_type_ids" in loaded.takes and all(prompt.types is not None for prompt in prompts):
            kinds = [(p.types or []) + [0] * (longest - len(p.ids)) for p in prompts]
            given["token_type_ids"] = loaded.tensor(kinds)
        made = []
        for prompt, heads in zip(prompts, loaded.heads(loaded.model(**given)), strict=True):
            values = preference(heads) if prompt.request.kind == "compare" else heads
            made.append([Completion(values=values, usage=Usage(len(prompt.ids), 0), model=self.name)])
        return made

    def _of(self, error: BackendError) -> BackendError:
        return BackendError(error.kind, f"{self.name}: {error}")
