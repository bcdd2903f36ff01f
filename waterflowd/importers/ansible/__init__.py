"""Imports playbooks and inventories of Ansible: a playbook becomes a workflow, a host the configuration of its agent.

| module | holds |
|---|---|
| `inventory` | inventories, in INI or YAML: the groups and variables of each host |
| `jinja` | simple templates and conditions of Jinja as expressions |
| `modules` | modules as steps |
| `tasks` | tasks with their keys, blocks, loops and handlers |
| `playbooks` | plays as jobs, and what a directory holds |
"""
