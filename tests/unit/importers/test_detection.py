"""Which files of a directory are imported."""

from __future__ import annotations

import pytest

from waterflowd.importers.detection import candidates

LAYOUT = (
    "ansible.cfg",
    "inventories/prod/group_vars/all",
    "inventories/prod/group_vars/web.yml",
    "inventories/prod/hosts",
    "roles/web/tasks/main.yml",
    "site.yml",
)


@pytest.mark.parametrize("name", ["hosts", "hosts.ini", "hosts.yml", "inventory", "inventory.yaml", "production"])
def test_an_inventory_is_found_by_its_usual_names(name: str) -> None:
    """In the root of a directory with a playbook."""
    assert set(candidates([name, "site.yml", "README.md"], "ansible")) == {name, "site.yml"}


def test_variables_beside_an_inventory_are_no_inventory() -> None:
    """The usual layout for several environments."""
    assert candidates(LAYOUT, "ansible") == [
        "inventories/prod/hosts",
        "inventories/prod/group_vars/all",
        "inventories/prod/group_vars/web.yml",
        "site.yml",
    ]
