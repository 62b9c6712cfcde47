"""Service level objectives: one file, from which Prometheus' rules and Grafana's dashboard are made.

Guarantees: the same file gives the same rules, byte for byte. Every objective gets its error ratio over each window as
a recording rule, and alerts when its error budget is spent too fast in a long and a short window at once (Google SRE
workbook, chapter 5, "Multiwindow, multi-burn-rate alerts"): BURNS. Every alert names a section of the runbook.

Refuses: objectives outside (0, 1), names that no rule may have, an objective without or with two ways to count. What
expressions mean is Prometheus' business: `promtool check rules` and the tests look at that.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import msgspec

from outlast.core.errors import Refused

MAX_FILE_BYTES = 256 * 1024
Severity = Literal["page", "ticket"]


class Burn(NamedTuple):
    """An alert's rate of spending, its windows, and how bad it is."""

    rate: float
    long: str
    short: str
    severity: Severity


BURNS = (
    Burn(14.4, "1h", "5m", "page"),
    Burn(6.0, "6h", "30m", "page"),
    Burn(1.0, "3d", "2h", "ticket"),
)
"""2 % of a month's budget in an hour, 5 % in six, 10 % in three days."""
LATE = "outlast:slo_late"
"""1 while a promise about a gauge is broken."""
WINDOWS = ("5m", "30m", "1h", "2h", "6h", "3d")

_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_ALERT = re.compile(r"[A-Z][A-Za-z0-9]{0,40}")
_METRIC = re.compile(r"\b(?:outlast|process|python_gc)_[a-z0-9_]+\b")
_SELECTOR = re.compile(r"([a-z_]+)(?:\{(.*)\})?")


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class SiteTable(_Part, frozen=True, kw_only=True):
    """Which scrape job it is, where the runbook is, days of an error budget."""

    job: str = "outlast"
    runbook: str = ""
    days: int = 30


class Slower(_Part, frozen=True, kw_only=True):
    """Events of a histogram above one of its bounds, in seconds."""

    histogram: str
    than: float


class Late(_Part, frozen=True, kw_only=True):
    """Minutes in which a gauge is above a limit."""

    gauge: str
    than: float


class Objective(_Part, frozen=True, kw_only=True):
    """A promise. ``by`` are labels that it is kept for each value of; ``severity`` bounds that of its alerts."""

    title: str
    objective: float
    about: str
    bad: str = ""
    total: str = ""
    slower: Slower | None = None
    late: Late | None = None
    by: tuple[str, ...] = ()
    severity: Severity = "page"


class Alert(_Part, frozen=True, kw_only=True):
    """Something to be told of. ``expr`` is PromQL."""

    expr: str
    for_minutes: int
    severity: Severity
    summary: str


class Slo(_Part, frozen=True, kw_only=True):
    """The whole file."""

    site: SiteTable
    objectives: dict[str, Objective]
    alerts: dict[str, Alert]


class Rule(NamedTuple):
    """A rule: a recording where ``record`` is set, else the alert ``alert``."""

    expr: str
    record: str = ""
    alert: str = ""
    for_: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class Group(NamedTuple):
    """Rules that are evaluated together."""

    name: str
    rules: tuple[Rule, ...]


def load_slo(raw: bytes) -> Slo:
    """A file's content; raises Refused ``slo-invalid``."""
    try:
        if len(raw) > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES} bytes")
        slo = msgspec.convert(tomllib.loads(raw.decode()), Slo)
    except ValueError as error:  # msgspec's, tomllib's and Unicode's errors are all of this kind
        raise _invalid(str(error)) from error
    for name, objective in slo.objectives.items():
        _check(name, objective)
    for name in slo.alerts:
        if not _ALERT.fullmatch(name):
            raise _invalid(f"no alert can be called {name!r}")
    return slo


def _check(name: str, objective: Objective) -> None:
    if not _NAME.fullmatch(name):
        raise _invalid(f"no objective can be called {name!r}")
    if not 0 < objective.objective < 1:
        raise _invalid(f"{name}: its objective must be between 0 and 1")
    ways = (bool(objective.bad and objective.total), bool(objective.slower), bool(objective.late))
    if sum(ways) != 1 or bool(objective.bad) != bool(objective.total):
        raise _invalid(f"{name}: give bad and total, or slower, or late, and only one of these")
    if objective.slower and not _SELECTOR.fullmatch(objective.slower.histogram):
        raise _invalid(f"{name}: its histogram must be a name, labels in braces behind it")


def rule_groups(slo: Slo) -> tuple[Group, ...]:
    """All rules."""
    objectives = slo.objectives.items()
    ratios = tuple(r for name, o in objectives for r in _recordings(name, o))
    burns = tuple(r for name, o in objectives for r in _burn_alerts(slo, name, o))
    causes = tuple(_cause(slo, name, alert) for name, alert in slo.alerts.items())
    return (
        Group("outlast-slo-ratios", ratios),
        Group("outlast-slo-burns", burns),
        Group("outlast-causes", causes),
    )


def error_ratio(name: str, objective: Objective, window: str) -> str:
    """PromQL of the share of bad events within a window, by job, instance and the objective's own labels."""
    by = f"by ({', '.join(('job', 'instance', *objective.by))})"
    if objective.late is not None:
        return f'avg_over_time({LATE}{{slo="{name}"}}[{window}])'
    bad, total = objective.bad, objective.total
    if objective.slower is not None:
        match = _SELECTOR.fullmatch(objective.slower.histogram)
        assert match is not None, "checked when it was read"
        name, labels = match[1], match[2] or ""
        bound = f'le="{objective.slower.than}"'
        inside = f"{labels},{bound}" if labels else bound
        total = f"{name}_count{{{labels}}}" if labels else f"{name}_count"
        good = f"sum {by} (rate({name}_bucket{{{inside}}}[{window}]))"
        return f"1 - {good}\n  / (sum {by} (rate({total}[{window}])) > 0)"
    # without any bad event yet there is no such series: then the ratio is 0, not nothing
    fallback = f"0 * sum {by} (rate({total}[{window}]))"
    return (
        f"(sum {by} (rate({bad}[{window}])) or {fallback})\n"
        f"  / (sum {by} (rate({total}[{window}])) > 0)"
    )


def _recordings(name: str, objective: Objective) -> Iterator[Rule]:
    if objective.late is not None:
        # recorded, so that three days are three days of samples and not of evaluations
        late = f"({objective.late.gauge}) > bool {objective.late.than:g}"
        yield Rule(late, record=LATE, labels={"slo": name})
    for window in WINDOWS:
        yield Rule(
            error_ratio(name, objective, window), record=_recorded(window), labels={"slo": name}
        )


def _recorded(window: str) -> str:
    return f"outlast:slo_errors:ratio_{window}"


def _burn_alerts(slo: Slo, name: str, objective: Objective) -> Iterator[Rule]:
    for burn in BURNS:
        limit = f"{burn.rate * (1 - objective.objective):.6g}"
        both = " and ".join(
            f'{_recorded(window)}{{slo="{name}"}} > {limit}' for window in (burn.long, burn.short)
        )
        severity = "ticket" if "ticket" in (burn.severity, objective.severity) else "page"
        yield Rule(
            both,
            alert="OutlastSloBurn",
            for_="2m",
            labels={"severity": severity, "slo": name, "window": burn.long},
            annotations={
                "summary": f"{objective.title}: the error budget is spent {burn.rate:g} times too fast",
                "description": f"{objective.about} Objective: {objective.objective * 100:g} %."
                f" Error ratio over {burn.long}: {{{{ $value | humanizePercentage }}}}.",
                "runbook_url": f"{slo.site.runbook}#{name}",
            },
        )


def _cause(slo: Slo, name: str, alert: Alert) -> Rule:
    return Rule(
        alert.expr.replace("$job", slo.site.job),
        alert=f"Outlast{name}",
        for_=f"{alert.for_minutes}m" if alert.for_minutes else "",
        labels={"severity": alert.severity},
        annotations={
            "summary": alert.summary,
            "runbook_url": f"{slo.site.runbook}#{name.lower()}",
        },
    )


def rules_yaml(slo: Slo) -> str:
    """The rules as Prometheus reads them."""
    lines = ["# Made from slo.toml by `outlast slo rules`. Do not edit.", "groups:"]
    for group in rule_groups(slo):
        lines += [f"  - name: {group.name}", "    rules:"]
        for rule in group.rules:
            lines += _rule_lines(rule)
    return "\n".join(lines) + "\n"


def _rule_lines(rule: Rule) -> Iterator[str]:
    yield f"      - record: {rule.record}" if rule.record else f"      - alert: {rule.alert}"
    yield f"        expr: {_text(rule.expr)}"
    if rule.for_:
        yield f"        for: {rule.for_}"
    for what, pairs in (("labels", rule.labels), ("annotations", rule.annotations)):
        if pairs:
            yield f"        {what}:"
            yield from (f"          {key}: {_text(value)}" for key, value in pairs.items())


def _text(value: str) -> str:
    """A single-quoted scalar (YAML 1.2, section 7.3.2)."""
    return "'" + " ".join(value.split()).replace("'", "''") + "'"


def metrics_named(text: str) -> frozenset[str]:
    """The site's metrics that an expression, or any text, names."""
    return frozenset(_METRIC.findall(text))


def _invalid(why: str) -> Refused:
    return Refused("slo-invalid", why, hint="See deploy/observability/slo.toml.")
