"""The events that only GitHub has, each with what to do instead.

Source: "Events that trigger workflows" of the GitHub Actions documentation. These events concern things that Git does not
have: pull requests, issues, releases, people. Waterflow watches Git, so they never occur here, and a workflow that waits for
one would silently never run.
"""

from __future__ import annotations

_BY_API = "let the forge send it to a webhook (on.webhook), or start by the API with workflow_dispatch"
_PULL_REQUEST = "use push with branches, or let the forge send it to a webhook (on.webhook)"
_TALK = f"issues and discussions are not part of Git; {_BY_API}"
_HOUSEKEEPING = f"this concerns the hosting of the repository, not its content; {_BY_API}"
_CHECKS = f"checks and deployments are GitHub's own; {_BY_API}"

#: What to do instead of each event.
GITHUB_EVENTS: dict[str, str] = {
    "pull_request": _PULL_REQUEST,
    "pull_request_target": _PULL_REQUEST,
    "pull_request_review": f"reviews are not part of Git; {_PULL_REQUEST}",
    "pull_request_review_comment": f"reviews are not part of Git; {_PULL_REQUEST}",
    "pull_request_comment": f"comments are not part of Git; {_PULL_REQUEST}",
    "merge_group": "use push with branches: a merge is a push",
    "create": "use push: a new branch or tag that is watched is a push",
    "delete": "deleting a branch or tag starts nothing, because there is no commit to run",
    "release": "use push with tags, such as tags: ['v*'], or start by hand with workflow_dispatch",
    "registry_package": f"packages are not part of Git; use push with tags, or {_BY_API}",
    "image_version": f"images are not part of Git; {_BY_API}",
    "repository_dispatch": "start by the API with workflow_dispatch, or by a webhook (on.webhook)",
    "gollum": "a wiki is a separate repository: watch it, and use push",
    "page_build": "use push with the branch that the pages are built from",
    "issues": _TALK,
    "issue_comment": _TALK,
    "label": _TALK,
    "milestone": _TALK,
    "discussion": _TALK,
    "discussion_comment": _TALK,
    "branch_protection_rule": _HOUSEKEEPING,
    "fork": _HOUSEKEEPING,
    "public": _HOUSEKEEPING,
    "watch": _HOUSEKEEPING,
    "project": _HOUSEKEEPING,
    "project_card": _HOUSEKEEPING,
    "project_column": _HOUSEKEEPING,
    "projects_v2_item": _HOUSEKEEPING,
    "check_run": _CHECKS,
    "check_suite": _CHECKS,
    "status": _CHECKS,
    "deployment": _CHECKS,
    "deployment_status": _CHECKS,
}
