"""The codes of repositories, each with what it means. Codes are stable: one is never used for something else."""

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

#: What the API says for whatever is not there, or there more than once.
NOT_FOUND = "WF604"
AMBIGUOUS = "WF606"

#: Those that mean that the refs could not be read.
NOT_FETCHED = frozenset({URL_REFUSED, NOT_THERE, NOT_A_REPOSITORY, TOO_SLOW, ACCESS, HOST_KEY, FETCH_LIMIT})

#: Every code of repositories and what it means.
CODES: dict[str, str] = {
    URL_REFUSED: "a repository url that is never accepted",
    NOT_THERE: "the repository does not exist or cannot be reached or read now",
    NOT_A_REPOSITORY: "what is at the repository's url is not a Git repository that can be read",
    TOO_SLOW: "the repository did not answer in time",
    OBJECT_UNREADABLE: "an object of the repository is missing, damaged or too large",
    ACCESS: "the remote does not let the daemon in, cannot be trusted, or a file with secrets cannot be used",
    LIMIT: "the repository holds more workflow files, or deeper ones, than are read",
    SUSPENDED: "somebody has suspended the repository",
    HOST_KEY: "the ssh host key of the remote is unknown or another one",
    BROKEN_WORKFLOW: "the workflow's newest version has errors, so it cannot be started",
    FETCH_LIMIT: "a fetch takes more than its limits allow",
    PLAN_NOT_READY: "the workflow is being compiled again after a restart",
    INTERNAL: "a fault in Waterflow itself while it looked at the repository",
    SYMLINK: "a workflow file is a symbolic link, which is never followed",
    SUBMODULE: "a workflow file is a submodule, which is never read",
    DIRECTORY: "a directory is named like a workflow file",
    UNSAFE_NAME: "the name of a workflow file is not printable UTF-8 text, or too long",
    FILE_TOO_LARGE: "a workflow file is larger than 1 MiB",
    UNKNOWN_MODE: "a workflow file has a mode that Git does not know",
    GROUP_NOT_ALLOWED: "a workflow names a group that its repository may not use",
    WEBHOOK_NAME_TAKEN: "a workflow's webhook has a name that another workflow had first",
}
