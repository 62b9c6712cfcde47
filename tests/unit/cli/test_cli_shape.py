"""The command line as a whole: help of every command, what is imported when, exit statuses, JSON everywhere."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest
import typer

from outlast import __version__
from outlast.core.errors import Conflict, Corrupt, OutlastError, Refused, Unavailable, Unknown
from outlast.surfaces.cli.invocation import (
    Failure,
    Invocation,
    RootOptions,
    cause_of,
    command,
    exit_status,
    single,
)
from outlast.surfaces.cli.main import COMMANDS, main

SERVER = (
    "apsw",
    "starlette",
    "uvicorn",
    "uvloop",
    "outlast.wiring.site",
    "outlast.surfaces.http.app",
)
"""What only a site needs."""


def groups() -> dict[str, list[str]]:
    """The sub-commands by command, none for a command without."""
    found = {}
    for name, entry in COMMANDS.items():
        module = __import__(f"outlast.surfaces.cli.{entry.module}", fromlist=["app"])
        commands = module.app.registered_commands
        is_group = module.app.registered_callback is not None
        found[name] = [
            c.name or c.callback.__name__.replace("_", "-") for c in commands if is_group
        ]
    return found


def imported_by(*arguments: str, cwd: pathlib.Path) -> set[str]:
    """The modules that a command line has imported when it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(*sys.modules, file=open('modules', 'w')))\n"
        "from outlast.surfaces.cli.main import main\n"
        f"sys.exit(main({list(arguments)!r}))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, check=False)
    return set((cwd / "modules").read_text().split())


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command and sub-command says what it does, and takes --json."""
    for name, subcommands in groups().items():
        for line in [[name], *([name, sub] for sub in subcommands)]:
            assert main([*line, "--help"]) == 0
            shown = capsys.readouterr().out
            assert shown.startswith("Usage: outlast")
            assert "--json" in shown or subcommands, line


def test_the_root_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """The first help names every command with its line."""
    main(["--help"])
    shown = capsys.readouterr().out
    for name, entry in COMMANDS.items():
        assert f"  {name} " in shown
        assert entry.summary[:30] in shown


def test_help_imports_no_command(tmp_path: pathlib.Path) -> None:
    """Help loads neither the server nor any command's own parts, so it is there at once."""
    modules = imported_by("--help", cwd=tmp_path)
    assert not modules & {
        *SERVER,
        "cryptography",
        "httpx2",
        "asn1crypto",
        "rich.console",
        "asyncio",
    }


def test_verify_imports_no_server(tmp_path: pathlib.Path) -> None:
    """Verification works where no server could be loaded."""
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.7 nothing")
    modules = imported_by("verify", "x.pdf", cwd=tmp_path)
    assert "pyhanko.sign" in modules
    assert not modules & {*SERVER, "httpx2"}


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """As an option, as a command, and as JSON with the option on either side."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"outlast {__version__}\n"
    for line in (["--json", "version"], ["version", "--json"]):
        assert main(line) == 0
        assert json.loads(capsys.readouterr().out)["outlast"] == __version__


def test_wrong_usage_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown commands and options."""
    assert main(["bogus"]) == 2
    assert main(["version", "--bogus"]) == 2
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Refused("no", "no"), 2),
        (Refused("not-yet", "no", retry="later"), 3),
        (Conflict("moved", "no"), 3),
        (Conflict("state", "no", retry="never"), 2),
        (Unavailable("down", "no"), 3),
        (Unknown("lost", "no"), 3),
        (Corrupt("damaged", "no"), 1),
    ],
)
def test_exit_statuses_follow_the_kind_of_error(error: OutlastError, status: int) -> None:
    """Refused is 2, what may pass is 3, damage is 1."""
    assert exit_status(error) == status


def raising(error: BaseException) -> typer.Typer:
    """A command line whose only command fails."""
    app = single()

    @command(app)
    def fail(cli: Invocation) -> None:
        raise error

    return app


def run(app: typer.Typer, *arguments: str) -> int:
    """The exit status of a command line."""
    with pytest.raises(SystemExit) as exit_:
        app(args=list(arguments))
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


def test_errors_tell_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    """Message, code and hint on standard error; nothing on standard output, no traceback."""
    assert run(raising(Refused("too-late", "it is over", hint="Come earlier."))) == 2
    captured = capsys.readouterr()
    assert captured.err == "outlast: it is over (too-late)\n  Come earlier.\n"
    assert captured.out == ""


def test_errors_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The same for programs."""
    assert run(raising(Unavailable("down", "it is down", hint="Wait.")), "--json") == 3
    assert json.loads(capsys.readouterr().err) == {
        "code": "down",
        "message": "it is down",
        "hint": "Wait.",
        "retry": "later",
        "exit_status": 3,
    }
    assert set(Failure.__struct_fields__) == {"code", "message", "hint", "retry", "exit_status"}


def test_failures_inside_task_groups_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    """What a task group wraps is reported as what it is."""
    inner = Unavailable("down", "it is down")
    group = ExceptionGroup("tasks", [ValueError("other"), ExceptionGroup("more", [inner])])
    assert cause_of(group) is inner
    assert run(raising(group)) == 3
    assert "it is down" in capsys.readouterr().err


def test_unforeseen_failures_are_not_swallowed() -> None:
    """A mistake of ours keeps its traceback."""
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())(args=[])


def test_options_may_stand_on_either_side(tmp_path: pathlib.Path) -> None:
    """The nearer one wins."""
    outer = Invocation(RootOptions(data=tmp_path / "outer"))
    assert outer.config.data == tmp_path / "outer"


def test_data_wins_over_the_file(tmp_path: pathlib.Path) -> None:
    """--data replaces what the configuration says, and nothing else of it."""
    file = tmp_path / "outlast.toml"
    file.write_text("[site]\nname = 'eu-1'\ndata = 'there'\n")
    config = Invocation(RootOptions(config=file)).config
    assert (config.site.name, config.data) == ("eu-1", tmp_path / "there")
    config = Invocation(RootOptions(config=file, data=tmp_path / "here")).config
    assert (config.site.name, config.data) == ("eu-1", tmp_path / "here")


def test_a_file_here_is_the_default(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """./outlast.toml is used when it is there, and named in errors when it is wrong."""
    monkeypatch.chdir(tmp_path)
    assert Invocation(RootOptions()).config.site.name == "site"
    (tmp_path / "outlast.toml").write_text("[sight]\n")
    with pytest.raises(Refused, match="sight"):
        _ = Invocation(RootOptions()).config
