"""SIGKILL at chosen moments of a run, and the account of what had to be asked again for it.

Nothing in the program is patched: moments are found from outside, by what the server has seen, by the clock, by the
files that appear in the run folder and by the journal's log growing.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import rough
from wire import Call, Server

WINDOW_S = 0.05
"""Answers that were given so short a time before a kill may be asked for again: the journal's commit window."""
LOOK_S = 0.0005
FILES = (
    "left.jsonl.part", "left.jsonl", "rows.parquet.part", "rows.parquet", "dataset/data/train.parquet.part",
    "dataset/data/train.parquet", "report.json.part", "report.json", "report.md", "dataset/README.md",
    "summary.json.part",
)  # fmt: skip
"""What a run leaves after its last step, in this order."""
PHASES = (
    "start", "replay", "generation", "judging", "barrier", "after the barrier", "export", "journal commit",
)  # fmt: skip

LAST = 2
"""Kills in the export of one run. More tell nothing new: nothing is lost there."""

Come = Callable[[], bool]


@dataclass
class Calm:
    """An undisturbed run, which all others are held against."""

    outcome: dict[str, bytes]
    requests: Counter[str]
    """How many distinct requests each model got."""
    identities: set[str]
    gap_s: float
    """From the last answer before the barrier to the first request after it."""
    wall_s: float


@dataclass
class Life:
    """One start of a run, and its end."""

    began: float
    killed: float | None = None
    """When SIGKILL was sent; None where the run came to its own end first."""
    phase: str = ""
    moment: str = ""
    again: int = 0
    """Requests that were asked again because of this kill."""
    ages: list[float] = field(default_factory=list)
    """Of those, how long before the kill an answer had been given, where one had."""
    failed: str = ""
    """What it said when it ended neither well nor by a kill."""


@dataclass
class Account:
    """What one run, killed several times, cost."""

    lives: list[Life] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def calm_run(folder: Path, server: Server, rows: int, **role: object) -> Calm:
    server.calls.clear()
    rough.write(folder, [server.url], rows, **role)
    began = time.monotonic()
    rough.run(folder)
    wall = time.monotonic() - began
    calls = list(server.calls)
    identities = {call.identity for call in calls}
    assert len(identities) == len(calls), "an undisturbed run asks nothing twice"
    before = max(c.answered or 0.0 for c in calls if c.model in rough.BEFORE)
    after = min(c.arrived for c in calls if c.model in rough.AFTER)
    requests = Counter(call.model for call in calls)
    return Calm(rough.outcome(folder), requests, identities, after - before, wall)


# ---- moments


@dataclass
class Sight:
    """What can be seen of a run from outside."""

    folder: Path
    server: Server
    calm: Calm
    began_ns: int = field(default_factory=time.time_ns)
    began: float = field(default_factory=time.monotonic)
    before: int = 0
    """Calls of earlier starts."""

    def __post_init__(self) -> None:
        self.before = len(self.server.calls)

    def calls(self, *models: str) -> list[Call]:
        """Those of this start."""
        return [c for c in self.server.calls[self.before :] if c.model in models]

    def answered(self, *models: str) -> bool:
        """Whether all that these models are ever asked has been answered."""
        wanted = sum(self.calm.requests[model] for model in models)
        done = {c.identity for c in self.server.calls if c.answered and c.model in models}
        return len(done) >= wanted

    def written(self, name: str) -> bool:
        """Whether the file was written in this start."""
        try:
            return (rough.home(self.folder) / name).stat().st_mtime_ns > self.began_ns
        except FileNotFoundError:
            return False

    def log(self) -> tuple[int, int]:
        try:
            stat = (rough.home(self.folder) / "journal.sqlite-wal").stat()
        except FileNotFoundError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns


def by_clock(sight: Sight, after_s: float) -> Come:
    return lambda: time.monotonic() >= sight.began + after_s


def by_requests(sight: Sight, model: str, count: int) -> Come:
    return lambda: len(sight.calls(model)) >= count


def at_barrier(sight: Sight, after_s: float) -> Come:
    """So long after the last answer that the barrier waits for."""
    since: list[float] = []

    def come() -> bool:
        if not since and sight.answered(*rough.BEFORE):
            since.append(time.monotonic())
        return bool(since) and time.monotonic() >= since[0] + after_s

    return come


def by_file(sight: Sight, name: str, after_s: float) -> Come:
    since: list[float] = []

    def come() -> bool:
        if not since and sight.written(name):
            since.append(time.monotonic())
        return bool(since) and time.monotonic() >= since[0] + after_s

    return come


def by_commit(sight: Sight, count: int) -> Come:
    """The journal's log has grown so often in this start."""
    seen, left = [sight.log()], [count]

    def come() -> bool:
        if (now := sight.log()) != seen[0]:
            seen[0] = now
            left[0] -= 1
        return left[0] <= 0

    return come


def choose(rng: random.Random, sight: Sight) -> tuple[str, Come]:
    """A moment that this start may come to, and its name."""
    calm, server = sight.calm, sight.server
    owed = {
        model: n - len({c.identity for c in server.calls if c.answered and c.model == model})
        for model, n in calm.requests.items()
    }
    asking = [model for model, n in owed.items() if n > 0]
    before = [model for model in asking if model in rough.BEFORE]
    # A run that still has to ask is mostly killed while it does, and early, so that it can be killed there again.
    kinds = ["requests"] * 7 + ["commit"] * 3 + ["clock", "file"] if asking else ["file"] * 4 + ["clock"] * 2
    kinds += ["barrier"] if before else []
    kind = rng.choice(kinds)
    if kind == "clock":
        after = rng.uniform(0.0, calm.wall_s)
        return f"{after:.3f} s after the start", by_clock(sight, after)
    if kind == "requests":
        model = rng.choice(before or asking)
        count = 1 + int(owed[model] * 0.7 * rng.random() ** 2)
        return f"request {count} to {model}", by_requests(sight, model, count)
    if kind == "barrier":
        after = rng.uniform(0.0, calm.gap_s * 1.1)
        return f"{after:.3f} s after the last answer before the barrier", at_barrier(sight, after)
    if kind == "commit":
        count = rng.randint(1, 12)
        return f"change {count} of the journal's log", by_commit(sight, count)
    name, after = rng.choice(FILES), rng.uniform(0.0, 0.004)
    return f"{after * 1000:.1f} ms after {name}", by_file(sight, name, after)


def phase_of(sight: Sight, killed: float, moment: str) -> str:
    """What the run was about when it was killed, by what was seen."""
    calls = sight.calls(*rough.BEFORE, *rough.AFTER)
    if "journal's log" in moment and calls:
        return "journal commit"
    if any(sight.written(name) for name in FILES):
        return "export"
    open_ = [c for c in calls if not c.answered or c.answered > killed]
    if not calls:
        return "replay" if sight.log()[1] > sight.began_ns else "start"
    if not open_ and sight.answered(*rough.BEFORE):
        return "barrier"
    last = max(open_ or calls, key=lambda c: c.arrived).model
    return {"judge": "judging", "critic": "after the barrier"}.get(last, "generation")


# ---- a run that is killed again and again


def life(folder: Path, server: Server, calm: Calm, rng: random.Random) -> Life:
    """One start, killed at a moment that `rng` chooses, if it comes to it."""
    sight = Sight(folder, server, calm)
    made = Life(sight.began)
    made.moment, come = choose(rng, sight)
    process = rough.start(folder)
    while process.poll() is None:
        if come():
            made.killed = time.monotonic()
            process.send_signal(signal.SIGKILL)
            process.wait()
            # What the dead one had sent may lie unread; it is noted before what is sent from now on.
            for _ in range(2):
                urllib.request.urlopen(f"{server.url}/models").close()
            break
        time.sleep(LOOK_S)
    if process.returncode != -signal.SIGKILL:
        made.killed = None  # it ended by itself, perhaps just before
        made.failed = f"exit {process.returncode}: {rough.why(folder)}" if process.returncode else ""
    else:
        made.phase = phase_of(sight, made.killed, made.moment)
    return made


def killed_run(
    folder: Path, server: Server, rows: int, calm: Calm, seed: str, kills: int, slack_s: float, **role: object
) -> Account:
    """A run that is killed up to `kills` times, then left alone to its end, and what was wrong with it."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    server.calls.clear()
    rough.write(folder, [server.url], rows, **role)
    account = Account()
    for _ in range(kills):
        account.lives.append(life(folder, server, calm, rng))
        if account.lives[-1].failed:
            account.wrong.append(account.lives[-1].failed)
            return account
        if sum(lived.phase == "export" for lived in account.lives) >= LAST:
            break
    account.lives.append(Life(time.monotonic()))
    try:
        rough.run(folder)
    except AssertionError as error:
        account.wrong.append(str(error))
        return account
    account.wrong += [f"{name} differs" for name in rough.differences(calm.outcome, rough.outcome(folder))]
    rough.every_row_ends_once(folder)
    asked = {call.identity for call in server.calls}
    if asked != calm.identities:
        more, less = len(asked - calm.identities), len(calm.identities - asked)
        account.wrong.append(f"{more} requests more and {less} less than a calm run makes")
    count(account, server.calls, slack_s)
    return account


def count(account: Account, calls: Sequence[Call], slack_s: float) -> None:
    """Hold each request that was asked more than once against the kill that came between."""
    by_identity: dict[str, list[Call]] = {}
    for call in calls:
        by_identity.setdefault(call.identity, []).append(call)
    for same in by_identity.values():
        for first, second in pairwise(same):
            lost_in = max((x for x in account.lives if x.began <= first.arrived), key=lambda x: x.began)
            if lost_in.killed is None or second.arrived < lost_in.killed:
                account.wrong.append(f"a request to {first.model} was made twice with no kill in between")
            else:
                lost_in.again += 1
                if first.answered is not None and first.answered <= lost_in.killed:
                    lost_in.ages.append(lost_in.killed - first.answered)
    for lived in account.lives:
        if late := [age for age in lived.ages if age > WINDOW_S + slack_s]:
            told = (
                f"{len(late)} answers from {max(late) * 1000:.0f} ms or less before it were asked for again"
            )
            account.wrong.append(f"killed at {lived.moment} ({lived.phase}): {told}")
