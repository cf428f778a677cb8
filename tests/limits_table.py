"""What the limits of an endpoint reach with servers of many kinds, in virtual time: `python tests/limits_table.py`.

Prints a Markdown table. A name, or a part of one, as an argument picks scenarios; --trace prints their limits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulated_servers import Server, drive, lognormal

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


def over(knee: int) -> Callable[[int], float]:
    """A server that does less the more is asked of it beyond a knee: twice the load, half the throughput."""
    return lambda k: max(1.0, k / knee) ** 2


def scenarios() -> list[Scenario]:
    found = []

    def add(name: str, seconds: float, make: Make, change: tuple[float, int] | None = None) -> None:
        found.append(Scenario(name, make, seconds, change))

    # Times are cut for the fastest, which have seen more answers in seconds than others in minutes.
    for slots in (4, 16, 64, 256, 1024, 2048):
        for mean in (0.02, 0.2, 1.0, 5.0, 20.0):
            seconds = max(4.0, min(240.0, 1500 * mean, 120_000 * mean / slots))
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
    add("does less beyond 128, 0.5 s", 120, lambda: Server(4096, lognormal(0.5), over(128)))
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pick", nargs="*")
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    print("| server | 90 % of its best after | share of its best later | largest limit | refused a minute |")
    print("|---|---|---|---|---|")
    for scenario in scenarios():
        if options.pick and not any(word in scenario.name for word in options.pick):
            continue
        found = scenario.run()
        print(
            f"| {scenario.name} | {found.reached_s:.1f} s | {found.share:.1%} after {found.after_s:.0f} s"
            f" | {found.largest:.0f} | {found.refused_a_minute:.1f} |",
            flush=True,
        )
        if options.trace:
            print("   ", *(f"{limit:.0f}" for limit in found.limits[:: len(found.limits) // 30]))


if __name__ == "__main__":
    main()
