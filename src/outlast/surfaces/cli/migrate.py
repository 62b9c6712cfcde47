"""``outlast migrate``: the schema of the site's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rich.console import Console

    from outlast.core.store.migration import Phase
    from outlast.wiring.schema import SchemaReport

app = group("The database's schema: what it has had, what is pending, run it.")

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")]


@command(app, is_remote=False)
def status(cli: Invocation) -> None:
    """Which migrations the site's database has had, and which are pending."""
    _answer(cli, (), is_dry=True)


@command(app, is_remote=False)
def pre(cli: Invocation, dry_run: DryRun = False) -> None:
    """Run the pending migrations that only add: the previous release works on. Every start does this by itself."""
    _answer(cli, ("pre",), is_dry=dry_run)


@command(app, is_remote=False)
def post(cli: Invocation, dry_run: DryRun = False) -> None:
    """Run all pending migrations. Programs of releases before the last of them are refused from then on: run this when
    every node has the new release, and you do not want to go back."""
    _answer(cli, ("pre", "post"), is_dry=dry_run)


def _answer(cli: Invocation, phases: tuple[Phase, ...], *, is_dry: bool) -> None:
    import asyncio

    from outlast.wiring.schema import read_schema, run_migrations

    work = read_schema(cli.config) if is_dry else run_migrations(cli.config, phases)
    report = asyncio.run(work)
    cli.show(report, lambda console: _print(console, report, phases if is_dry else ()))


def _print(console: Console, report: SchemaReport, would_run: tuple[Phase, ...]) -> None:
    from outlast.surfaces.cli.tables import print_facts

    def listed(titles: list[str]) -> str:
        return ", ".join(titles) or "none"

    facts = [
        ("database", {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[report.engine]),
        ("schema", str(report.newest)),
        ("this program's", str(report.program)),
        ("oldest program's", str(report.oldest or "any")),
        ("pending pre", listed(report.pending_pre)),
        ("pending post", listed(report.pending_post)),
    ]
    if report.ran:
        facts.append(("run now", listed(report.ran)))
    if would_run:
        titles = report.pending_pre + (report.pending_post if "post" in would_run else [])
        facts.append(("would be run", listed(sorted(titles))))
    print_facts(console, facts)
