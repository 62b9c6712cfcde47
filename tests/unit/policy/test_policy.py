"""Policies: what the bundled ones permit, what loading refuses, what evaluation does when it fails."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outlast.core.errors import Refused
from outlast.core.policy import (
    ClassFact,
    Context,
    ContextValue,
    Entity,
    Facts,
    PolicyCase,
    PolicySet,
    ProviderFact,
    SiteFact,
    bundled_policies,
    bundled_schema,
    check,
)
from outlast.core.policytext import MAX_POLICY_BYTES, split
from outlast.core.routing.choose import region_allowed

REGIONS = ("", "eu", "eu-de", "eu-de-1", "eu-fr-1", "europe-1", "us-east-1")
ALLOWED = ((), ("eu",), ("eu-de",), ("eu-de-1",), ("us", "eu-fr"), ("europe",))
FACTS = Facts(
    sites=(SiteFact(name="home", region="eu-de-1"),),
    providers=tuple(ProviderFact(name=f"p{r}", region=r) for r in REGIONS),
    classes=(
        *(ClassFact(name="+".join(a) or "anywhere", regions=a) for a in ALLOWED),
        ClassFact(name="stops", on_isolation="stop", takeover="manual"),
        ClassFact(name="owes", degradations=("timestamp-owed",), takeover="auto"),
    ),
)
HOME = Entity("Site", "home")
KEY = Entity("ApiKey", "k1")


@pytest.fixture(scope="module")
def bundled() -> PolicySet:
    """The bundled policies over the facts above."""
    return PolicySet.load(None, FACTS)


def signing(name: str, mode: str = "normal") -> dict[str, ContextValue]:
    """The context of signing for a class."""
    return {"class": Entity("Class", name), "tenant": "t", "mode": mode}


def holding(*scopes: str, tenant: str = "acme") -> Context:
    """The context of a request made with an API key."""
    return {"scopes": frozenset(scopes), "tenant": Entity("Tenant", tenant)}


def test_residency_agrees_with_routing_everywhere(bundled: PolicySet) -> None:
    """Every class against every region: policy and router draw the same line."""
    for allowed, region in itertools.product(ALLOWED, REGIONS):
        decision = bundled.authorize(
            HOME,
            "SignWith",
            Entity("Provider", f"p{region}"),
            signing("+".join(allowed) or "anywhere"),
        )
        assert decision.allow == (not allowed or region_allowed(region, allowed)), (allowed, region)
        assert decision.errors == ()


def test_a_denial_names_its_policy(bundled: PolicySet) -> None:
    """Routing is told why a provider is out."""
    providers = [
        Entity("Provider", "peu"),
        Entity("Provider", "pus-east-1"),
        Entity("Provider", "x"),
    ]
    denied = bundled.denials(HOME, "SignWith", providers, signing("eu"))
    assert denied == {"pus-east-1": "residency", "x": "residency, unknown-provider"}


def test_isolation_stops_the_classes_that_want_it(bundled: PolicySet) -> None:
    """Cut off, a class either goes on or stops, as it says."""
    provider = Entity("Provider", "peu")
    assert not bundled.authorize(HOME, "SignWith", provider, signing("stops", "isolated")).allow
    assert bundled.authorize(HOME, "SignWith", provider, signing("owes", "isolated")).allow


def test_degradation_needs_the_class(bundled: PolicySet) -> None:
    """Only a class that permits it may have its timestamp owed."""
    context: Context = {"kind": "timestamp-owed", "mode": "degraded"}
    assert bundled.authorize(HOME, "Degrade", Entity("Class", "owes"), context).allow
    assert not bundled.authorize(HOME, "Degrade", Entity("Class", "stops"), context).allow


@pytest.mark.parametrize(
    ("name", "by_hand", "quorum", "allowed"),
    [
        ("stops", True, False, True),
        ("stops", False, True, False),
        ("owes", False, True, True),
        ("owes", False, False, False),
        ("eu", True, True, False),
    ],
)
def test_adoption(
    bundled: PolicySet, name: str, by_hand: bool, quorum: bool, allowed: bool
) -> None:
    """Takeover never, by hand, or by quorum, as the class chooses."""
    context: Context = {
        "class": Entity("Class", name),
        "home_silent_s": 60,
        "quorum": quorum,
        "by_hand": by_hand,
    }
    decision = bundled.authorize(HOME, "AdoptStream", Entity("Stream", "s"), context)
    assert decision.allow == allowed


@pytest.mark.parametrize(
    ("action", "scope"),
    [
        ("CreateDocument", "documents:write"),
        ("ReadDocument", "documents:read"),
        ("RequestSignature", "signatures:write"),
        ("ApproveSignature", "signatures:approve"),
        ("ReadEvidence", "evidence:read"),
    ],
)
def test_scopes_and_tenants(bundled: PolicySet, action: str, scope: str) -> None:
    """A key needs the scope, and reaches its own tenant only."""
    acme, other = Entity("Tenant", "acme"), Entity("Tenant", "other")
    assert bundled.authorize(KEY, action, acme, holding(scope)).allow
    assert not bundled.authorize(KEY, action, acme, holding("something:else")).allow
    assert bundled.authorize(KEY, action, other, holding(scope)).reasons == ("own-tenant",)


def test_operating_is_no_tenants_right(bundled: PolicySet) -> None:
    """Every signing scope together does not operate the site."""
    signing_scopes = ("documents:write", "signatures:write", "signatures:approve", "evidence:read")
    assert not bundled.authorize(KEY, "Operate", HOME, holding(*signing_scopes)).allow
    assert bundled.authorize(KEY, "Operate", HOME, holding("operate")).allow
    assert not bundled.authorize(KEY, "Operate", HOME, holding("operations:read")).allow
    assert bundled.authorize(KEY, "ReadOperations", HOME, holding("operations:read")).allow


def test_what_cannot_be_evaluated_is_denied(bundled: PolicySet) -> None:
    """A missing context field, an unknown class, an unknown action: denied with the error."""
    provider = Entity("Provider", "peu")
    for action, context in (
        ("SignWith", {}),
        ("SignWith", signing("no-such-class")),
        ("SignWith", {**signing("eu"), "mode": 1}),
        ("Nonsense", signing("eu")),
    ):
        decision = bundled.authorize(HOME, action, provider, context)  # type: ignore[arg-type]  # wrong on purpose
        assert not decision.allow
        assert decision.errors


def test_a_failing_forbid_denies() -> None:
    """Cedar skips a forbid that fails; here its failure denies."""
    policies = {
        "p.cedar": '@id("yes") permit (principal, action, resource);\n'
        '@id("overflow") forbid (principal is Site, action == Action::"AdoptStream", resource is Stream)'
        " when { context.home_silent_s * 9223372036854775807 > 0 };"
    }
    context: dict[str, ContextValue] = {
        "class": Entity("Class", "eu"),
        "home_silent_s": 3,
        "quorum": True,
        "by_hand": True,
    }
    loaded = PolicySet.load(policies, FACTS)
    decision = loaded.authorize(HOME, "AdoptStream", Entity("Stream", "s"), context)
    assert not decision.allow
    assert decision.why.startswith("evaluation failed")
    fine = loaded.authorize(
        HOME, "AdoptStream", Entity("Stream", "s"), {**context, "home_silent_s": 0}
    )
    assert fine.allow


def test_the_cache_tells_true_from_one(bundled: PolicySet) -> None:
    """Equal in Python, different to policy: a cached allow is not given to a malformed request."""
    good: dict[str, ContextValue] = {
        "class": Entity("Class", "owes"),
        "home_silent_s": 1,
        "quorum": True,
        "by_hand": False,
    }
    stream = Entity("Stream", "s")
    assert bundled.authorize(HOME, "AdoptStream", stream, good).allow
    assert not bundled.authorize(HOME, "AdoptStream", stream, {**good, "quorum": 1}).allow


def test_forbid_outweighs_permit() -> None:
    """One forbid beats any number of permits, whatever the order."""
    permits = "".join(f'@id("p{i}") permit (principal, action, resource);\n' for i in range(5))
    loaded = PolicySet.load(
        {"a": permits, "b": '@id("no") forbid (principal, action, resource);'}, FACTS
    )
    decision = loaded.authorize(KEY, "ReadEvidence", Entity("Tenant", "acme"), holding())
    assert (decision.allow, decision.reasons) == (False, ("no",))


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ('\n\n@id("a")\npermit (principal, action, resource) wen { true };', "x.cedar:3", "wen"),
        (
            '@id("a") permit (principal, action, resource);\n@id("b") permit (',
            "x.cedar:2",
            "end of",
        ),
        ("// why\npermit (principal, action, resource);", "x.cedar:2", "@id"),
        (
            '@id("a") permit (principal, action, resource);\n'
            '@id("a") forbid (principal, action, resource);',
            "x.cedar:2",
            "taken by x.cedar:1",
        ),
        (
            '@id("ok") permit (principal, action, resource);\n'
            '@id("typo") permit (principal is Site, action == Action::"SignWith", resource)\n'
            "when { context.clas.anywhere };",
            "x.cedar:2 (policy 'typo')",
            "clas",
        ),
        ('@id("t") permit (principal == ?principal, action, resource);', "x.cedar:1", "template"),
    ],
)
def test_a_bad_policy_is_refused_with_its_place(text: str, place: str, what: str) -> None:
    """File, line and policy of the first mistake."""
    with pytest.raises(Refused) as caught:
        PolicySet.load({"x.cedar": text}, FACTS)
    assert caught.value.code == "policy-invalid"
    assert place in caught.value.message
    assert what in caught.value.message


def test_too_much_text_is_refused() -> None:
    """The size of a policy set is bounded before anything is parsed."""
    with pytest.raises(Refused, match="exceed"):
        PolicySet.load({"x": "//" + "x" * MAX_POLICY_BYTES}, FACTS)


def test_a_bad_schema_is_refused() -> None:
    """So is a schema that does not parse."""
    with pytest.raises(Refused, match="schema"):
        PolicySet.load(None, FACTS, "entity A in [B;")


def test_the_digest_is_that_of_the_text() -> None:
    """The same texts give the same digest; any change another."""
    texts = bundled_policies()
    first = PolicySet.load(texts, FACTS).digest
    assert first == PolicySet.load(dict(texts), Facts()).digest
    changed = {name: text + "// a remark\n" for name, text in texts.items()}
    assert PolicySet.load(changed, FACTS).digest != first
    assert PolicySet.load(texts, FACTS, bundled_schema() + "\n").digest != first


def test_require_refuses_for_people(bundled: PolicySet) -> None:
    """The refusal says who, what, on what, and by which rule."""
    with pytest.raises(Refused) as caught:
        bundled.require(KEY, "ReadEvidence", Entity("Tenant", "other"), holding("evidence:read"))
    assert caught.value.code == "forbidden"
    expected = "ApiKey::k1 may not ReadEvidence on Tenant::other: own-tenant"
    assert caught.value.message == expected


def test_check_returns_what_came_out_otherwise() -> None:
    """Expectations that hold are silent; one that does not is returned with the reason."""
    context = {"class": {"entity": "Class::eu"}, "tenant": "t", "mode": "normal"}
    holds = PolicyCase(
        expect="deny",
        principal="Site::home",
        action="SignWith",
        resource="Provider::pus-east-1",
        context=context,
        because="residency",
    )
    fails = PolicyCase(
        expect="allow",
        principal="ApiKey::k",
        action="ReadEvidence",
        resource="Tenant::a",
        context={"scopes": ["documents:read"], "tenant": {"entity": "Tenant::a"}},
    )
    (wrong,) = check(None, FACTS, [holds, fails])
    assert (wrong.case, wrong.allowed, wrong.why) == (fails, False, "no policy permits it")
    with pytest.raises(Refused, match="Type::id"):
        check(None, FACTS, [PolicyCase(expect="deny", principal="x", action="a", resource="y")])


def test_split_respects_strings_and_comments() -> None:
    """Semicolons and slashes in strings and comments end nothing; lines are counted through all of them."""
    text = '// one; two\n\n@id("a;//\\"b")\npermit (x); // tail;\nforbid (y\n// in;side\n);'
    assert list(split(text)) == [
        (3, '@id("a;//\\"b")\npermit (x);'),
        (5, "forbid (y\n// in;side\n);"),
    ]


@given(st.text(alphabet='ab;"\\/\n @(){}', max_size=60))
def test_no_text_breaks_the_loader(text: str) -> None:
    """Any text is a policy set or a Refused with a place, nothing else."""
    refusal = Refused("policy-invalid", "x.cedar:")
    try:
        PolicySet.load({"x.cedar": text}, FACTS)
    except Refused as error:
        refusal = error
    assert refusal.code == "policy-invalid"
    assert refusal.message.startswith("x.cedar:")
