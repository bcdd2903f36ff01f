"""What the configuration lets jobs use: grants of secrets, and the groups and secrets of environments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.access.policy import AccessPolicy, EnvironmentRules, Grant, Origin, grants_for
from waterflowd.app import config
from waterflowd.dsl import compile_workflow
from waterflowd.model import accesses
from waterflowd.model import plan as plans
from waterflowd.model.accesses import JobAccess
from waterflowd.reconcile.settings import RepositorySettings

SHOP = RepositorySettings(name="shop", url="/srv/shop.git", groups=("web*",), webhook_keys=("SHOP_HOOK",))
OTHER = RepositorySettings(name="other", url="/srv/other.git")
PRODUCTION = EnvironmentRules(name="production", groups=("web-prod*", "db"), secrets=("PROD_*",))


def policy(*grants: Grant, environments: tuple[EnvironmentRules, ...] = (PRODUCTION,)) -> AccessPolicy:
    return AccessPolicy([SHOP, OTHER], environments, grants)


def grant(**fields: Any) -> Grant:
    return Grant(**{"secrets": ("KEY",), "repositories": ("shop",), **fields})


def origin(**fields: Any) -> Origin:
    return Origin(**{"repository": "shop", "ref": "refs/heads/main", **fields})


def access(text: str) -> tuple[JobAccess, ...]:
    """What the jobs of a workflow use; it may call two others."""
    callee = (
        b"on: {workflow_call: {secrets: {INNER: {required: true}}}}\n"
        b"jobs: {b: {runs-on: web, steps: [{run: x, env: {V: '${{ secrets.INNER }}'}}]}}"
    )
    inherits = (
        b"on: {workflow_call: {}}\njobs: {c: {uses: ./workflows/callee.yml, secrets: {INNER: '${{ secrets.MID }}'}}}"
    )
    files = {"workflows/callee.yml": callee, "workflows/inherits.yml": inherits}
    compiled = compile_workflow("workflows/w.yml", text.encode(), dict(files))
    assert compiled.plan is not None, compiled.diagnostics
    return accesses.of_plan(plans.decode(compiled.plan))


@pytest.mark.parametrize(
    ("granted", "asks", "group", "is_permitted"),
    [
        ([], {}, "web", False),
        ([grant()], {}, "web", True),
        ([grant()], {"repository": "other"}, "web", False),
        ([grant()], {"repository": None}, "web", False),
        ([grant(repositories=())], {}, "web", False),
        ([grant(repositories=("*",))], {"repository": None}, "web", False),
        ([grant(repositories=(), without_repository=True)], {"repository": None, "ref": None}, "web", True),
        ([grant(repositories=(), without_repository=True)], {}, "web", False),
        ([grant(repositories=("s*p",))], {}, "web", True),
        ([grant(secrets=("key",))], {}, "web", True),
        ([grant(secrets=("K*",))], {}, "web", True),
        ([grant(secrets=("OTHER",))], {}, "web", False),
        ([grant(refs=("main",))], {}, "web", True),
        ([grant(refs=("release/*",))], {}, "web", False),
        ([grant(refs=("main",))], {"ref": "refs/tags/main"}, "web", False),
        ([grant(refs=("tags/v*",))], {"ref": "refs/tags/v1"}, "web", True),
        ([grant(refs=("main",))], {"ref": None}, "web", False),
        ([grant(environments=("production",))], {}, "web", False),
        ([grant(environments=("production",))], {"environments": ("production",)}, "web", True),
        ([grant(environments=("prod*",))], {"environments": ("inner", "production")}, "web", True),
        ([grant(groups=("web",))], {}, "web", True),
        ([grant(groups=("web",))], {}, "web-2", False),
        ([grant(groups=("web",)), grant(groups=("web-2",))], {}, "web-2", True),
        ([grant(refs=("main",), groups=("db",)), grant(refs=("dev",), groups=("web",))], {}, "web", False),
    ],
)
def test_a_secret_needs_a_grant_that_matches_in_every_respect(
    granted: list[Grant], asks: dict[str, Any], group: str, is_permitted: bool
) -> None:
    """Two grants that each match in part are not one that matches."""
    assert (policy(*granted).secret_refusal(origin(**asks), group, "KEY") is None) is is_permitted


@pytest.mark.parametrize(
    "asks",
    [
        {},
        {"repository": None, "ref": None},
        {"ref": None},
        {"ref": "refs/tags/v1*"},
        {"ref": "refs/heads/fix[1]?+!\\x"},
        {"environments": ("production", "outer")},
    ],
)
def test_the_lines_of_a_refusal_permit_exactly_what_was_refused(tmp_path: Path, asks: dict[str, Any]) -> None:
    """They are valid configuration; with them the same job may read the secret, and another ref or group may not."""
    wanted = origin(**asks)
    refusal = policy().secret_refusal(wanted, "web", 'K-"\\Y')
    assert refusal is not None
    file = tmp_path / "waterflowd.toml"
    tables = "".join(f'[[environments]]\nname = "{name}"\n' for name in wanted.environments)
    file.write_text("\n".join((f'[[repositories]]\nname = "shop"\nurl = "/srv/shop.git"\n{tables}', *refusal.lines)))
    loaded = config.load(file, environment={})
    made = config.access_policy(loaded, loaded.repository_settings)
    assert made.secret_refusal(wanted, "web", 'K-"\\Y') is None
    assert made.secret_refusal(wanted, "web-2", 'K-"\\Y') is not None
    assert made.secret_refusal(wanted, "web", "OTHER") is not None
    if wanted.ref is not None:
        assert made.secret_refusal(origin(**{**asks, "ref": "refs/heads/fix1x"}), "web", 'K-"\\Y') is not None


@pytest.mark.parametrize("name", ["SHOP_HOOK", "shop-hook", "Shop_Hook"])
def test_a_webhook_key_is_never_readable(name: str) -> None:
    """By no spelling, no repository, and whatever is granted."""
    free = policy(grant(secrets=("*",), repositories=("*",), without_repository=True), environments=())
    for repository in ("shop", "other", None):
        refusal = free.secret_refusal(origin(repository=repository), "web", name)
        assert refusal is not None
        assert "webhook key" in refusal.text
        assert refusal.lines == ()
        (early,) = free.plan_refusals(repository, [JobAccess(job="a", group="web", secrets=(name,))])
        assert "webhook key" in early[1].text


def test_a_webhook_is_signed_only_with_a_key_of_its_repository() -> None:
    """The refusal has the whole line, with the keys that exist already."""
    known = policy()
    assert known.webhook_refusal("shop", "shop-hook") is None
    for repository, key, lines in (
        ("shop", "DEPLOY_KEY", ('webhook-keys = ["SHOP_HOOK", "DEPLOY_KEY"]',)),
        ("other", "SHOP_HOOK", ('webhook-keys = ["SHOP_HOOK"]',)),
        ("gone", "SHOP_HOOK", ('webhook-keys = ["SHOP_HOOK"]',)),
    ):
        refusal = known.webhook_refusal(repository, key)
        assert refusal is not None
        assert refusal.lines == lines


def test_an_environment_owns_its_groups_and_secrets() -> None:
    """A job without it gets neither, even with a grant; several environments may own the same."""
    free = policy(grant(secrets=("*",), repositories=("*",)))
    staging = EnvironmentRules(name="staging", groups=("db",))
    both = policy(environments=(PRODUCTION, staging))
    inside, outside = origin(repository="other", environments=("x", "production")), origin(repository="other")
    for group in ("web-prod-1", "db"):
        refusal = free.group_refusal(outside, group)
        assert refusal is not None
        assert (refusal.lines, refusal.reason.code.value) == (("environment: production",), "environment-required")
        assert free.group_refusal(inside, group) is None
    assert free.group_refusal(outside, "web") is None
    assert both.group_refusal(origin(repository="other", environments=("staging",)), "db") is None
    refusal = free.secret_refusal(outside, "web", "prod-key")
    assert refusal is not None
    assert 'belongs to environment "production"' in refusal.sentence
    assert free.secret_refusal(inside, "web", "prod-key") is None
    assert free.secret_refusal(outside, "web", "key") is None


def test_all_servers_does_not_lead_around_an_environment() -> None:
    """Each server is checked by its groups; without `target: each` they cannot be checked, so nothing is granted."""
    free = policy(grant(secrets=("*",), repositories=("*",)))
    outside, inside = origin(repository="other"), origin(repository="other", environments=("production",))
    assert free.server_refusal(outside, ("db",)) is not None
    assert free.server_refusal(outside, ("db", "web")) is None
    assert free.server_refusal(inside, ("db",)) is None
    assert free.server_refusal(origin(), ("db", "x")) is not None, "the repository may use neither"
    for asks in (outside, inside):
        refusal = free.group_refusal(asks, "all-servers")
        assert refusal is not None
        assert "target: each" in refusal.text
    assert policy(environments=()).group_refusal(outside, "all-servers") is None


def test_a_plan_names_what_its_jobs_use() -> None:
    """With the names of secrets outside all calls, and the environments of calling jobs."""
    found = access(
        """
env: {ALL: "${{ secrets.OF_FILE }}"}
jobs:
  plain:
    runs-on: web
    env: {J: "${{ secrets.OF_JOB }}"}
    steps:
      - run: x
      - uses: parallel
        with: {branches: [[{run: y, env: {S: "${{ secrets.OF_STEP }}"}}]]}
  none: {runs-on: db, steps: [{uses: approval}]}
  call:
    environment: production
    uses: ./workflows/inherits.yml
    secrets: inherit
  mapped:
    environment: "${{ vars.where }}"
    uses: ./workflows/callee.yml
    secrets: {INNER: "${{ secrets.OUTER }}"}
vars: {where: x}
"""
    )
    by_job = {item.job: item for item in found}
    assert set(by_job) == {"plain", "none", "call/c/b", "mapped/b"}
    assert set(by_job["plain"].secrets) == {"OF_FILE", "OF_JOB", "OF_STEP"}
    assert (by_job["call/c/b"].secrets, by_job["call/c/b"].environments) == (("MID",), ("production",))
    assert by_job["mapped/b"].secrets == ("OUTER",)
    assert by_job["mapped/b"].environments == ("${{ vars.where }}",)
    assert by_job["mapped/b"].line == by_job["none"].line + 5


def test_a_plan_is_refused_for_what_no_run_of_it_could_do() -> None:
    """What only a run knows (its ref, an expression) is left to the run."""
    rules = policy(grant(refs=("main",)), grant(secrets=("IN_PROD",), environments=("production",)))
    for text, refused in [
        ("{runs-on: web, steps: [{run: x, env: {V: '${{ secrets.KEY }}'}}]}", []),
        ("{runs-on: web, steps: [{run: x, env: {V: '${{ secrets.NONE }}'}}]}", ["WF529"]),
        ("{runs-on: web, steps: [{run: x, env: {V: '${{ secrets.IN_PROD }}'}}]}", ["WF529"]),
        ("{runs-on: web, environment: '${{ vars.e }}', steps: [{run: x, env: {V: '${{ secrets.IN_PROD }}'}}]}", []),
        ("{runs-on: web, environment: production, steps: [{run: x, env: {V: '${{ secrets.IN_PROD }}'}}]}", []),
        ("{runs-on: db, steps: [{run: x}]}", ["WF528"]),
        ("{runs-on: db, environment: staging, steps: [{run: x}]}", ["WF528"]),
        ("{runs-on: db, environment: production, steps: [{run: x}]}", []),
        ("{runs-on: '${{ vars.e }}', steps: [{run: x}]}", []),
        ("{runs-on: all-servers, steps: [{run: x}]}", []),
    ]:
        found = access(f"vars: {{e: production}}\njobs: {{a: {text}}}")
        assert [refusal.code for _, refusal in rules.plan_refusals("shop", found)] == refused, text
        if refused:
            with pytest.raises(Rejected) as error:
                rules.check_plan("shop", found)
            assert (error.value.code, error.value.status) == (refused[0], 403)


def test_the_lines_for_several_jobs_are_one_grant_for_each_kind_of_job(tmp_path: Path) -> None:
    """With them no job of the file is refused."""
    found = access(
        """
jobs:
  a: {runs-on: web, steps: [{run: x, env: {V: "${{ secrets.ONE }}", W: "${{ secrets.TWO }}"}}]}
  b: {runs-on: web, steps: [{run: x, env: {V: "${{ secrets.THREE }}"}}]}
  c: {runs-on: web, environment: production, steps: [{run: x, env: {V: "${{ secrets.ONE }}"}}]}
  d: {runs-on: "${{ vars.g }}", steps: [{run: x, env: {V: "${{ secrets.ONE }}"}}]}
vars: {g: web}
"""
    )
    lines = grants_for("shop", policy().plan_refusals("shop", found), ("main",))
    assert lines.count("[[secrets.grants]]") == 3
    assert 'secrets = ["ONE", "TWO", "THREE"]' in lines
    assert lines.count('refs = ["main"]') == 3
    file = tmp_path / "waterflowd.toml"
    file.write_text(
        '[[repositories]]\nname = "shop"\nurl = "/r"\n[[environments]]\nname = "production"\n' + "\n".join(lines)
    )
    loaded = config.load(file, environment={})
    made = config.access_policy(loaded, loaded.repository_settings)
    assert list(made.plan_refusals("shop", found)) == []


def test_other_rules_apply_at_once() -> None:
    """Answers that were cached by the old rules are no longer used."""
    access = policy()
    asked = Origin(repository="shop")
    assert access.group_refusal(asked, "elsewhere") is not None
    before = access.version
    access.replace([RepositorySettings(name="shop", url="/srv/shop")])
    assert access.group_refusal(asked, "elsewhere") is None
    assert access.version > before
