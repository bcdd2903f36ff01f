"""The repositories of the configuration, and those that were added."""

from __future__ import annotations

from waterflowd.reconcile.added import AddedFact, RepositoryAdded, RepositoryRemoved
from waterflowd.reconcile.catalog import RepositoryCatalog
from waterflowd.reconcile.settings import RepositorySettings


def settings(name: str, url: str = "https://example.org/x.git") -> RepositorySettings:
    return RepositorySettings(name=name, url=url)


def added(name: str, url: str = "https://example.org/x.git", *, allow_http: bool = False) -> AddedFact:
    return RepositoryAdded(at=1, by="ada", settings=RepositorySettings(name=name, url=url, allow_http=allow_http))


def removed(name: str) -> AddedFact:
    return RepositoryRemoved(at=2, by="ada", name=name)


def test_the_configuration_comes_first_and_wins() -> None:
    """A name in both is that of the configuration, also if the configuration gets it later."""
    catalog = RepositoryCatalog([settings("ops")], [added("ops", "https://evil.example/x.git"), added("web")])
    assert list(catalog) == ["ops", "web"]
    assert catalog["ops"].url == "https://example.org/x.git"
    assert catalog.shadowed == ["ops"]

    catalog.configure([settings("web", "/srv/web")], allow_loopback=False)
    assert {name: found.url for name, found in catalog.items()} == {
        "web": "/srv/web",
        "ops": "https://evil.example/x.git",
    }


def test_the_newest_settings_count_until_the_removal() -> None:
    """A fact about a removed name adds it again."""
    catalog = RepositoryCatalog([], [added("web"), added("web", "https://example.org/y.git"), removed("db")])
    assert catalog["web"].url == "https://example.org/y.git"
    catalog.apply(removed("web"))
    assert "web" not in catalog
    catalog.apply(added("web"))
    assert len(catalog) == 1


def test_what_only_the_configuration_may_permit_is_never_taken_from_a_fact() -> None:
    """Rights follow the configuration as it is now."""
    catalog = RepositoryCatalog([], [added("web", allow_http=True)])
    assert (catalog["web"].allow_http, catalog["web"].allow_loopback) == (False, False)
    catalog.configure([], allow_loopback=True)
    assert (catalog["web"].allow_http, catalog["web"].allow_loopback) == (False, True)
