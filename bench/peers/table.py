"""The results of the comparison as Markdown, and their place in docs/benchmarks.md."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.peers.tools import BARE, HERE, PEERS, SYNTHPREF

PAGE = HERE.parent.parent / "docs" / "benchmarks.md"
LEGEND = """\
Slots busy: the share of the endpoint's slots that was at work from the first request to the last. Times the bare loop:
the time from the first to the last request, against a bare loop run just before. CPU and memory: of all processes of
the tool together, start-up included. Start-up: from the command to the first request. Taken by others: the share of
this machine's cores that went to other processes meanwhile, the endpoint among them; where it is high, ratios and CPU
tell more than times."""
OPENS, CLOSES = "<!-- bench:peers -->", "<!-- /bench:peers -->"
ORDER = [BARE.name, SYNTHPREF.name, *(tool.name for tool in PEERS)]


def render(peers: Mapping[str, Any]) -> str:
    """All parts that were measured, as Markdown."""
    parts = [_timed(peers[name]) for name in ("narrow", "wide") if name in peers]
    parts.append(LEGEND)
    if "kill" in peers:
        parts.append(_killed(peers["kill"]))
    settings = [f"- {tool.name}: {tool.settings}." for tool in (BARE, SYNTHPREF, *PEERS)]
    parts.append("\n".join(["How each was set:", "", *settings]))
    if "guard" in peers:
        parts.append(_guarded(peers["guard"]))
    return "\n\n".join(parts)


def put(peers: Mapping[str, Any], page: Path = PAGE) -> None:
    """Write the tables between their markers, where the page has them."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    before, opens, rest = text.partition(OPENS)
    _, closes, after = rest.partition(CLOSES)
    if opens and closes:
        page.write_text(f"{before}{OPENS}\n{render(peers)}\n{CLOSES}{after}", encoding="utf-8")


def _rows(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---", *("---:" for _ in names[1:])], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _setting(part: Mapping[str, Any]) -> str:
    return f"{part['prompts']:,} prompts, {part['slots']:,} slots x {part['latency_s']:g} s"


def _timed(part: Mapping[str, Any]) -> str:
    head = ["", "version", "date", "slots busy", "first to last request", "x bare loop", "requests"]
    head += ["CPU", "start-up", "memory", "taken by others"]
    rows = [_line(name, part["runs"][name]) for name in ORDER if name in part["runs"]]
    peers = [run for name, run in part["runs"].items() if name != BARE.name]
    rounds = min(len(run["rounds"]) for run in peers)
    of = f"median of {rounds} rounds" if rounds > 1 else "one round"
    return f"**{_setting(part)}** ({of}; {part['machine']})\n\n{_rows(head, rows)}"


def _line(name: str, run: Mapping[str, Any]) -> list[str]:
    done = [result for result in run["rounds"] if "failed" not in result]
    if not done:
        return [name, run["version"], run["date"], run["rounds"][-1]["failed"].replace("|", " "), *[""] * 7]

    def middle(key: str) -> float:
        return statistics.median(result[key] for result in done)

    return [
        name,
        run["version"],
        run["date"],
        f"{middle('busy_share'):.0%}",
        f"{middle('span_s'):.1f} s",
        f"{middle('of_bare'):.2f}" if "of_bare" in done[0] else "1",
        f"{middle('requests'):,.0f}",
        f"{middle('cpu_s'):.1f} s",
        f"{middle('start_s'):.1f} s",
        f"{middle('peak_mb'):,.0f} MB",
        f"{middle('others_share'):.0%}",
    ]


def _killed(part: Mapping[str, Any]) -> str:
    head = ["", "killed after", "in flight", "the same command again", "requests asked twice"]
    rows = []
    for name in (name for name in ORDER if name in part["runs"]):
        for result in part["runs"][name]["kills"]:
            again = "; ".join(_runs(result["ends"])).replace("|", " ")
            twice = "never done" if result["repeated"] is None else f"{result['repeated']:,}"
            rows.append([name, f"{result['share']:.0%}", f"{result['in_flight']:,}", again, twice])
    return f"**SIGKILL in the middle** ({_setting(part)}; {part['machine']})\n\n{_rows(head, rows)}"


def _runs(ends: list[str]) -> list[str]:
    """Equal ends in a row said once, with how often."""
    said: list[tuple[str, int]] = []
    for end in ends:
        if said and said[-1][0] == end:
            said[-1] = end, said[-1][1] + 1
        else:
            said.append((end, 1))
    return [f"{end} ({times} times of {times})" if times > 1 else end for end, times in said]


def _guarded(part: Mapping[str, Any]) -> str:
    lines = []
    for name in (name for name in ORDER if name in part["runs"]):
        run = part["runs"][name]
        tried = (
            f"tried to reach {', '.join(run['tried'])}" if run["tried"] else "tried to reach nothing outside"
        )
        lines.append(f"- {name}: {run['failed'] or 'done'}; {tried}.")
    return "\n".join(["With all ways out closed and telemetry switched off:", "", *lines])


if __name__ == "__main__":
    put(json.loads((HERE / "results.json").read_text(encoding="utf-8")))
