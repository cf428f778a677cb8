"""What a run of a million, a hundred million and ten billion samples takes: what is measured here, what is assumed, and
what a simulation (bench/fleet.py) makes of both. For docs/scaling.md.

The tables are a function of the constants in bench/results.json: `tables` gives them again.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Mapping

import constants
import fleet
import prose
from results import Section, Table, conditions, median

TOKENS = (500, 2000)
SAMPLES = 32
SIZES = ((10**6, 8), (10**8, 64), (10**10, 1024))
"""Samples in all, and the GPUs that they are given."""
FOLDER, FOLDER_GPUS = SIZES[1]
"""Samples in one run folder where there are more, and the GPUs that it is given."""
SHARDS = 16
"""For each engine."""
SHARDS_TRIED = (2, 4, 16, 64)
FAILURES_TRIED = {"264 days": 264 * 24.0, "a day": 24.0, "2 hours": 2.0}
"""Mean time between failures of a node: as assumed, and on nodes that are taken away."""
LONGEST = 4
"""Times the mean, where an answer is cut off."""
PUBLISHED = "TensorRT-LLM's [performance overview](https://nvidia.github.io/TensorRT-LLM/performance/perf-overview.html) (1.0, FP8, H100)"
SHARE = 0.6
"""Of the published rates."""
ENGINES = {
    "8B": fleet.Engine("8B", 1, SHARE * 17_660, SHARE * 3_450 * 16, SHARE * 3_450 * 16),
    "70B": fleet.Engine("70B", 2, SHARE * 5_222, SHARE * 762 * 16, SHARE * 3_450 * 16 * 2),
}
MTBF_H = 2048 * 54 * 24 / 419
GPUS_OF_NODE = 8
REPLACE_S, START_S, SPREAD = 600.0, 180.0, 0.05

Constants = Mapping[str, Mapping[str, float]]
"""By the length of an answer in tokens, as a string: JSON knows no other keys."""


def sizing(*, rows: int = 300, rounds: int = 3, source_rows: int = 100_000) -> Section:
    """Measure, then simulate."""
    found: dict[str, dict[str, float]] = {}
    for tokens in TOKENS:
        taken = []
        for number in range(rounds):
            how = {"rows": rows, "samples": SAMPLES, "source_rows": source_rows}
            taken.append(constants.measure(tokens=tokens, **how))
            print(f"  {tokens} tokens: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        found[str(tokens)] = {name: median([each[name] for each in taken]) for name in taken[0]}
    said = conditions(
        rows=str(rows), samples=f"{SAMPLES} of a row", rounds=str(rounds), SQLite=sqlite3.sqlite_version
    )
    return Section(tables(found), said, {"constants": found})


def tables(found: Constants) -> list[Table]:
    """The page's tables, from what was measured. Always the same for the same constants."""
    return [_measured(found), _assumed(), _shards(found), _failures(found), _sizes(found)]


def _measured(found: Constants) -> Table:
    shown = [
        ("journal of a shard, for a sample", "segment_bytes", "{:,.0f} B"),
        ("journal of a finished run, for a sample", "journal_bytes", "{:,.0f} B"),
        ("rows.parquet, for a sample", "rows_parquet_bytes", "{:,.0f} B"),
        ("dataset, for a row (one pair)", "dataset_bytes_row", "{:,.0f} B"),
        ("the walk, for a call, CPU", "walk_us_call", "{:,.0f} µs"),
        ("a row read from the source (JSON lines), CPU", "read_us_row", "{:,.0f} µs"),
        ("merging shards, for a sample, on the wall", "merge_us", "{:,.0f} µs"),
        ("merging shards, of journal, on the wall", "merge_mb_s", "{:,.0f} MB/s"),
        ("indexes of the merged journal, for a sample, CPU", "index_us", "{:,.1f} µs"),
        ("a barrier that keeps all rows, for a sample, CPU", "barrier_us", "{:,.0f} µs"),
        ("dataset, report and card, for a sample, CPU", "export_us", "{:,.0f} µs"),
        ("commits of one answer to this disk", "commits_per_s", "{:,.0f} /s"),
    ]
    rows = [[what, *(form.format(found[str(t)][name]) for t in TOKENS)] for what, name, form in shown]
    walk = [
        found[str(t)]["walk_us_call"]
        * (SAMPLES + 1)
        / 1e6
        * fleet.pace(ENGINES["8B"], _work(SIZES[0][0], t)).rows_s
        for t in TOKENS
    ]
    rows.append(["the walk beside an 8B engine, of one core", *(f"{share:.1%}" for share in walk)])
    return Table(["measured", *(f"answers of {tokens:,} tokens" for tokens in TOKENS)], rows)


def _assumed() -> Table:
    small, large = ENGINES.values()
    return Table(
        ["assumed", "value", "where it is from"],
        [
            ["8B: tokens/s written by one GPU, full batch", f"{small.decode_tokens_s:,.0f}", f"{SHARE:g} × 17,660 (500/2000), {PUBLISHED}"],
            ["70B: tokens/s written by two GPUs, full batch", f"{large.decode_tokens_s:,.0f}", f"{SHARE:g} × 5,222 (500/2000), the same"],
            ["8B, tokens/s read by one GPU: prompts, and the reward model", f"{small.prefill_tokens_s:,.0f}", f"{SHARE:g} × 16 × 3,450 (2048/128), the same"],
            ["70B, tokens/s read by two GPUs", f"{large.prefill_tokens_s:,.0f}", f"{SHARE:g} × 16 × 762 (2048/128), the same"],
            ["of those rates, what you will see", f"{SHARE:g}", "ours: they are of FP8, answers of one length and an engine tuned for them"],
            ["sequences at once in an engine", f"{small.batch}", "ours"],
            ["a decode step of one sequence / of a full batch", f"{fleet.STEP_FLOOR:g}", "ours: weights are read all the same"],
            ["lengths of answers", f"log-normal, sigma {prose.SIGMA:g}, cut off at {LONGEST} × the mean", "ours"],
            ["a prompt", f"{constants.PROMPT_TOKENS} tokens", "ours"],
            ["a reward model of 8B scores every sample, on the policy's GPUs", f"{SAMPLES} a row", "ours"],
            [f"mean time between failures of a node of {GPUS_OF_NODE} GPUs", f"{MTBF_H / 24:.0f} days", "419 in 54 days on 16,384 GPUs ([arXiv:2407.21783](https://arxiv.org/abs/2407.21783), 3.3.4)"],
            ["until a node is replaced; until an engine is up", f"{REPLACE_S / 60:.0f} min; {START_S / 60:.0f} min", "ours"],
            ["engines against each other", f"log-normal, sigma {SPREAD:g}", "ours"],
        ],
    )  # fmt: skip


def _shards(found: Constants) -> Table:
    """What more and smaller shards win in balance, and lose in batches that run empty."""
    rows = []
    for samples, gpus in SIZES[:2]:
        for name, engine in ENGINES.items():
            taken = [_segment(found, samples, gpus, engine, TOKENS[0], each)[1] for each in SHARDS_TRIED]
            rows.append([f"{samples:,}", name, str(gpus), *(f"{share:.0%}" for share in taken)])
    head = ["samples", "policy", "GPUs", *(f"{n} for each engine" for n in SHARDS_TRIED)]
    return Table(head, rows)


def _failures(found: Constants) -> Table:
    """What it costs that nodes are taken away."""
    samples, gpus = SIZES[1]
    engine = ENGINES["8B"]
    rows = []
    for often, hours in FAILURES_TRIED.items():
        run, share, _ = _segment(found, samples, gpus, engine, TOKENS[0], SHARDS, hours)
        again = run.lost_rows * SAMPLES
        rows.append(
            [often, str(run.failures), f"{again:,.0f}", f"{share:.0%}", _few(run.wall_s / fleet.HOUR)]
        )
    head = ["a node fails every", "failures", "samples made again", "of the GPU hours at work", "hours"]
    return Table(head, rows)


def _sizes(found: Constants) -> Table:
    rows = []
    for samples, gpus in SIZES:
        for tokens in TOKENS:
            for name, engine in ENGINES.items():
                rows.append(_size(found, samples, gpus, engine, tokens, name))
    head = [
        "samples", "rows", "tokens", "policy", "GPUs", "GPU hours", "of that at work", "hours",
        "journal", "merge, h", "barrier and dataset, h",
    ]  # fmt: skip
    return Table(head, rows)


def _size(
    found: Constants, samples: int, gpus: int, engine: fleet.Engine, tokens: int, name: str
) -> list[str]:
    """Of more samples than a folder holds: folders of their own, as many at a time as there are GPUs for."""
    of = found[str(tokens)]
    folders = -(-samples // FOLDER)
    each, given = samples // folders, gpus if folders == 1 else FOLDER_GPUS
    turns = -(-folders * given // gpus)
    run, share, _ = _segment(found, each, given, engine, tokens, SHARDS)
    merge = (of["merge_us"] + of["index_us"]) * each / 1e6 / fleet.HOUR
    rest = (of["barrier_us"] + of["export_us"]) * each / 1e6 / fleet.HOUR
    many = "" if folders == 1 else f"{folders} × "
    return [
        f"{samples:,}", f"{samples // SAMPLES:,}", f"{tokens:,}", name, f"{gpus:,}",
        _few(folders * given * run.wall_s / fleet.HOUR), f"{share:.0%}", _few(turns * run.wall_s / fleet.HOUR),
        many + _size_of(of["journal_bytes"] * each), many + _few(merge), many + _few(rest),
    ]  # fmt: skip


def _segment(
    found: Constants,
    samples: int,
    gpus: int,
    engine: fleet.Engine,
    tokens: int,
    shards: int,
    mtbf_h: float = MTBF_H,
) -> tuple[fleet.Segment, float, fleet.Work]:
    """The run's segment, and which share of its GPU hours full batches would have taken."""
    work = _work(samples, tokens)
    speed = fleet.pace(engine, work)
    engines = gpus // engine.gpus
    cluster = fleet.Cluster(engines, GPUS_OF_NODE // engine.gpus, mtbf_h, REPLACE_S, START_S, SPREAD)
    run = fleet.segment(
        cluster,
        speed,
        work.rows,
        shards * engines,
        in_flight=engine.batch / SAMPLES,
        read_s=found[str(tokens)]["read_us_row"] / 1e6,
    )
    return run, work.rows / speed.rows_s / (engines * run.wall_s), work


def _work(samples: int, tokens: int) -> fleet.Work:
    longest = tokens * LONGEST
    return fleet.Work(samples // SAMPLES, SAMPLES, constants.PROMPT_TOKENS, tokens, longest, prose.SIGMA)


def _few(value: float) -> str:
    """Two digits that count: the third is not known."""
    if value >= 100:
        digits = len(str(int(value))) - 2
        return f"{round(value / 10**digits) * 10**digits:,}"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _size_of(value: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{_few(value)} {unit}"
