"""The error codes of repositories and their meanings. Codes are stable and never reused."""

from __future__ import annotations

URL_REFUSED = "WF502"
NOT_THERE = "WF503"
NOT_A_REPOSITORY = "WF504"
TOO_SLOW = "WF505"
OBJECT_UNREADABLE = "WF506"
ACCESS = "WF507"
LIMIT = "WF508"
SUSPENDED = "WF509"
HOST_KEY = "WF510"
BROKEN_WORKFLOW = "WF511"
FETCH_LIMIT = "WF512"
PLAN_NOT_READY = "WF513"
INTERNAL = "WF514"
SYMLINK = "WF520"
SUBMODULE = "WF521"
DIRECTORY = "WF522"
UNSAFE_NAME = "WF523"
FILE_TOO_LARGE = "WF524"
UNKNOWN_MODE = "WF525"
GROUP_NOT_ALLOWED = "WF526"
WEBHOOK_NAME_TAKEN = "WF527"
ENVIRONMENT_REQUIRED = "WF528"
SECRET_NOT_GRANTED = "WF529"
WEBHOOK_KEY_NOT_ALLOWED = "WF530"
RUN_QUOTA = "WF531"
NOT_APPLIED_YET = "WF532"
NOTIFY_FILE = "WF533"
LFS = "WF534"

#: Codes of the API for names that are unknown or ambiguous.
NOT_FOUND = "WF604"
AMBIGUOUS = "WF606"

#: Codes that mean that the refs could not be read.
NOT_FETCHED = frozenset({URL_REFUSED, NOT_THERE, NOT_A_REPOSITORY, TOO_SLOW, ACCESS, HOST_KEY, FETCH_LIMIT})

#: The meaning of every code of repositories.
CODES: dict[str, str] = {
    URL_REFUSED: "the repository URL is not accepted",
    NOT_THERE: "the repository does not exist, or cannot be reached or read now",
    NOT_A_REPOSITORY: "there is no readable Git repository at the URL",
    TOO_SLOW: "reading or fetching the repository timed out",
    OBJECT_UNREADABLE: "an object of the repository is missing, damaged or too large",
    ACCESS: "the remote refuses access or cannot be trusted, or a credentials file cannot be used",
    LIMIT: "the repository has too many files, too deeply nested folders, or too large a history",
    SUSPENDED: "the repository is suspended",
    HOST_KEY: "the ssh host key of the remote is unknown or has changed",
    BROKEN_WORKFLOW: "the newest version of the workflow has errors, so it cannot be started",
    FETCH_LIMIT: "a fetch exceeds its limits",
    PLAN_NOT_READY: "the workflow is being recompiled after a restart",
    INTERNAL: "internal error while reconciling the repository",
    SYMLINK: "a workflow file is a symbolic link, which is never followed",
    SUBMODULE: "a workflow file is a submodule, which is never read",
    DIRECTORY: "a directory is named like a workflow file",
    UNSAFE_NAME: "the name of a workflow file is not printable UTF-8 text, or is too long",
    FILE_TOO_LARGE: "a workflow file is larger than 1 MiB",
    UNKNOWN_MODE: "a workflow file has an unknown mode",
    GROUP_NOT_ALLOWED: "a workflow names a group that its repository may not use",
    WEBHOOK_NAME_TAKEN: "the webhook name of a workflow already belongs to another workflow",
    ENVIRONMENT_REQUIRED: "a job uses a group or secret of an environment that it does not have",
    SECRET_NOT_GRANTED: "no grant of the configuration lets a job read a secret",
    WEBHOOK_KEY_NOT_ALLOWED: "the configuration does not let a webhook be signed with this secret",
    NOTIFY_FILE: "the file .waterflow/notify.yml has an error, or names what the configuration does not permit",
    NOT_APPLIED_YET: "the daemon that leads the repository has not applied its refs yet",
    LFS: "a file in Git LFS cannot be fetched: the server does not have it, or it is too large",
    RUN_QUOTA: "the repository has started as many runs as its quota allows",
}
