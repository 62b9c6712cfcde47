"""``outlast config check``: can the configuration be used?"""

from __future__ import annotations

import msgspec

from outlast.surfaces.cli.invocation import Invocation, command, group

app = group("Check the configuration.")


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What a usable configuration says. ``file`` is empty where there is none."""

    file: str
    site: str
    origin: str
    data: str
    store: str
    listens: str
    providers: dict[str, str]
    authorities: dict[str, str]
    blobs: dict[str, str]
    classes: dict[str, str]


@command(app, is_remote=False)
def check(cli: Invocation) -> None:
    """Load the configuration, open what it names (key files, TLS files, certificates), and say what it means.

    Asks no provider, store or database: whether they answer, `outlast status` tells.
    """
    from outlast.core.clock import SystemClock
    from outlast.wiring.blobs import check_stores
    from outlast.wiring.providers import build_authorities
    from outlast.wiring.storage import need_driver, read_dsn

    config = cli.config
    build_authorities(config, SystemClock())
    check_stores(config)
    if config.store.dsn_file:
        need_driver()
        read_dsn(config.store.dsn_file)
    answer = Checked(
        file=str(cli.config_path or ""),
        site=config.site.name,
        origin=config.origin,
        data=str(config.data),
        store=f"PostgreSQL, as {config.store.dsn_file} says" if config.store.dsn_file else "SQLite",
        listens=f"{config.http.host}:{config.http.port}",
        providers={name: p.__struct_config__.tag for name, p in config.providers.items()},  # type: ignore[misc]  # tags are text here
        authorities={name: a.url for name, a in config.authorities.items()},
        blobs={name: b.__struct_config__.tag for name, b in config.blobs.items()},  # type: ignore[misc]  # tags are text here
        classes={name: c.level for name, c in config.classes.items()},
    )
    cli.show(answer, lambda console: console.print(_text(answer)))


def _text(answer: Checked) -> str:
    def listed(items: dict[str, str]) -> str:
        return ", ".join(f"{name} ({what})" for name, what in items.items()) or "none"

    return "\n".join(
        (
            f"{answer.file or 'No file: all defaults'}: can be used.",
            f"  site         {answer.site}, log {answer.origin}",
            f"  data         {answer.data}",
            f"  database     {answer.store}",
            f"  listens      {answer.listens}",
            f"  providers    {listed(answer.providers)}",
            f"  authorities  {listed(answer.authorities)}",
            f"  blobs        {listed(answer.blobs)}",
            f"  classes      {listed(answer.classes)}",
        )
    )
