"""What the limits of an endpoint reach with servers of many kinds, in virtual time: `python tests/limits_table.py`.

Prints Markdown tables. A name, or a part of one, as an argument picks scenarios.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulated_servers import Counting, Server, drive, heaviest, lognormal
from synthpref.models.caps import WINDOW_S

Make = Callable[[], Server]


@dataclass(frozen=True)
class Scenario:
    """A server, for how long it is driven, and what happens to it on the way."""

    name: str
    make: Make
    seconds: float
    change: tuple[float, int] | None = None
    """(time, slots from then on)"""

    def run(self) -> Found:
        server = self.make()
        later = None
        if self.change:
            at, slots = self.change

            def later(loop: Any) -> None:
                loop.call_later(at, setattr, server, "slots", slots)

        most = max(server.slots, self.change[1] if self.change else 0)
        seen = drive(server, self.seconds, callers=max(2000, 5 * min(most, 2048)), later=later)
        settled = self.change[0] if self.change else 0.0
        after = settled + min(60.0, (self.seconds - settled) / 2)
        return Found(
            seen.reached(0.9, settled) - settled,
            after - settled,
            seen.share(after, self.seconds),
            len(server.refused) / self.seconds * 60,
            max(limit for at, limit, _ in seen.samples),
            [limit for _, limit, _ in seen.samples],
        )


@dataclass(frozen=True)
class Found:
    reached_s: float
    after_s: float
    share: float
    refused_a_minute: float
    largest: float
    limits: list[float]


def gpu(full: int, times: float) -> Callable[[int], float]:
    """The slowness of a batch: so many times the latency of one answer when it is full."""
    return lambda k: 1 + (times - 1) * k / full


def over(knee: int, power: float) -> Callable[[int], float]:
    """A server that does less the more is asked of it beyond a knee, as one that runs out of memory does."""
    return lambda k: max(1.0, k / knee) ** power


def scenarios() -> list[Scenario]:
    found = []

    def add(name: str, seconds: float, make: Make, change: tuple[float, int] | None = None) -> None:
        found.append(Scenario(name, make, seconds, change))

    # Times are cut for the fastest, which have seen more answers in seconds than others in minutes.
    for slots in (4, 16, 64, 256, 1024, 2048):
        for mean in (0.02, 0.2, 1.0, 5.0, 20.0):
            seconds = max(4.0, min(240.0, 1500 * mean, 60_000 * mean / slots))
            add(
                f"{slots} slots x {mean:g} s",
                max(seconds, 140.0 if mean > 1 else 0),
                lambda slots=slots, mean=mean: Server(slots, lognormal(mean)),
            )
    for slots, mean in ((16, 0.2), (16, 5.0), (64, 1.0)):
        name = f"{slots} slots x {mean:g} s, lengths very mixed"
        add(name, 240, lambda slots=slots, mean=mean: Server(slots, lognormal(mean, 1.0)))
    for slots, mean in ((64, 1.0), (256, 0.5)):
        name = f"{slots} slots x {mean:g} s, 1 % of answers 50 times as long"
        add(name, 240, lambda slots=slots, mean=mean: Server(slots, lognormal(mean, slow_share=0.01)))
    for full, times, mean in ((64, 3, 0.2), (256, 4, 1.0), (256, 10, 1.0), (1024, 5, 4.0)):
        name = f"batch to {full}, {mean:g} s alone, {times} times that when full"
        add(
            name,
            240,
            lambda full=full, times=times, mean=mean: Server(full, lognormal(mean), gpu(full, times)),
        )
    for share, power in ((70, 1.5), (50, 2.0)):
        add(
            f"does {share} % at twice its best load of 128, 0.5 s",
            120,
            lambda power=power: Server(4096, lognormal(0.5), over(128, power)),
        )
    for slots, mean in ((4, 0.5), (16, 0.2), (64, 1.0), (64, 0.05), (256, 2.0), (64, 10.0)):
        seconds = min(240.0, 600 * mean)
        for pause in (None, 1.0):
            name = f"429 beyond {slots} x {mean:g} s" + (", Retry-After: 1" if pause else "")
            add(
                name,
                seconds,
                lambda slots=slots, mean=mean, pause=pause: Server(
                    slots, lognormal(mean), refuses=True, retry_after=pause
                ),
            )
    for refuses in (False, True):
        for before, then, mean in ((64, 256, 1.0), (256, 64, 1.0), (32, 256, 4.0), (256, 16, 0.2)):
            name = f"{before} slots x {mean:g} s, then {then}" + (", 429 beyond" if refuses else "")
            add(
                name,
                240,
                lambda before=before, mean=mean, refuses=refuses: Server(
                    before, lognormal(mean), refuses=refuses
                ),
                (100.0, then),
            )
    return found


@dataclass(frozen=True)
class Quota:
    """A role with a cap, at a server with more room than that."""

    cap: int
    mean: float
    tokens: str = ""
    """When the server counts tokens; "" for a cap of requests."""
    per_second: float = 150.0
    sigma: float = 0.4
    slow_share: float = 0.0
    max_tokens: int | None = None
    way_s: float = 0.03
    """Seconds from the client to the server, log-normal and very mixed; and back."""

    @property
    def name(self) -> str:
        mixed = ", lengths very mixed" if self.sigma > 0.5 else ""
        slow = ", 1 % of answers 50 times as long" if self.slow_share else ""
        bound = f", max_tokens {self.max_tokens}" if self.max_tokens else ""
        way = f", {self.way_s:g} s on the way" if self.way_s > 0.1 else ""
        kind = f"TPM, answers of {self.mean:g} s and {self.mean * self.per_second:.0f} tokens, counted {self.tokens}"
        kind = kind if self.tokens else f"RPM, answers of {self.mean:g} s"
        return f"{self.cap:,} {kind}{mixed}{slow}{bound}{way}"

    def run(self) -> tuple[float, float]:
        """(the fullest minute, use after two minutes), both as shares of the cap, counted at the server."""
        seconds = 120 + 4 * WINDOW_S
        work = lognormal(self.mean, self.sigma, self.slow_share)
        way = lognormal(self.way_s, 1.0)
        if not self.tokens:
            server = Server(4096, work, way=way)
            drive(server, seconds, rpm=self.cap, callers=max(2000, round(self.cap * self.mean / 30)))
            counted = [(at, 1.0) for at in server.arrived]
        else:
            server = Counting(4096, work, per_second=self.per_second, counts=self.tokens, way=way)
            drive(server, seconds + 5 * self.mean, tpm=self.cap, max_tokens=self.max_tokens)
            counted = server.counted
        used = sum(n for at, n in counted if 120 < at <= seconds) / (seconds - 120) * 60
        return heaviest(counted) / self.cap, used / self.cap


def quotas() -> list[Quota]:
    return [
        *(Quota(cap, mean) for cap, mean in ((10, 0.5), (60, 1), (300, 0.05), (300, 5), (300, 20), (3000, 1))),
        Quota(600, 1, way_s=0.2),
        *(
            Quota(cap, mean, when, per_second)
            for when in ("at the end", "as written")
            for cap, mean, per_second in (
                (30_000, 2, 150), (200_000, 2, 150), (200_000, 8, 100), (1_000_000, 4, 150), (1_000_000, 20, 50)
            )
        ),
        Quota(1_000_000, 4, "at the end", max_tokens=1000),
        *(Quota(1_000_000, 4, when, sigma=1.0) for when in ("at the end", "as written")),
        *(Quota(1_000_000, 2, when, slow_share=0.01) for when in ("at the end", "as written")),
    ]  # fmt: skip


SERVERS = ("server", "90 % of its best after", "share of its best later", "largest limit", "refused a minute")
CAPS = ("cap", "fullest minute at the server", "used")


def server_line(scenario: Scenario) -> tuple[str, ...]:
    found = scenario.run()
    later = f"{found.share:.1%} after {found.after_s:.0f} s"
    refused = f"{found.refused_a_minute:.1f}"
    return scenario.name, f"{found.reached_s:.1f} s", later, f"{found.largest:.0f}", refused


def cap_line(quota: Quota) -> tuple[str, ...]:
    fullest, used = quota.run()
    return quota.name, f"{fullest:.1%}", f"{used:.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pick", nargs="*")
    options = parser.parse_args()

    def picked(name: str) -> bool:
        return not options.pick or any(word in name for word in options.pick)

    for head, line, things in ((SERVERS, server_line, scenarios()), (CAPS, cap_line, quotas())):
        print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
        for thing in (thing for thing in things if picked(thing.name)):
            print(f"| {' | '.join(line(thing))} |", flush=True)
        print()


if __name__ == "__main__":
    main()
