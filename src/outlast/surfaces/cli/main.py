"""``outlast``: the root of the command line.

Guarantees that asking for help, or verifying a file, loads nothing of the server: each command's module is imported
when the command is called, and each imports what it needs inside.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from outlast import __version__
from outlast.surfaces.cli.invocation import (
    ConfigOption,
    DataOption,
    JsonOption,
    RootOptions,
    UrlOption,
)


class Entry(NamedTuple):
    """A command: the module in this package that has it as ``app``, and its line in the help."""

    module: str
    summary: str


COMMANDS: dict[str, Entry] = {
    "serve": Entry("serve", "Run a site. Without configuration: on this machine only."),
    "sign": Entry("sign", "Sign files, through a running site or an embedded one."),
    "verify": Entry("verify", "Check signed files and evidence, offline."),
    "init": Entry("init", "Write a commented outlast.toml."),
    "status": Entry("status", "How the site is: mode, providers, work, log."),
    "requests": Entry("requests", "Signature requests: list, show, approve, cancel, fetch."),
    "keys": Entry("keys", "Signing keys: list, generate, enrol, disable, enable."),
    "providers": Entry("providers", "Key providers and timestamp authorities."),
    "mode": Entry("mode", "The site's mode: show, set by hand, release."),
    "jobs": Entry("jobs", "Work and dead letters: list, show, replay, park, discard."),
    "blobs": Entry("blobs", "Where documents are kept: status, debts, scrub."),
    "api-keys": Entry("api_keys", "Who may call the API: create, list, revoke."),
    "log": Entry("log", "The log: show, prove, verify, fsck, append."),
    "store": Entry("store", "The site's database: move it."),
    "migrate": Entry("migrate", "The database's schema: what it has had, what is pending, run it."),
    "policy": Entry("policy", "Check the policy set."),
    "config": Entry("config", "Check the configuration."),
    "slo": Entry("slo", "Alert rules and a dashboard from service level objectives."),
    "signer": Entry("appliance", "Run a signing appliance."),
    "tsa": Entry("tsa", "Run a local timestamp authority, for tests and demos."),
    "demo": Entry("demo", "The main job on real documents while providers are killed."),
    "version": Entry("version", "Print the version."),
}
"""In the order of the help."""


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are called."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        # names only, for "did you mean": `get_command` imports
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # no command is there yet

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names, without importing any."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them, imported; None if there is none."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = import_module(f"outlast.surfaces.cli.{entry.module}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        command.help = command.help or entry.summary
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in the help, from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


app = typer.Typer(
    cls=LazyGroup,
    name="outlast",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"outlast {__version__}\n")
        raise typer.Exit


@app.callback()
def outlast(
    ctx: typer.Context,
    config: ConfigOption = None,
    data: DataOption = None,
    url: UrlOption = "",
    json: JsonOption = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Outlast keeps signing documents while providers fail, and lets anyone verify what happened.

    Start: `outlast serve`, then `outlast sign FILE -o signed.pdf` and `outlast verify signed.pdf`.
    """
    ctx.obj = RootOptions(config=config, data=data, url=url, json=json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (``sys.argv`` without one); its exit status."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="outlast")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    return 0
