"""Who may do what with what: Cedar policies, checked when loaded, asked at every step that matters.

Guarantees: what no policy permits is denied; one forbid outweighs every permit; a policy that fails while it is
evaluated denies (Cedar itself would ignore a failing forbid); a policy set that does not parse, or that the schema
contradicts, is refused with its position before it decides anything. Policies and entities are parsed once.
Decisions are functions of their inputs, so they are cached.

Leaves to others: putting ``digest`` on record when it changes, and acting on a denial. A denial is for good
(Refused); what passes by itself, such as a full disk, is not policy. Source: Cedar policy language reference,
https://docs.cedarpolicy.com/.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Literal, NamedTuple

import cedarpy
import msgspec

from outlast.core.errors import Refused
from outlast.core.policytext import Statement, parse_statements

CACHED_DECISIONS = 4_096
"""Decisions kept; one is a few hundred bytes."""


class Entity(NamedTuple):
    """One of the things policies speak of: ``Entity("Provider", "hsm-1")``."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}::{self.id}"

    @classmethod
    def parse(cls, text: str) -> Entity:
        """``Type::id`` as an entity; raises Refused ``policy-entity``."""
        kind, separator, name = text.partition("::")
        if not (kind and separator and name):
            raise Refused("policy-entity", f"{text[:80]!r} is not of the form Type::id")
        return cls(kind, name)


ContextValue = bool | int | str | Entity | frozenset[str] | frozenset[Entity]
Context = Mapping[str, ContextValue]


class ProviderFact(msgspec.Struct, frozen=True, kw_only=True):
    """A configured provider as policies see it."""

    name: str
    region: str = ""
    kind: str = ""
    on_premises: bool = False


class ClassFact(msgspec.Struct, frozen=True, kw_only=True):
    """A configured class as policies see it. No ``regions``: its work may be done anywhere."""

    name: str
    regions: tuple[str, ...] = ()
    on_isolation: Literal["continue", "stop"] = "continue"
    takeover: Literal["never", "manual", "auto"] = "never"
    degradations: tuple[str, ...] = ()


class SiteFact(msgspec.Struct, frozen=True, kw_only=True):
    """A site as policies see it."""

    name: str
    region: str = ""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What configuration says is there; the entities that policies are evaluated over."""

    sites: tuple[SiteFact, ...] = ()
    providers: tuple[ProviderFact, ...] = ()
    classes: tuple[ClassFact, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """The answer. ``reasons`` are the ids of the policies that decided; none on a denial: nothing permits it.
    ``errors`` are failures of evaluation; any of them denies."""

    allow: bool
    reasons: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """The reasons in one line, for people and for the record."""
        if self.errors:
            return f"evaluation failed: {self.errors[0]}"
        if self.reasons:
            return ", ".join(self.reasons)
        return "no policy permits it"


class PolicySet:
    """A checked set of policies over the entities of one configuration. Immutable, thread-safe."""

    def __init__(self, statements: Sequence[Statement], facts: Facts, schema: str) -> None:
        """Use ``load``: it checks."""
        self._schema = _schema(schema)
        self._policies = cedarpy.PolicySet.from_str("\n".join(s.text for s in statements))
        self._entities = _entities(facts, self._schema)
        self._decide = lru_cache(CACHED_DECISIONS)(self._evaluate)
        self.ids = tuple(s.id for s in statements)
        """Ids of all policies, in order."""
        self.digest = ""
        """SHA-256 over the texts of policies and schema, hex: what goes on record."""

    @classmethod
    def load(
        cls, policies: Mapping[str, str] | None = None, facts: Facts | None = None, schema: str = ""
    ) -> PolicySet:
        """Parse and check policies (text by file name; none: the bundled ones) over the facts.

        Raises Refused ``policy-invalid`` naming file, line and policy of the first thing wrong.
        """
        texts = bundled_policies() if policies is None else policies
        schema = schema or bundled_schema()
        statements = parse_statements(texts)
        validate(statements, schema)
        loaded = cls(statements, facts or Facts(), schema)
        loaded.digest = _digest(texts, schema)
        return loaded

    def authorize(
        self, principal: Entity, action: str, resource: Entity, context: Context
    ) -> Decision:
        """Whether ``principal`` may do ``action`` to ``resource``. Never raises: what cannot be evaluated is
        denied."""
        try:
            # the types are part of the key: True and 1 are equal to Python, not to Cedar
            items = tuple((name, type(context[name]), context[name]) for name in sorted(context))
            return self._decide(principal, action, resource, items)
        except TypeError:  # a value that cannot be hashed: no caching
            items = tuple((name, type(value), value) for name, value in context.items())
            return self._evaluate(principal, action, resource, items)

    def denials(
        self, principal: Entity, action: str, resources: Iterable[Entity], context: Context
    ) -> dict[str, str]:
        """Those of ``resources`` that are denied, by id, with the reason: what routing leaves out."""
        decisions = ((r.id, self.authorize(principal, action, r, context)) for r in resources)
        return {name: decision.why for name, decision in decisions if not decision.allow}

    def require(self, principal: Entity, action: str, resource: Entity, context: Context) -> None:
        """Raises Refused ``forbidden`` where ``authorize`` denies."""
        decision = self.authorize(principal, action, resource, context)
        if not decision.allow:
            raise Refused(
                "forbidden",
                f"{principal} may not {action} on {resource}: {decision.why}",
                hint="Policy decides this; `outlast policy check` shows which rule and why.",
                scope=str(resource),
            )

    def _evaluate(
        self,
        principal: Entity,
        action: str,
        resource: Entity,
        context: tuple[tuple[str, type, ContextValue], ...],
    ) -> Decision:
        try:
            request = {
                "principal": principal._asdict(),
                "action": {"type": "Action", "id": action},
                "resource": resource._asdict(),
                "context": {name: _cedar_value(value) for name, _, value in context},
            }
            result = cedarpy.is_authorized(request, self._policies, self._entities, self._schema)
        except (ValueError, TypeError) as error:
            return Decision(False, (), (str(error)[:500],))
        named = result.diagnostics.id_annotations_by_reason
        reasons = tuple(sorted(named.get(r, r) for r in result.diagnostics.reasons))
        errors = tuple(result.diagnostics.errors)
        return Decision(result.allowed and not errors, reasons, errors)


# -- checking ------------------------------------------------------------------------------------------


class PolicyCase(msgspec.Struct, frozen=True, kw_only=True):
    """One expectation: entities as ``Type::id`` text, context as JSON (``{"entity": "Class::gold"}`` for an
    entity, lists for sets). ``because``: the id of a policy that must be among the reasons."""

    expect: Literal["allow", "deny"]
    principal: str
    action: str
    resource: str
    context: dict[str, Any] = {}
    because: str = ""


class Counterexample(msgspec.Struct, frozen=True, kw_only=True):
    """A case that came out otherwise."""

    case: PolicyCase
    allowed: bool
    why: str


def check(
    policies: Mapping[str, str] | None,
    facts: Facts,
    cases: Sequence[PolicyCase],
    schema: str = "",
) -> tuple[Counterexample, ...]:
    """Load the policies and try every case; the answer is what came out otherwise than expected.

    Raises Refused ``policy-invalid`` or ``policy-entity``.
    """
    loaded = PolicySet.load(policies, facts, schema)
    wrong = []
    for case in cases:
        context = {name: _case_value(value) for name, value in case.context.items()}
        decision = loaded.authorize(
            Entity.parse(case.principal), case.action, Entity.parse(case.resource), context
        )
        expected = decision.allow == (case.expect == "allow")
        if not expected or (case.because and case.because not in decision.reasons):
            wrong.append(Counterexample(case=case, allowed=decision.allow, why=decision.why))
    return tuple(wrong)


def validate(statements: Sequence[Statement], schema: str) -> None:
    """Check every policy's types against the schema; raises Refused ``policy-invalid`` with its position."""
    handle = _schema(schema)
    if cedarpy.validate_policies("\n".join(s.text for s in statements), handle):
        return
    for statement in statements:
        result = cedarpy.validate_policies(statement.text, handle)
        if not result:
            raise statement.refused("; ".join(_plain(e.error) for e in result.errors))
    raise Refused("policy-invalid", "the policies contradict the schema")


def bundled_policies() -> dict[str, str]:
    """The policies of a site that configures none."""
    return {"outlast.cedar": _bundled("outlast.cedar")}


def bundled_schema() -> str:
    """The schema that all policies are checked against."""
    return _bundled("outlast.cedarschema")


# -- inside --------------------------------------------------------------------------------------------


def _bundled(name: str) -> str:
    return resources.files("outlast.core").joinpath("policies", name).read_text(encoding="utf-8")


def _digest(texts: Mapping[str, str], schema: str) -> str:
    digest = hashlib.sha256()
    for name, text in [*sorted(texts.items()), ("", schema)]:
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _schema(text: str) -> cedarpy.Schema:
    try:
        return cedarpy.Schema.from_str(text)
    except ValueError as error:
        raise Refused("policy-invalid", f"the schema: {error}") from None


def _plain(error: str) -> str:
    """Cedar's message without its own numbering of policies: the position says which."""
    return error.removeprefix("for policy `policy0`, ")


def _cedar_value(value: Any) -> Any:
    if isinstance(value, Entity):
        return {"__entity": value._asdict()}
    if isinstance(value, frozenset | set | list | tuple):
        return [_cedar_value(item) for item in value]
    return value


def _case_value(value: Any) -> Any:
    if isinstance(value, dict) and isinstance(value.get("entity"), str):
        return Entity.parse(value["entity"])
    if isinstance(value, list):
        return frozenset(_case_value(item) for item in value)
    return value


def _entities(facts: Facts, schema: cedarpy.Schema) -> cedarpy.Entities:
    """The facts as a parsed entity set; regions nest by their dash-separated names."""
    rows: list[dict[str, Any]] = []
    regions: set[str] = set()

    def add(kind: str, name: str, region: str, attrs: dict[str, Any]) -> None:
        parents = [_uid("Region", region)] if region else []
        rows.append({"uid": _uid(kind, name), "attrs": attrs, "parents": parents})
        regions.add(region)

    for site in facts.sites:
        add("Site", site.name, site.region, {"region": site.region})
    for p in facts.providers:
        attrs = {"region": p.region, "kind": p.kind, "on_premises": p.on_premises}
        add("Provider", p.name, p.region, attrs)
    for c in facts.classes:
        add("Class", c.name, "", _class_attrs(c))
        regions.update(c.regions)
    rows.extend(_region_rows(regions))
    try:
        return cedarpy.Entities.from_json_str(json.dumps(rows), schema)
    except ValueError as error:
        raise Refused("policy-invalid", f"the configured facts: {error}") from None


def _class_attrs(fact: ClassFact) -> dict[str, Any]:
    return {
        "regions": [{"__entity": _uid("Region", region)} for region in fact.regions],
        "anywhere": not fact.regions,
        "on_isolation": fact.on_isolation,
        "takeover": fact.takeover,
        "degradations": list(fact.degradations),
    }


def _region_rows(regions: Iterable[str]) -> list[dict[str, Any]]:
    names = {"-".join(r.split("-")[:n]) for r in regions if r for n in range(1, r.count("-") + 2)}
    rows = []
    for name in sorted(names):
        wider = name.rpartition("-")[0]
        parents = [_uid("Region", wider)] if wider else []
        rows.append({"uid": _uid("Region", name), "attrs": {}, "parents": parents})
    return rows


def _uid(kind: str, name: str) -> dict[str, str]:
    return {"type": kind, "id": name}
