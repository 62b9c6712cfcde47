"""The status page as people see it."""

from __future__ import annotations

from outlast.operations.model.mode import Limits, Observed
from outlast.operations.views import NodeView, Status, status
from outlast.surfaces.cli.status import picture


def page(*nodes: NodeView) -> Status:
    """A page of a site with these nodes."""
    return status(
        site="s",
        version="1",
        at_ms=0,
        mode=None,
        observed=Observed(),
        limits=Limits(),
        node="a",
        nodes=nodes,
    )


def test_nodes_are_shown_where_there_are_several() -> None:
    """Each with its state, and since when: a stopped one since it stopped; the only node of a site is not worth a table."""
    a = NodeView(name="a", state="up", version="1", started_ms=0, mode="degraded")
    b = NodeView(name="b", state="stopped", version="1", started_ms=0, stopped_ms=60_000)
    c = NodeView(name="c", state="gone", version="1", started_ms=0, mode="read-only")
    text = picture(page(a, b, c)).plain
    rows = [line.split() for line in text.splitlines()]
    assert ["a", "up", "degraded", "1", "1970-01-01", "00:00:00"] in rows
    assert ["b", "stopped", "1", "1970-01-01", "00:01:00"] in rows
    assert ["c", "gone", "1", "1970-01-01", "00:00:00"] in rows
    assert "node" not in picture(page(a)).plain
