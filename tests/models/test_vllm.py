"""What the vLLM backends know and decide without vLLM: names, keys, devices, sampling, replies, and an engine's life.
What an engine answers is in tests/vllm_group."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace as Thing
from typing import Any

import pytest
from pydantic import ValidationError

from synthpref.core.errors import BackendError
from synthpref.core.seam import Request, TokenLogprob
from synthpref.core.types import Usage
from synthpref.models import vllm_args as arguments
from synthpref.models import vllm_places as places
from synthpref.models import vllm_read as read
from synthpref.models.limit import Fixed
from synthpref.models.limiter import Limiter
from synthpref.models.local_text import template_arguments
from synthpref.models.vllm import VLLM
from synthpref.models.vllm_engine import QUIET_S, Engine, family
from synthpref.models.vllm_memory import advice
from synthpref.models.vllm_serve import Server, VLLMServe, flags, free_ports
from synthpref.models.wire import LEAST

USER = ({"role": "user", "content": "hello"},)
BEGUN = (*USER, {"role": "assistant", "content": "Well"})


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an engine that died leaves to be read is not left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM of three fields, of which only the source is looked at."""
    engine = (
        "class EngineArgs:\n    model: str\n    max_model_len: int = 1\n    tensor_parallel_size: int = 1\n"
    )
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine/arg_utils.py").write_text(engine + "class Other:\n    odd: int\n", encoding="utf-8")
    (tmp_path / "sampling_params.py").write_text(
        "class SamplingParams:\n    top_k: int = 0\n", encoding="utf-8"
    )
    found = Thing(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(arguments, "find_spec", lambda name: found)
    arguments.declared.cache_clear()
    yield
    arguments.declared.cache_clear()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", [VLLM, VLLMServe])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"engine": {"max_model_length": 9}},
            "no engine argument 'max_model_length'; did you mean 'max_model_len'?",
        ),
        ({"engine": {"zzzz": 9}}, "no engine argument 'zzzz'; see vLLM's documentation"),
        ({"engine": {"model": "m"}}, "the role's own field `model`"),
        ({"engine": {"hf_token": "t"}}, "set HF_TOKEN in the environment"),
        ({"sampling": {"topk": 9}}, "did you mean 'top_k'?"),
        ({"sampling": {"temperature": 1}}, "it is the role's own field"),
        ({"sampling": {"top_k": 1}, "serves": "reward"}, "are for chat"),
    ],
)
def test_what_vllm_does_not_have_is_found_before_it_starts(
    kind: type[VLLM], fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        kind(model="m", **fields)
    assert said in str(caught.value)
    kind(model="m", engine={"tensor_parallel_size": 2}, sampling={"top_k": 5})


def test_where_vllm_is_not_installed_any_name_may_be_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    arguments.declared.cache_clear()
    VLLM(model="m", engine={"whatever": 1}, sampling={"ever": 2})
    arguments.declared.cache_clear()


def test_without_the_package_a_run_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synthpref.models.vllm.find_spec", lambda name: None)
    monkeypatch.setattr("synthpref.models.vllm_serve.find_spec", lambda name: None)
    for kind in (VLLM, VLLMServe):
        with pytest.raises(BackendError, match=r"synthpref\[vllm\]") as caught:
            kind(model="m").open({})
        assert caught.value.kind == "unsupported"


def test_what_a_role_can_do() -> None:
    chat = {"chat", "n", "logprobs", "prompt_logprobs", "prefill"}
    assert VLLM(model="m").able() == {*chat, "json_schema"}
    assert VLLM(model="m", structured_output=False).able() == chat
    assert VLLM(model="m", serves="reward").able() == {"reward"}
    assert VLLM(model="m", serves="embeddings").able() == {"embed"}


def test_the_key_holds_what_can_change_an_answer(tmp_path: Path) -> None:
    usual = VLLM(model="m").identity()
    assert VLLMServe(model="m").identity() == usual, "a server between them changes nothing"
    fast = {"tensor_parallel_size": 2, "max_num_seqs": 9, "load_format": "safetensors"}
    assert VLLM(model="m", engines=4, engine=fast).identity() == usual
    changes: list[dict[str, Any]] = [
        {"engine": {"quantization": "fp8"}}, {"engine": {"max_model_len": 9}}, {"sampling": {"top_k": 4}},
        {"lora": "an/adapter"}, {"chat_template": "{{ x }}"}, {"chat_template_kwargs": {"enable_thinking": False}},
        {"reasoning_parser": "qwen3"}, {"serves": "reward"}, {"structured_output": False},
        {"engine": {"load_format": "dummy"}},
    ]  # fmt: skip
    changed = [str(VLLM(model="m", **change).identity()) for change in changes]
    assert len({str(usual), *changed}) == 1 + len(changes)
    file = tmp_path / "chat.jinja"
    file.write_text("{{ x }}", encoding="utf-8")
    assert (
        VLLM(model="m", chat_template=str(file)).identity()
        == VLLM(model="m", chat_template="{{ x }}").identity()
    )
    with pytest.raises(ValidationError, match="cannot be read"):
        VLLM(model="m", chat_template=str(tmp_path / "none.jinja"))


def test_what_an_engine_is_started_with() -> None:
    spec = VLLM(model="m", engine={"dtype": "bfloat16"}, lora="an/adapter", reasoning_parser="qwen3")
    assert spec.start_arguments() == {
        "model": "m", "dtype": "bfloat16", "enable_lora": True, "reasoning_parser": "qwen3", "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }  # fmt: skip
    assert VLLM(model="m", serves="reward").start_arguments()["runner"] == "pooling"
    assert flags({"a_b": True, "c": False, "d": None, "e": 1.5, "f": {"g": 1}, "h": [1, 2]}) == [
        "--a-b", "--no-c", "--e", "1.5", "--f", '{"g": 1}', "--h", "1", "2",
    ]  # fmt: skip
    assert len(set(free_ports(3))) == 3


def test_each_engine_gets_devices_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = VLLM(model="m", engines=2, engine={"tensor_parallel_size": 2})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,GPU-a,GPU-b,7")
    assert places.of(spec) == [("m (1)", "4,5"), ("m (2)", "GPU-a,GPU-b")]
    assert places.of(VLLM(model="m")) == [("m", None)], "one engine takes what the environment leaves"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(BackendError, match="2 x 2 devices are asked for, and there are 3"):
        places.of(spec)
    assert places.visible_devices(None, 2) == ["0", "1"]


def folder(path: Path, rank: int = 8, weights: bytes = b"w") -> str:
    """An adapter, as far as it is looked at."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"r": rank}), encoding="utf-8")
    (path / "adapter_model.safetensors").write_bytes(weights)
    return str(path)


def test_adapters_have_names_and_share_an_engine(tmp_path: Path) -> None:
    loras = {"polite": folder(tmp_path / "a", 8), "terse": folder(tmp_path / "b", 33), "far": "some/adapter"}
    roles = [VLLM(model="m", loras=loras, lora=name) for name in (None, "polite", "terse", "far")]
    started = [role.start_arguments() for role in roles]
    assert all(one == started[0] for one in started)
    assert (started[0]["max_loras"], started[0]["max_lora_rank"]) == (3, 64)
    assert len({str(role.identity()) for role in roles}) == 4
    assert roles[0].identity() == VLLM(model="m").identity(), "which others there are changes nothing"
    assert roles[1].identity() == VLLM(model="m", lora=loras["polite"]).identity(), "nor does the name"
    served = VLLMServe(model="m", loras=loras, lora="terse")
    words = served._words({}, None)
    assert words == ["--lora-modules", *(f"{name}={path}" for name, path in loras.items())]
    assert served._wire((1,)).model == "terse"
    with pytest.raises(ValidationError, match="no 'polit' in loras; did you mean 'polite'"):
        VLLM(model="m", loras=loras, lora="polit")


def test_an_adapter_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    here, there = folder(tmp_path / "a"), folder(tmp_path / "b/c")
    first = VLLM(model="m", lora=here).identity()
    assert VLLM(model="m", lora=there).identity() == first, "it was only moved"
    folder(tmp_path / "a", weights=b"trained")
    assert VLLM(model="m", lora=here).identity() != first
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ValidationError, match="is no folder with an adapter"):
            VLLM(model="m", loras={"a": str(path)})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ([{}, {}], ""),
        (
            [{}, {"model": "n"}],
            "device 0 is to give 1.84 of its memory at a time (models.r0 0.92, models.r1 0.92)",
        ),
        (
            [
                {"engine": {"gpu_memory_utilization": 0.5}},
                {"model": "n", "engine": {"gpu_memory_utilization": 0.5}},
            ],
            "",
        ),
        ([{"devices": ["0"]}, {"model": "n", "devices": ["1"]}], ""),
        ([{"engines": 2}, {"model": "n", "devices": ["1"]}], "device 1 is to give 1.84"),
        ([{"placement": "in_turn"}, {"model": "n", "placement": "in_turn"}], ""),
        ([{"placement": "in_turn"}, {"model": "n"}], "device 0 is to give"),
        ([{"placement": "in_turn"}, {}], "on one engine with models.r0, whose placement is in_turn"),
    ],
)
def test_models_that_do_not_fit_together_are_found_before_they_start(
    monkeypatch: pytest.MonkeyPatch, fields: list[Any], said: str
) -> None:
    monkeypatch.setattr(arguments, "on_cpu", lambda: False)
    roles = {f"r{i}": VLLM(**{"model": "m", **one}) for i, one in enumerate(fields)}
    found = VLLM.beside(roles)
    assert [said in str(problem) for problem in found] == ([True] if said else []), found
    assert VLLM.beside is VLLMServe.beside, "both are looked at together"
    monkeypatch.setattr(arguments, "on_cpu", lambda: True)
    assert len(VLLM.beside(roles)) == (1 if "on one engine" in said else 0)


@pytest.mark.parametrize("field", [{"chat_template": "{{ 1 }}"}, {"lora": "an/adapter"}], ids=str)
def test_servers_of_one_model_that_are_started_differently_are_two(
    monkeypatch: pytest.MonkeyPatch, field: dict[str, Any]
) -> None:
    monkeypatch.setattr(arguments, "on_cpu", lambda: False)
    lora = {"lora": "another/adapter"} if "lora" in field else {}
    roles = {"one": VLLMServe(model="m", **field), "two": VLLMServe(model="m", **lora)}
    assert ["is to give 1.84" in str(problem) for problem in VLLM.beside(roles)] == [True]
    in_turn = {"one": VLLMServe(model="m", placement="in_turn", **field), "two": roles["two"]}
    assert ["is to give 1.84" in str(problem) for problem in VLLM.beside(in_turn)] == [True]
    same = {role: VLLMServe(model="m", **field) for role in roles}
    assert VLLM.beside(same) == []


@pytest.mark.parametrize(
    ("setting", "device", "crowded"),
    [("2,3", "2", True), ("2,3", "3", False), ("0", "3", False), ("", "0", True)],
)
def test_a_device_is_the_same_one_by_its_name_and_by_its_place(
    monkeypatch: pytest.MonkeyPatch, setting: str, device: str, crowded: bool
) -> None:
    monkeypatch.setattr(arguments, "on_cpu", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    found = VLLM.beside({"named": VLLM(model="m", devices=(device,)), "first": VLLM(model="n")})
    assert [f"device {device} is to give 1.84" in str(problem) for problem in found] == [True] * crowded


# ---- requests and replies


def test_the_template_is_told_whether_to_answer_or_to_go_on() -> None:
    def told(request: Request) -> tuple[bool, bool]:
        given = template_arguments(request, {"enable_thinking": False})
        assert given["enable_thinking"] is False
        return given["add_generation_prompt"], given["continue_final_message"]

    assert told(Request(messages=USER)) == (True, False)
    assert told(Request(messages=BEGUN)) == (False, True)
    assert told(Request(messages=BEGUN, kind="reward")) == (False, False)


def test_sampling_is_the_requests_else_the_roles_else_the_models() -> None:
    usual = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "max_tokens": 50}
    request = Request(messages=USER, n=3, temperature=1.0, seed=5, stop=("x",), logprobs=2, prompt_logprobs=0)
    assert read.sampling(request, {"top_k": 5}, usual, 100) == {
        "temperature": 1.0, "top_p": 0.9, "top_k": 5, "max_tokens": 50, "stop": ["x"], "n": 3, "seed": 5, "logprobs": 2,
        "prompt_logprobs": 0,
    }  # fmt: skip
    assert read.sampling(Request(messages=USER, max_tokens=90), {}, {}, 70)["max_tokens"] == 70
    assert read.sampling(Request(messages=USER), {}, {}, 70)["max_tokens"] == 70
    assert read.sampling(Request(messages=USER, n=4, temperature=0), {}, {}, 9)["n"] == 1
    with pytest.raises(BackendError) as caught:
        read.sampling(Request(messages=USER), {}, {}, 0)
    assert caught.value.kind == "context_length"


def test_structured_output_as_vllm_names_it() -> None:
    schema = {"type": "object"}
    assert read.structured(None) is None
    assert read.structured({"type": "text"}) is None
    assert read.structured({"type": "json_object"}) == {"json_object": True}
    assert read.structured({"type": "json_schema", "json_schema": {"schema": schema}}) == {"json": schema}
    with pytest.raises(BackendError, match="no response_format 'poem'"):
        read.structured({"type": "poem"})


def choice(text: str, **fields: Any) -> Any:
    usual = {"text": text, "token_ids": [1, 2], "finish_reason": "stop", "logprobs": None}
    return Thing(**{**usual, **fields})


def entry(token: str | None, logprob: float, rank: int) -> Any:
    return Thing(decoded_token=token, logprob=logprob, rank=rank)


@pytest.mark.parametrize("asked", [{"logprobs": 20}, {"prompt_logprobs": 0}])
def test_a_model_that_overflows_has_no_probabilities(asked: dict[str, int]) -> None:
    tokens = [{1: entry("yes", math.nan, 1), 2: entry("no", math.nan, 1)}]
    output = Thing(
        outputs=[choice("yes", logprobs=tokens)], prompt_token_ids=[1], prompt_logprobs=[None, *tokens]
    )
    with pytest.raises(ValueError, match="gave no numbers"):
        read.completions(output, Request(messages=USER, **asked), "m")  # type: ignore[arg-type]


def test_a_finished_output_becomes_completions() -> None:
    unlikely = {3: entry("x", float("-inf"), 90), 1: entry("a", -0.1, 1), 2: entry(None, -2.5, 2)}
    output = Thing(
        outputs=[choice("one", logprobs=[unlikely]), choice("two", finish_reason="length")],
        prompt_token_ids=[1, 2, 3], prompt_logprobs=[None, {1: entry("a", -0.1, 1)}],
    )  # fmt: skip
    request = Request(messages=USER, n=2, seed=7, logprobs=2, prompt_logprobs=0)
    first, second = read.completions(output, request, "m")
    assert (first.text, first.finish_reason, first.seed, first.model) == ("one", "stop", 7, "m")
    assert (second.text, second.finish_reason, second.seed) == ("two", "length", 8)
    assert first.logprobs == (TokenLogprob("x", LEAST, (("a", -0.1), ("", -2.5))),)
    assert first.prompt_logprobs == (None, TokenLogprob("a", -0.1))
    assert second.prompt_logprobs is None
    assert (first.usage, second.usage) == (Usage(3, 4), None)


def test_reasoning_is_split_from_the_answer_and_may_be_all_there_is() -> None:
    output = Thing(outputs=[choice("so|yes"), choice("so")], prompt_token_ids=[1], prompt_logprobs=None)

    def split(text: str) -> tuple[str | None, str | None]:
        reasoning, bar, answer = text.partition("|")
        return reasoning, answer if bar else None

    made = read.completions(output, Request(messages=USER, n=2), "m", split)
    assert [(c.reasoning, c.text) for c in made] == [("so", "yes"), ("so", "")]


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_engine_gave_up_is_none(reason: str) -> None:
    output = Thing(outputs=[choice("half", finish_reason=reason)], prompt_token_ids=[1], prompt_logprobs=None)
    with pytest.raises(BackendError) as caught:
        read.completions(output, Request(messages=USER), "m")
    assert caught.value.kind == "transient"


def test_heads_are_named_as_on_the_wire() -> None:
    said = {"role": "assistant", "content": "So."}
    asked, two = Request(messages=(said,), kind="reward"), Request(messages=(said, said), kind="compare")
    assert read.heads([0.5], None, asked, 9, "m")[0].values == {"reward": 0.5}
    assert read.heads([0.5, -1], None, asked, 9, "m")[0].values == {"head_0": 0.5, "head_1": -1.0}
    named = read.heads([0.5, -1], {"0": "kind", "1": "LABEL_1"}, asked, 9, "m")[0]
    assert named.values == {"kind": 0.5, "head_1": -1.0}
    assert read.heads([0.5, -1], {0: "a", 1: "b"}, two, 9, "m")[0].values == {"reward": 1.5}
    (made,) = read.vector([1, 0.5], 9, "m")
    assert (made.vector, made.usage) == ((1.0, 0.5), Usage(9, 0))


# ---- the line before an engine


def test_places_are_taken_by_answers_and_the_last_call_may_go_over() -> None:
    async def go() -> list[float]:
        limiter = Limiter(Fixed(10))
        seen, release = list[float](), asyncio.Event()

        async def call(n: int) -> None:
            place = limiter.slot(0, lambda: 0.0)
            place.weight = n
            async with place:
                seen.append(limiter.limit.in_flight)
                await release.wait()

        calls = [asyncio.create_task(call(4)) for _ in range(6)]
        await asyncio.sleep(0)
        assert seen == [4, 8, 12]
        limiter.limit.most = 14
        release.set()
        await asyncio.gather(*calls)
        assert limiter.limit.in_flight == 0
        return seen

    assert len(asyncio.run(go())) == 6


# ---- the life of an engine


@dataclass
class Launches:
    """Starts engines that are only counted."""

    errors: list[Exception] = field(default_factory=list)
    log: str = ""
    made: list[Any] = field(default_factory=list)
    ended: list[Any] = field(default_factory=list)

    slow: bool = False
    """Whether a start takes until it is given up."""

    def __call__(self, path: Path, given_up: threading.Event) -> Any:
        if self.slow:
            assert given_up.wait(60)
            raise RuntimeError("given up")
        with path.open("a", encoding="utf-8") as file:
            file.write(self.log)
        if self.errors:
            raise self.errors.pop()
        one = Thing(number=len(self.made))
        one.shutdown = lambda timeout: self.ended.append(one)
        self.made.append(one)
        return one, {}


def live(launches: Launches, story: Callable[[Engine], Any], **fields: Any) -> Any:
    async def go() -> Any:
        engine = Engine("m", launches, **fields).use()
        try:
            return await story(engine)
        finally:
            await engine.aclose()

    return asyncio.run(go())


def test_an_engine_is_started_once_for_all_and_ended_with_the_last() -> None:
    launches = Launches()

    async def story(engine: Engine) -> None:
        engine.use()
        first, *others = await asyncio.gather(*(engine.ready() for _ in range(5)))
        assert all(one is first for one in others)
        await engine.aclose()
        assert launches.ended == []

    live(launches, story)
    assert len(launches.made) == len(launches.ended) == 1


def test_an_engine_that_nobody_asked_is_not_started() -> None:
    launches = Launches()

    async def story(engine: Engine) -> None:
        pass

    live(launches, story)
    assert launches.made == []


def test_an_engine_that_dies_is_started_again_once() -> None:
    launches, now = Launches(), [0.0]

    async def story(engine: Engine) -> None:
        first = await engine.ready()
        await asyncio.gather(*(engine.died(first, RuntimeError("dead")) for _ in range(3)))
        second = await engine.ready()
        assert second is not first
        await engine.died(first, RuntimeError("late to hear"))
        assert await engine.ready() is second
        now[0] = QUIET_S - 1
        with pytest.raises(BackendError, match="died again: RuntimeError: dead") as caught:
            await engine.died(second, RuntimeError("dead"))
        assert caught.value.kind == "unsupported"
        now[0] = QUIET_S + 1
        await engine.died(second, RuntimeError("dead"))
        assert await engine.ready() is launches.made[2]

    live(launches, story, clock=lambda: now[0])
    assert launches.ended == launches.made


class Sleepy:
    """An engine that can sleep; or says that it does, and fails."""

    def __init__(self, ended: list[Any], fails: str = "") -> None:
        self.ended, self.fails, self.said = ended, fails, list[str]()

    async def sleep(self, level: int) -> None:
        self.said.append(f"sleep {level}")
        if self.fails == "sleep":
            raise RuntimeError("no sleep")

    async def wake_up(self) -> None:
        self.said.append("wake up")
        if self.fails == "wake up":
            raise RuntimeError("dead asleep")

    def shutdown(self, timeout: float) -> None:
        self.ended.append(self)


@pytest.mark.parametrize("fails", ["", "sleep", "wake up"])
@pytest.mark.parametrize("sleeps", [True, False])
def test_an_engine_at_rest_sleeps_where_it_can_and_else_ends(sleeps: bool, fails: str) -> None:
    made, ended = list[Any](), list[Any]()

    def launch(path: Path, given_up: threading.Event) -> Any:
        assert len(ended) == len(made), "none is beside another"
        made.append(Sleepy(ended, fails))
        return made[-1], {}

    async def story(engine: Engine) -> None:
        await engine.rest()
        assert made == [], "nobody had asked it"
        first = await engine.ready()
        await engine.rest()
        assert ended == ([] if sleeps and fails != "sleep" else [first])
        second = await engine.ready()
        assert (second is first) == (sleeps and not fails)
        await engine.rest()

    live(launch, story, sleeps=sleeps)  # type: ignore[arg-type]
    assert ended == made, "one that sleeps at the end of the run is ended too"
    said = [] if not sleeps else ["sleep 1"] if fails == "sleep" else ["sleep 1", "wake up", "sleep 1"]
    assert made[0].said == (said[:2] if fails == "wake up" else said)


def test_an_engine_that_did_not_start_rests_already() -> None:
    launches = Launches(errors=[RuntimeError("too little memory")])

    async def story(engine: Engine) -> None:
        with pytest.raises(BackendError, match="did not start"):
            await engine.ready()
        await engine.rest()
        with pytest.raises(BackendError, match="did not start"):
            await engine.ready()

    live(launches, story)
    assert launches.made == []


def test_an_engine_that_takes_turns_can_sleep_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "on_cpu", lambda: False)
    spec = VLLM(model="m", placement="in_turn", block=9)
    assert spec.start_arguments()["enable_sleep_mode"] is True
    assert (spec.gathers(), spec.turn()) == (9, "vllm m")
    assert "enable_sleep_mode" not in VLLMServe(model="m", placement="in_turn").start_arguments()
    assert "enable_sleep_mode" not in VLLM(model="m").start_arguments()
    assert (VLLM(model="m").gathers(), VLLM(model="m").turn()) == (0, "")
    left = VLLM(model="m", placement="in_turn", engine={"enable_sleep_mode": False})
    assert left.start_arguments()["enable_sleep_mode"] is False


def test_on_a_cpu_an_engine_with_adapters_reads_no_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    for on_cpu in (True, False):
        monkeypatch.setattr(arguments, "on_cpu", lambda on_cpu=on_cpu: on_cpu)
        assert ("prompt_logprobs" in VLLM(model="m", loras={"a": "an/adapter"}).able()) == (not on_cpu)
        assert "prompt_logprobs" in VLLM(model="m").able()


def test_while_the_run_stops_no_engine_is_started_again() -> None:
    launches = Launches()

    async def story(engine: Engine) -> None:
        first = await engine.ready()
        assert engine._stop
        engine._stop.set()
        with pytest.raises(BackendError) as caught:
            await engine.died(first, RuntimeError("dead"))
        assert caught.value.kind == "rate_limit", "for which rows are left for the next start"

    live(launches, story, stop=asyncio.Event())
    assert len(launches.made) == 1


def test_a_run_that_stops_does_not_wait_until_an_engine_is_up() -> None:
    launches = Launches(slow=True)

    async def story(engine: Engine) -> None:
        waits = asyncio.create_task(engine.ready())
        await asyncio.sleep(0)
        assert engine._stop
        engine._stop.set()
        with pytest.raises(BackendError) as caught:
            await waits
        assert caught.value.kind == "rate_limit", "for which rows are left for the next start"

    live(launches, story, stop=asyncio.Event())
    assert launches.made == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not say")
def test_the_family_of_a_process_is_all_that_it_started() -> None:
    import subprocess
    import sys

    child = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen(
        [sys.executable, "-c", child], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        assert process.stdout
        grandchild = int(process.stdout.readline())
        found = family({process.pid})
        assert found.keys() == {process.pid, grandchild}
        assert all(found.values())
        process.communicate(b"\n")
    assert family({process.pid}) == {}


TRACE = "Traceback (most recent call last):\n"


@pytest.mark.parametrize(
    ("cause", "log", "said"),
    [
        ("ValueError: Free memory on device cuda:0 (9.1/79.2 GiB) on startup is less than desired GPU memory "
         "utilization (0.92, 72.9 GiB).", "", "lower engine.gpu_memory_utilization, end the other program"),
        ("ValueError: Available memory on node 0 (15/19 GiB) on kv cache allocation is less than requested", "",
         "lower engine.kv_cache_memory_bytes"),
        ("ValueError: No available memory for the cache blocks.", "", "raise engine.gpu_memory_utilization"),
        ("ValueError: To serve at least one request, (9 GiB KV cache is needed, which is larger than the available KV "
         "cache memory (1 GiB). Based on the available memory, the estimated maximum model length is 4096.", "",
         "lower engine.max_model_len to 4096 or less"),
        ("RuntimeError: CUDA out of memory occurred when warming up sampler with 256 dummy requests.", "",
         "lower engine.max_num_seqs"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.",
         f"{TRACE}in load_model\nin create_weights\nOutOfMemoryError: CUDA out of memory.\n{TRACE}in execute_model\n",
         "engine.tensor_parallel_size"),
        ("OutOfMemoryError: HIP out of memory.", f"{TRACE}in initialize\nin profile_run\nin _dummy_run\n",
         "lower engine.max_num_batched_tokens"),
        ("OutOfMemoryError: CUDA out of memory.", f"{TRACE}in compile_or_warm_up_model\nin capture_model\n",
         "engine.enforce_eager"),
        ("OutOfMemoryError: CUDA out of memory.", f"{TRACE}in load_model\n{TRACE}in _allocate_kv_cache_tensors\n",
         "leaves more beside the cache"),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.",
         f"{TRACE}in execute_model\n", "max_num_batched_tokens"),
        ("MemoryError: ", "", "take a smaller or a quantized model"),
        ("ValueError: no such thing", f"{TRACE}in load_model", ""),
    ],
)  # fmt: skip
def test_out_of_memory_says_which_argument_to_change(cause: str, log: str, said: str) -> None:
    found = advice(cause, log)
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("log", "error", "kind", "said"),
    [
        ("", OSError("m is not a model"), "not_found", "OSError: m is not a model"),
        (
            "loading\nTraceback (most recent call last):\n  File x\ntorch.OutOfMemoryError: CUDA out of memory. Tried "
            "more\nTraceback (most recent call last):\nRuntimeError: worker failed\n",
            RuntimeError("Engine core initialization failed"),
            "unsupported",
            "OutOfMemoryError: CUDA out of memory. Tried more; lower engine.max_model_len or",
        ),
        (
            "x\nTraceback (most recent call last):\n(EngineCore pid=7) ValueError: No available memory for the cache "
            "blocks.\n",
            RuntimeError("Engine core initialization failed"),
            "unsupported",
            "the weights leave no room: raise engine.gpu_memory_utilization",
        ),
    ],
)
def test_why_an_engine_does_not_start_is_said_with_what_to_change(
    log: str, error: Exception, kind: str, said: str
) -> None:
    async def story(engine: Engine) -> None:
        for _ in range(2):
            with pytest.raises(BackendError) as caught:
                await engine.ready()
            assert caught.value.kind == kind
            assert said in str(caught.value)
            assert "engine.log" in str(caught.value)

    launches = Launches(errors=[error], log=log)
    live(launches, story)
    assert launches.made == []


def test_one_who_waits_for_a_start_may_be_cancelled() -> None:
    launches = Launches()

    async def story(engine: Engine) -> None:
        waits = [asyncio.create_task(engine.ready()) for _ in range(2)]
        await asyncio.sleep(0)
        waits[0].cancel()
        assert await waits[1] is launches.made[0]

    live(launches, story)


def test_a_server_that_does_not_end_is_killed() -> None:
    import subprocess
    import sys

    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        server = Server(process)
        assert not server.gone
        server.shutdown(0.01)
        assert server.gone
