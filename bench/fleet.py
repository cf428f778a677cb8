"""How long a run takes on a cluster, as a discrete-event simulation in two steps.

`pace` follows one engine sequence by sequence: continuous batching, log-normal lengths, scoring on the same device, and
the tail in which the batch runs empty. `segment` follows the shards of a run over all engines: each pulls the next
shard, some are slower than others, and nodes fail. Nothing is measured here, and every draw has a seed.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass

HOUR = 3600.0
STEP_FLOOR = 0.5
"""Share of a full decode step that a step for one sequence takes too: the weights are read all the same."""
TRIAL_BATCHES = 60
"""Full batches that `pace` follows: enough that the middle of it is steady."""


@dataclass(frozen=True)
class Engine:
    """An engine, and the devices that are its own. Rates are of a full batch."""

    name: str
    gpus: int
    decode_tokens_s: float
    prefill_tokens_s: float
    score_tokens_s: float
    """Of the reward model, on the same devices."""
    batch: int = 256


@dataclass(frozen=True)
class Work:
    """What is asked for: `rows` prompts, `n` answers each, all of them scored."""

    rows: int
    n: int
    prompt_tokens: int
    answer_tokens: int
    """The mean."""
    max_tokens: int
    sigma: float

    @property
    def samples(self) -> int:
        return self.rows * self.n


@dataclass(frozen=True)
class Cluster:
    engines: int
    per_node: int
    """Engines that fail together."""
    mtbf_h: float
    """Mean hours between two failures of one node."""
    replace_s: float
    """Until another node stands in for one that failed."""
    start_s: float
    """Until an engine has loaded its model."""
    spread: float
    """Sigma of how fast engines are, against each other."""


@dataclass(frozen=True)
class Pace:
    """How fast one engine does rows, and what each shard costs it besides."""

    rows_s: float
    ends_s: float
    """Seconds of a shard beyond its rows at that rate: the batch fills up, and runs empty."""


@dataclass(frozen=True)
class Segment:
    wall_s: float
    busy_s: float
    """Engine seconds spent on shards, also on what was lost."""
    failures: int
    lost_rows: float
    """Rows' worth of calls that were in flight when a node failed, and are made again."""


def pace(engine: Engine, work: Work, seed: int = 0) -> Pace:
    """Follow one engine through some thousand sequences."""
    luck = random.Random(f"pace|{seed}")
    count = TRIAL_BATCHES * engine.batch // work.n * work.n
    mean = -(work.sigma**2) / 2
    waiting = deque(
        min(work.max_tokens, max(1.0, work.answer_tokens * luck.lognormvariate(mean, work.sigma)))
        for _ in range(count)
    )
    full_step = engine.batch / engine.decode_tokens_s
    clock = made = 0.0  # made: tokens that each running sequence has been given since the beginning
    running: list[tuple[float, float]] = []
    ended: list[float] = []
    started = 0

    def admit() -> None:
        nonlocal started, clock
        while waiting and len(running) < engine.batch:
            tokens = waiting.popleft()
            if started % work.n == 0:  # the answers of a row share its prompt
                clock += work.prompt_tokens / engine.prefill_tokens_s
            started += 1
            heapq.heappush(running, (made + tokens, tokens))

    admit()
    while running:
        due, tokens = heapq.heappop(running)
        step = full_step * (STEP_FLOOR + (1 - STEP_FLOOR) * (len(running) + 1) / engine.batch)
        clock += (due - made) * step + (work.prompt_tokens + tokens) / engine.score_tokens_s
        made = due
        ended.append(clock)
        admit()
    first, last = count // 4, count * 3 // 4
    rate = (last - first) / (ended[last] - ended[first]) / work.n
    return Pace(rate, max(0.0, clock - count / work.n / rate))


def segment(
    cluster: Cluster, speed: Pace, rows: int, shards: int, *, in_flight: float, read_s: float, seed: int = 0
) -> Segment:
    """Follow `shards` equal parts of `rows` over the engines until the last of them is through.

    A shard passes over the whole source (`read_s` for each of its rows), but keeps its own; one that goes on
    elsewhere passes over what is done without waiting for a model, and makes the calls that were in flight again
    (`in_flight`: so many rows' worth).
    """
    luck = random.Random(f"segment|{seed}")
    part = rows / shards
    rate = min(speed.rows_s, 1 / (read_s * shards)) if read_s else speed.rows_s
    pace_of = [luck.lognormvariate(0, cluster.spread) for _ in range(cluster.engines)]
    queue = deque((part, 0.0) for _ in range(shards))  # (rows to do, seconds to pass over what is done)
    holds: dict[
        int, tuple[float, float, float]
    ] = {}  # engine -> (since, rows to do, seconds before the first)
    version = [0] * cluster.engines
    idle: set[int] = set()
    events: list[tuple[float, str, int, int]] = []
    nodes = -(-cluster.engines // cluster.per_node)
    for engine in range(cluster.engines):
        heapq.heappush(events, (cluster.start_s, "free", engine, 0))
    for node in range(nodes):
        heapq.heappush(events, (luck.expovariate(1 / (cluster.mtbf_h * HOUR)), "fail", node, 0))
    left, busy, failures, lost = shards, 0.0, 0, 0.0

    def take(engine: int, now: float) -> None:
        if not queue:
            idle.add(engine)
            return
        todo, before = queue.popleft()
        holds[engine] = now, todo, before + speed.ends_s / pace_of[engine]
        until = now + holds[engine][2] + todo / (rate * pace_of[engine])
        heapq.heappush(events, (until, "done", engine, version[engine]))

    while True:
        now, what, who, at = heapq.heappop(events)
        if what == "fail":
            failures += 1
            heapq.heappush(events, (now + luck.expovariate(1 / (cluster.mtbf_h * HOUR)), "fail", who, 0))
            for engine in range(who * cluster.per_node, min((who + 1) * cluster.per_node, cluster.engines)):
                version[engine] += 1
                idle.discard(engine)
                if engine in holds:
                    since, todo, before = holds.pop(engine)
                    busy += now - since
                    done = min(todo, max(0.0, now - since - before) * rate * pace_of[engine])
                    again = min(in_flight, todo)
                    lost += again
                    over = (part - todo + done) * shards * read_s
                    queue.appendleft((min(part, todo - done + again / 2), over))
                up = now + cluster.replace_s + cluster.start_s
                heapq.heappush(events, (up, "free", engine, version[engine]))
            for engine in sorted(idle)[: len(queue)]:
                idle.discard(engine)
                take(engine, now)
        elif at == version[who]:
            if what == "done":
                since, *_ = holds.pop(who)
                busy += now - since
                left -= 1
                if not left:
                    return Segment(now, busy, failures, lost)
            take(who, now)
