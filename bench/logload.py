"""Case: the log at a million entries, and under load. See `measure`."""

from __future__ import annotations

import http.client
import json
import pathlib
import subprocess
import sys
import time

from bench.measure import Figure, Outcome, Verdict
from bench.servers import HERE, free_port, process, scratch
from bench.site import configuration

ENTRIES = 1_000_000
LOAD_S = 5.0
CLIENTS = 64
LARGE_PARTS = 16
"""Entries per command of the load that stands for a bulk interface."""
TASK_TIMEOUT_S = 900
READY_TIMEOUT_S = 30.0
MEMORY_GOAL_MB = 200.0

Found = dict[str, float]


def measure(rounds: int) -> Outcome:
    """The log is built once; what is quick is measured in every round."""
    with scratch("logload") as folder:
        port = free_port()
        config = folder / "outlast.toml"
        config.write_text(configuration(folder, port, ""))
        built = _task("build", config, ENTRIES)
        checked = _task("fsck", config)
        proofs = [_task("proofs", config) for _ in range(rounds)]
        opened = [_task("restart", config) for _ in range(rounds)]
        ready = [_served(config, port, folder) for _ in range(rounds)]
        loads = [_load(folder, f"{number}-single", 1) for number in range(rounds)]
        bulk = [_load(folder, f"{number}-bulk", LARGE_PARTS) for number in range(rounds)]
    figures = (
        _one("appending, store and log", "entries/s", built["per_s"]),
        _one("appending, CPU", "us/entry", built["cpu_us"]),
        _one("syncs of files and directories", "per checkpoint", built["syncs"]),
        _one("appending, memory", "MB", built["peak_mb"]),
        _one("fsck of all", "s", checked["s"]),
        _one("fsck of all, CPU", "s", checked["cpu_s"]),
        _one("fsck, memory", "MB", checked["peak_mb"]),
        _each("inclusion proof, cold, median", "ms", proofs, "cold_median_ms"),
        _each("inclusion proof, cold, p99", "ms", proofs, "cold_p99_ms"),
        _each("inclusion proof, cold, p99, CPU", "ms", proofs, "cold_p99_cpu_ms"),
        _each("inclusion proof, warm, median", "ms", proofs, "warm_median_ms"),
        _each("inclusion proof, warm, p99", "ms", proofs, "warm_p99_ms"),
        _each("inclusion proof, warm, p99, CPU", "ms", proofs, "warm_p99_cpu_ms"),
        _each("proofs, memory", "MB", proofs, "peak_mb"),
        _each("restart: site open and one command accepted", "s", opened, "accepted_s"),
        Figure(name="restart: `outlast serve` to /readyz", unit="s", rounds=tuple(ready)),
        *_of_load(f"{CLIENTS} clients, one entry a command", loads),
        *_of_load(f"{CLIENTS} clients, {LARGE_PARTS} entries a command", bulk),
    )
    return Outcome(
        case="logload",
        title="The log under load",
        method=(
            f"A site's log of {ENTRIES:,} entries of 512 bytes, built once through the store's `flush` and the "
            "publisher, every commit and checkpoint synced; each look at it in a process of its own, for its memory. "
            f"Under load, for {LOAD_S:.0f} s each: real store, committer, publisher and archive in one process, two "
            "readers that check signatures, inclusion and consistency without pause; the lag is from a flush's commit "
            "to the checkpoint that covers it being durable and visible. Cold proofs: a reader that has seen no tile."
        ),
        figures=figures,
        verdicts=(
            _at_most("checkpoint behind commit, p99", "ms", 200, loads, "p99_ms"),
            _at_most(f"the same, {LARGE_PARTS} entries a command", "ms", 200, bulk, "p99_ms"),
            _at_most("inclusion proof, cold, median", "ms", 1, proofs, "cold_median_ms"),
            _at_most("inclusion proof, cold, p99", "ms", 1, proofs, "cold_p99_ms"),
            _at_most("restart: one command accepted", "s", 1, opened, "accepted_s"),
            Verdict(
                what="appending, store and log",
                value=built["per_s"],
                goal=20_000,
                at_least=True,
                unit="entries/s",
            ),
            _at_most("appending, memory", "MB", MEMORY_GOAL_MB, [built], "peak_mb"),
            _at_most("fsck, memory", "MB", MEMORY_GOAL_MB, [checked], "peak_mb"),
        ),
    )


def _task(name: str, path: pathlib.Path, *rest: float) -> Found:
    """A task of bench.biglog in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.biglog", name, path, *map(str, rest)],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=TASK_TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-4000:]}")
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def _load(folder: pathlib.Path, name: str, parts: int) -> Found:
    place = folder / name
    place.mkdir()
    return _task("load", place, LOAD_S, CLIENTS, parts)


def _served(config: pathlib.Path, port: int, folder: pathlib.Path) -> float:
    """Seconds from starting the program to its being ready, modules being loaded from the page cache."""
    program = pathlib.Path(sys.executable).parent / "outlast"
    began = time.perf_counter()
    with process([program, "serve", "--config", config], log=folder / "site.log"):
        while not _is_ready(port):
            if time.perf_counter() - began > READY_TIMEOUT_S:
                raise RuntimeError("the site does not become ready")
            time.sleep(0.01)
        return time.perf_counter() - began


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _one(name: str, unit: str, value: float) -> Figure:
    return Figure(name=name, unit=unit, rounds=(value,))


def _each(name: str, unit: str, found: list[Found], key: str) -> Figure:
    return Figure(name=name, unit=unit, rounds=tuple(one[key] for one in found))


def _of_load(name: str, found: list[Found]) -> tuple[Figure, ...]:
    return (
        _each(f"{name}", "entries/s", found, "per_s"),
        _each(f"{name}: lag, median", "ms", found, "p50_ms"),
        _each(f"{name}: lag, p99", "ms", found, "p99_ms"),
        _each(f"{name}: lag, most", "ms", found, "max_ms"),
        _each(f"{name}: proofs checked meanwhile", "", found, "checks"),
        _each(f"{name}: memory", "MB", found, "peak_mb"),
    )


def _at_most(what: str, unit: str, goal: float, found: list[Found], key: str) -> Verdict:
    figure = _each(what, unit, found, key)
    return Verdict(what=what, value=figure.median, goal=goal, at_least=False, unit=unit)
