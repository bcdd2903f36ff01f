"""GitHub's names: the fields of `github` that have no true value here and what to use instead, and the variables in scripts.

Source: "Contexts" and "Variables" of the GitHub Actions documentation. A field that is empty on GitHub whenever there is no
pull request is empty here, where there are none.
"""

from __future__ import annotations

#: The directory of a composite step's file, which only its steps have: the field of `github`, and the variable in scripts.
ACTION_PATH_FIELD, ACTION_PATH_VARIABLE = "action_path", "GITHUB_ACTION_PATH"

#: Fields of the `github` context without a value here, and their closest counterpart, as a next step.
GITHUB_ONLY_FIELDS: dict[str, str] = {
    "token": "create a token at the forge, store it as a secret, and write secrets.NAME in env",
    "server_url": "write the address itself; ${{ run.url }} is the address of the run",
    "api_url": "write the address itself, or a variable under vars",
    "graphql_url": "write the address itself, or a variable under vars",
    "repositoryurl": "write github.repository, which has the owner and the name",
    "repository_id": "write github.repository, which has the owner and the name",
    "repository_owner_id": "write github.repository_owner",
    "repository_visibility": "it concerns the hosting of the repository; write what depends on it in a variable under vars",
    "actor_id": "write github.actor",
    "event_path": "write ${{ toJSON(event) }} in env",
    "action": "write job.id, or the id of the step",
    "action_ref": "a composite step belongs to the run's commit: write github.ref",
    "action_repository": "a composite step belongs to the run's repository: write github.repository",
    "action_status": "write job.status",
    "env": "write $GITHUB_ENV in the script",
    "path": "write $GITHUB_PATH in the script",
    "output": "write $GITHUB_OUTPUT in the script",
    "step_summary": "write $GITHUB_STEP_SUMMARY in the script",
    "ref_protected": "protect the environment of the job instead (environment)",
    "workflow_ref": "write github.workflow and github.ref",
    "job_workflow_sha": "write github.sha: called workflows belong to the same commit",
    "retention_days": "[retention] of the daemon's configuration removes old runs",
    "secret_source": "it has no counterpart",
}
#: Fields of `github.event` that GitHub has for a push, and that Waterflow does not know.
GITHUB_ONLY_EVENT_FIELDS: dict[str, str] = {
    "commits": "write git.message for the newest one; event.changed has the changed paths",
    "pusher": "write github.actor",
    "sender": "write github.actor",
    "compare": "write github.event.before and github.event.after",
    "forced": "it has no counterpart",
    "organization": "write github.repository_owner",
    "client_payload": "write event.NAME with on.webhook",
}
_NO_PULL_REQUESTS = "there are no pull requests here, so it is always empty"
#: Fields of `github` and of `github.event` that are empty for everything that starts a run here, and why.
ALWAYS_EMPTY_FIELDS = dict.fromkeys(("head_ref", "base_ref"), _NO_PULL_REQUESTS)
_NEVER_OCCURS = "the events of GitHub that have it never occur here, so it is always null"
ALWAYS_EMPTY_EVENT_FIELDS = {
    "pull_request": "there are no pull requests here, so it is always null",
    **dict.fromkeys(
        (
            "number",
            "review",
            "issue",
            "comment",
            "discussion",
            "release",
            "label",
            "milestone",
            "deployment",
            "check_run",
        ),
        _NEVER_OCCURS,
    ),
    **dict.fromkeys(("check_suite", "merge_group", "installation", "registry_package", "project"), _NEVER_OCCURS),
}

#: The variables that scripts have; each is also called `WATERFLOW_...`.
SCRIPT_VARIABLES = frozenset(
    (
        *(
            "GITHUB_SHA",
            "GITHUB_REF",
            "GITHUB_REF_NAME",
            "GITHUB_REF_TYPE",
            "GITHUB_REPOSITORY",
            "GITHUB_REPOSITORY_OWNER",
        ),
        *("GITHUB_RUN_ID", "GITHUB_RUN_NUMBER", "GITHUB_RUN_ATTEMPT", "GITHUB_EVENT_NAME", "GITHUB_ACTOR"),
        *("GITHUB_WORKFLOW", "GITHUB_JOB", "GITHUB_WORKSPACE", "GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH"),
        *("GITHUB_STEP_SUMMARY", "RUNNER_OS", "RUNNER_ARCH", "RUNNER_NAME", "RUNNER_TEMP"),
    )
)
#: What to do instead of other variables of GitHub.
GITHUB_ONLY_VARIABLES = {
    "GITHUB_TOKEN": "store a token as a secret, and set it in env",
    "GITHUB_ACTIONS": "programs that find it print commands of GitHub; CI is set to true",
    "GITHUB_SERVER_URL": "write the address itself, or set it in env",
    "GITHUB_API_URL": "write the address itself, or set it in env",
    "GITHUB_EVENT_PATH": "set EVENT: ${{ toJSON(event) }} in env",
    "GITHUB_TRIGGERING_ACTOR": "write GITHUB_ACTOR",
    "GITHUB_BASE_REF": "there are no pull requests here",
    "GITHUB_HEAD_REF": "there are no pull requests here; write GITHUB_REF_NAME",
    ACTION_PATH_VARIABLE: "only the steps of composite steps have it; write the path, from the job's directory",
    "RUNNER_TOOL_CACHE": "servers keep their tools; use a directory outside the job's",
}
