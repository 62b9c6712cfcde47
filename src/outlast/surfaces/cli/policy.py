"""``outlast policy check``: are the policies sound, and what do they allow here?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from outlast.surfaces.cli.invocation import Invocation, command, group

if TYPE_CHECKING:
    from rich.console import Console

app = group("Check the policy set.")


class Allowed(msgspec.Struct, frozen=True):
    """Whether a provider may work for a class; ``why`` not."""

    class_name: str
    provider: str
    allowed: bool
    why: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """The policy set, and what it answers in a mode."""

    policies: tuple[str, ...]
    sha256: str
    mode: str
    answers: tuple[Allowed, ...]


@command(app, is_remote=False)
def check(
    cli: Invocation,
    mode: Annotated[str, typer.Option(help="Ask as if the site were in this mode.")] = "normal",
    tenant: Annotated[str, typer.Option(help="Ask for this tenant.")] = "default",
) -> None:
    """Parse and check the policies, and show which provider may work for which class."""
    from outlast.wiring.site import denials, load_policy

    config = cli.config
    policy = load_policy(config)
    denied = denials(policy, config, lambda: mode)
    answers = tuple(
        Allowed(class_name, provider, not why, why)
        for class_name in config.classes
        for provider in (*config.providers, *config.authorities)
        for why in (denied(tenant, class_name, provider),)
    )
    answer = Checked(policies=policy.ids, sha256=policy.digest, mode=mode, answers=answers)
    cli.show(answer, lambda console: _print(console, answer))


def _print(console: Console, answer: Checked) -> None:
    from outlast.surfaces.cli.tables import print_table

    console.print(f"{len(answer.policies)} policies, sound. SHA-256 {answer.sha256}")
    rows = [
        (a.class_name, a.provider, "allowed" if a.allowed else "denied", a.why)
        for a in answer.answers
    ]
    headings = ("class", "provider", f"in mode {answer.mode}", "why not")
    print_table(console, headings, rows, "No classes.")
