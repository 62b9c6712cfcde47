"""Case: one node and two nodes of a site on one PostgreSQL. See `measure`."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Iterator

import msgspec

from bench.accept import WITHOUT_WORKERS, accepting
from bench.limit import share_of_core, why_not
from bench.load import Load, Spec
from bench.measure import Figure, Outcome, ratio
from bench.servers import database, drive, free_port, postgres, scratch
from bench.site import on_postgres, serving, site
from outlast.testing.seaweed import SeaweedServer

SHARE = 0.3
"""Of a core, for each node."""
GOAL = 1.6
SECONDS = 3.0
TITLE = "Two nodes"


def measure(rounds: int) -> Outcome:
    """One node under load, then both, in turn."""
    missing = why_not()
    if missing:
        note = (
            f"Not measured: {missing}. It needs nodes that are limited and a database that is not."
        )
        return Outcome(case="nodes", title=TITLE, method="", figures=(), verdicts=(), notes=(note,))
    loads: dict[int, list[Load]] = {1: [], 2: []}
    with two_nodes() as spec:
        for _ in range(rounds):
            loads[1].append(drive(msgspec.structs.replace(spec, more_ports=())))
            loads[2].append(drive(spec))
    one, two = (
        Figure(name=f"{n} node(s)", unit="accepts/s", rounds=tuple(x.per_s for x in loads[n]))
        for n in (1, 2)
    )
    late = (
        Figure(name=f"{n} node(s), p99", unit="ms", rounds=tuple(x.p99_ms for x in loads[n]))
        for n in (1, 2)
    )
    return Outcome(
        case="nodes",
        title=TITLE,
        method=(
            "The accept of above, 64 connections in all, to one node of a site that has two (the other idles) and to both; they "
            "are processes on this machine that share a PostgreSQL. Both cores are busy with less than one node could use, so each node "
            f"is held to {SHARE:.0%} of a core by the kernel (a cpu cgroup), as if it had a small machine of its own; "
            "database, object store and load generator are not limited. What is shown is that nodes do not stand in each other's "
            "way while the database has room, not what two whole machines would do: each flush still takes its turn at "
            "the log head's row."
        ),
        figures=(one, two, *late),
        verdicts=(ratio("accepts per second, two nodes over one", two, one, goal=GOAL),),
    )


@contextlib.contextmanager
def documents(folder: pathlib.Path) -> Iterator[str]:
    """An object store for documents, which nodes must share; yields the part of a configuration that names it."""
    server = SeaweedServer(folder, free_port)
    server.start()
    try:
        yield (
            f'[blobs.shared]\nkind = "s3"\nendpoint = "{server.endpoint}"\nbucket = "{server.bucket}"\n'
            f'access_key_file = "{server.access_key_file}"\n'
            f'secret_key_file = "{server.secret_key_file}"\n\n'
        )
    finally:
        server.kill()


@contextlib.contextmanager
def two_nodes() -> Iterator[Spec]:
    """Two nodes of a new site, each slowed down; yields what to send them."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch("nodes"))
        dsn = database(stack.enter_context(postgres()), "nodes")
        tables = WITHOUT_WORKERS + stack.enter_context(documents(folder / "seaweed"))
        first, second = folder / "first", folder / "second"
        first.mkdir()
        one = stack.enter_context(site(first, tables + on_postgres(first, dsn)))
        # a copy of the first one's secrets, as docs/howto/postgresql.md says
        shutil.copytree(first / "data" / "secrets", second / "data" / "secrets")
        two = stack.enter_context(serving(second, tables + on_postgres(second, dsn)))
        spec = accepting(one)  # a document is put in before the nodes are slowed down
        for number, node in enumerate((one, two)):
            stack.enter_context(share_of_core(node.pid, SHARE, str(number)))
        yield msgspec.structs.replace(spec, more_ports=(two.port,), seconds=SECONDS)
