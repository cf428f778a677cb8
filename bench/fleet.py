"""How long a run takes on a cluster, as a discrete-event simulation in two steps.

`pace` follows one engine sequence by sequence: continuous batching, log-normal lengths, scoring on the same device, and
the tail in which the batch runs empty. `segment` follows the shards of a run over all engines: each pulls the next
shard, some are slower than others, and nodes fail. Nothing is measured here, and every draw has a seed.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field

HOUR = 3600.0
STEP_FLOOR = 0.5
"""Share of a full decode step that a step for one sequence takes too: the weights are read all the same."""
LANES = 2
"""Shards that a worker walks at once: see synthpref/engine/shards.py."""
EPSILON = 1e-6
"""Of a row: what rounding leaves of it."""
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
    """How fast one engine does rows, and what the end costs it besides."""

    rows_s: float
    ends_s: float
    """Seconds beyond its rows at that rate: the batch fills up, and runs empty."""


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

    An engine walks LANES shards at once, or fewer where there are not so many for each, so that its batch runs empty only when there is no other. Each shard passes
    over the whole source (`read_s` for each of its rows) and keeps its own rows; one that goes on elsewhere first
    passes over what is done, and makes the calls that were in flight again (`in_flight`: an engine's, in rows).
    """
    luck = random.Random(f"segment|{seed}")
    part = rows / shards
    rate = min(speed.rows_s, 1 / (read_s * shards)) if read_s else speed.rows_s
    lanes = [Lanes(rate * luck.lognormvariate(0, cluster.spread)) for _ in range(cluster.engines)]
    at_once = min(LANES, -(-shards // cluster.engines))
    queue = deque((part, 0.0) for _ in range(shards))  # (rows to do, seconds to pass over what is done)
    events: list[tuple[float, str, int, int]] = []
    nodes = -(-cluster.engines // cluster.per_node)
    for engine in range(cluster.engines):
        heapq.heappush(events, (cluster.start_s, "look", engine, 0))

    def fails(node: int, after: float) -> None:
        when = after + luck.expovariate(1 / (cluster.mtbf_h * HOUR))
        heapq.heappush(events, (when, "fail", node, 0))

    def look(engine: int, now: float) -> None:
        """Take shards where there is room, and wake up when the next of them has changed."""
        mine = lanes[engine]
        mine.up = True
        while queue and len(mine.shards) < at_once:
            todo, over = queue.popleft()
            mine.shards.append(Shard(todo, now + over))
        mine.version += 1
        if mine.shards:
            heapq.heappush(events, (mine.next(now), "look", engine, mine.version))

    for node in range(nodes):
        fails(node, 0.0)
    left, busy, failures, lost, end = shards, 0.0, 0, 0.0, 0.0
    while left:
        now, what, who, at = heapq.heappop(events)
        if what == "fail":
            failures += 1
            fails(who, now)
            for engine in range(who * cluster.per_node, min((who + 1) * cluster.per_node, cluster.engines)):
                mine = lanes[engine]
                busy += mine.work(now)
                mine.version, mine.up = mine.version + 1, False
                for shard in mine.shards:
                    again = min(in_flight / len(mine.shards), shard.todo)
                    lost += again
                    over = (part - shard.todo) * shards * read_s
                    queue.appendleft((min(part, shard.todo + again / 2), over))
                mine.shards = []
                back = now + cluster.replace_s + cluster.start_s
                heapq.heappush(events, (back, "look", engine, mine.version))
            for engine, other in enumerate(lanes):
                if queue and other.up and len(other.shards) < at_once:
                    busy += other.work(now)
                    look(engine, now)
        elif at == lanes[who].version:
            mine = lanes[who]
            busy += mine.work(now)
            done = [shard for shard in mine.shards if shard.todo <= EPSILON]
            mine.shards = [shard for shard in mine.shards if shard.todo > EPSILON]
            left -= len(done)
            look(who, now)
            if done and not mine.shards:
                end = max(end, now + speed.ends_s)
                busy += speed.ends_s
    return Segment(end, busy, failures, lost)


@dataclass
class Shard:
    todo: float
    """Rows."""
    ready: float
    """When it has passed over what was done before."""


@dataclass
class Lanes:
    """The shards that one engine walks at once: those that are ready share it."""

    rate: float
    shards: list[Shard] = field(default_factory=list)
    since: float = 0.0
    version: int = 0
    up: bool = False

    def work(self, now: float) -> float:
        """Bring all to `now`; how many seconds the engine had shards."""
        ready = [shard for shard in self.shards if shard.ready <= self.since]
        for shard in ready:
            shard.todo -= (now - self.since) * self.rate / len(ready)
        took, self.since = now - self.since if self.shards else 0.0, now
        return took

    def next(self, now: float) -> float:
        """When a shard will be through, or will be ready."""
        self.since = now
        ready = [shard for shard in self.shards if shard.ready <= now]
        waits = [shard.ready for shard in self.shards if shard.ready > now]
        ends = [now + max(0.0, shard.todo) * len(ready) / self.rate for shard in ready]
        return min(ends + waits)
