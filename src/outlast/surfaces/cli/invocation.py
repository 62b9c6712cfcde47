"""What every command gets: where the site is, how to print, and how failures become exit statuses.

A command is a function whose first parameter is an `Invocation`; `command` registers it with the options that all
commands share, so ``--json`` works before and after the command's name.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable, Unknown

if TYPE_CHECKING:
    from rich.console import Console

    from outlast.wiring.config import Config

EXIT_NEGATIVE = 1
"""A verification failed, or stored data did."""
EXIT_REFUSED = 2
"""Wrong usage, or refused: the same again will not help."""
EXIT_UNAVAILABLE = 3
"""Not now, or the outcome is unknown: try again."""

CONFIG_FILE = "outlast.toml"
WIDE_COLUMNS = 400
"""Of a line that goes to a file or another program: nothing is folded for them."""

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help=f"Configuration (default: ./{CONFIG_FILE} if it is there)."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="The site's data folder; wins over the file's."),
]
UrlOption = Annotated[
    str,
    typer.Option(
        "--url",
        metavar="URL",
        envvar="OUTLAST_URL",
        help="A site elsewhere; its token is taken from the environment's OUTLAST_TOKEN.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class RootOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The shared options as given before the command's name."""

    config: Path | None = None
    data: Path | None = None
    url: str = ""
    json: bool = False


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """A failed command, as ``--json`` prints it."""

    code: str
    message: str
    hint: str
    retry: str
    exit_status: int


class Invocation:
    """One call of a command. ``json``: print for programs; ``url``: a site elsewhere, empty for this machine's."""

    def __init__(self, options: RootOptions) -> None:
        self.json = options.json
        self.url = options.url
        self._config_file = options.config
        self._data = options.data

    @functools.cached_property
    def config(self) -> Config:
        """The configuration; all defaults where there is no file. Raises Refused ``config-invalid``."""
        from outlast.wiring import config as configuration

        path = self._config_file
        if path is None and Path(CONFIG_FILE).exists():
            path = Path(CONFIG_FILE)
        if path is not None:
            config = configuration.load_config(path)
        else:
            base = configuration.Config()
            config = configuration.check(configuration.resolved(base, Path.cwd()))
        if self._data is not None:
            site = msgspec.structs.replace(config.site, data=str(self._data.absolute()))
            config = msgspec.structs.replace(config, site=site)
        return config

    @property
    def data(self) -> Path | None:
        """The folder given with ``--data``, None where none was."""
        return self._data

    @property
    def config_path(self) -> Path | None:
        """The configuration's file, None where there is none."""
        if self._config_file is not None:
            return self._config_file
        return Path(CONFIG_FILE) if Path(CONFIG_FILE).exists() else None

    @functools.cached_property
    def console(self) -> Console:
        """Where answers go."""
        from rich.console import Console

        is_terminal = sys.stdout.isatty()
        return Console(
            highlight=False,
            soft_wrap=True,
            width=None if is_terminal or os.environ.get("COLUMNS") else WIDE_COLUMNS,
        )

    @functools.cached_property
    def notes(self) -> Console:
        """Where remarks and progress go: standard error."""
        from rich.console import Console

        return Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A remark for a person; nothing in JSON mode."""
        if not self.json:
            sys.stderr.write(f"{text}\n")

    def show(self, answer: object, render: Callable[[Console], None]) -> None:
        """Print an answer: the struct as one line of JSON, or as ``render`` draws it."""
        if self.json:
            self.line(answer)
        else:
            render(self.console)

    def line(self, answer: object) -> None:
        """A struct as one line of JSON."""
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()


def command(
    app: typer.Typer, name: str | None = None, *, is_remote: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``function(invocation, ...)`` with the shared options; ``is_remote`` False leaves out ``--url``."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        taken = inspect.signature(function, eval_str=True).parameters.values()
        own = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in taken][1:]
        shared = [
            _parameter("config", ConfigOption, None),
            _parameter("data", DataOption, None),
            *([_parameter("url", UrlOption, "")] if is_remote else []),
            _parameter("json", JsonOption, False),
        ]

        def run(**given: Any) -> None:
            ctx: typer.Context = given.pop("ctx")
            invocation = _invocation(ctx, {p.name: given.pop(p.name) for p in shared})
            _guarded(invocation, lambda: function(invocation, **given))

        parameters = [_parameter("ctx", typer.Context), *own, *shared]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by Typer
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        app.command(name)(run)
        return function

    return register


_PLAIN: dict[str, Any] = {
    "add_completion": False,  # it belongs to the whole program
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}


def group(summary: str) -> typer.Typer:
    """A command with sub-commands."""
    app = typer.Typer(help=summary, no_args_is_help=True, **_PLAIN)
    app.callback()(lambda: None)  # keeps a group a group while it has one command
    return app


def single() -> typer.Typer:
    """A command without sub-commands."""
    return typer.Typer(**_PLAIN)


def _parameter(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _invocation(ctx: typer.Context, given: dict[str, Any]) -> Invocation:
    root = ctx.find_root().obj
    options = root if isinstance(root, RootOptions) else RootOptions()
    changes = {name: value for name, value in given.items() if value}
    return Invocation(msgspec.structs.replace(options, **changes))


def _guarded(invocation: Invocation, work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as raised:
        error = cause_of(raised)
        if not isinstance(error, OutlastError):
            raise
        status = exit_status(error)
        print_failure(invocation.json, error, status)
        if os.environ.get("OUTLAST_TRACEBACK"):
            raise
        raise typer.Exit(status) from raised


def cause_of(raised: BaseException) -> BaseException:
    """The failure inside task groups' exception groups: the first of ours, else the exception itself."""
    inside: BaseException | None = raised
    if isinstance(raised, BaseExceptionGroup):
        inside = raised.subgroup(OutlastError)
    while isinstance(inside, BaseExceptionGroup):
        inside = inside.exceptions[0]
    return raised if inside is None else inside


def exit_status(error: OutlastError) -> int:
    """The exit status that an error stands for."""
    if isinstance(error, Corrupt):
        return EXIT_NEGATIVE
    if isinstance(error, Unavailable | Unknown) or error.retry in ("same", "later"):
        return EXIT_UNAVAILABLE
    return EXIT_REFUSED


def print_failure(as_json: bool, error: OutlastError, status: int) -> None:
    """The error on standard error: message and hint, or JSON."""
    if as_json:
        failure = Failure(
            code=error.code,
            message=error.message,
            hint=error.hint,
            retry=error.retry,
            exit_status=status,
        )
        sys.stderr.write(msgspec.json.encode(failure).decode() + "\n")
        return
    sys.stderr.write(f"outlast: {error.message} ({error.code})\n")
    if error.hint:
        sys.stderr.write(f"  {error.hint}\n")


def refuse_overwriting(path: Path, force: bool) -> None:
    """Raise Refused ``file-exists`` unless the path is free or may be replaced."""
    if path.exists() and not force:
        raise Refused("file-exists", f"{path} is there already", hint="--force replaces it.")
