"""The parameters and outputs of the built-in nodes, so that the daemon can check a file without running a node.

Rules of this file: it imports msgspec only, because agents load it at every start. There is one frozen record per node; its
fields are the keys of `with`, spelled with hyphens in the file, and a field without a default is required. The records are
the single source for validation, the JSON Schema and the reference: each field carries its description and an example, and
the docstring describes the node, its first line being the summary. The control flow nodes are the exception: their keys
are described in `waterflowd.dsl.models.control_flow`, which also checks the steps inside.

`runs_in` says who runs the node: the agent's runner as a process, the agent itself, or the daemon's engine (which occupies
no server while it waits).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec


class RunsIn(Enum):
    """Who runs a node."""

    #: A process under the runner.
    PROCESS = "process"
    #: A separate process under the runner, which loads the node's class.
    HOST = "host"
    #: The agent itself; only for nodes that end at once.
    AGENT = "agent"
    #: The engine: an entry in the log.
    ENGINE = "engine"


class Parameters(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Base of the parameter records: keys with hyphens, unknown ones refused."""


def about(
    description: str,
    example: str,
    *,
    without: str = "",
    pitfalls: tuple[str, ...] = (),
    takes_expressions: bool = True,
) -> msgspec.Meta:
    """The documentation of a parameter.

    `example` are some lines of `with`, this parameter among them; required ones may be left out. `without` says what
    applies without the parameter, where no default says it.
    """
    extra: dict[str, Any] = {"x-without": without, "x-pitfalls": list(pitfalls), "x-static": not takes_expressions}
    return msgspec.Meta(
        description=description,
        examples=[example],
        extra_json_schema={name: value for name, value in extra.items() if value},
    )


NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
Duration = str | int | float
#: An HTTP status, a class of them such as `2xx`, or several.
Statuses = int | str | list[int | str]

_DURATION = "a duration such as `30s`, or a number of seconds"
_TIMEOUT = about(f"The timeout: {_DURATION}.", "timeout: 10s")
_VERIFY = about(
    "Whether the server's certificate is verified. A text is the file of a CA certificate to verify it with.",
    "verify: /etc/ssl/own-ca.pem",
)
_EXPECT_STATUS = about("The expected status, or several; `2xx` means all of them.", "expect-status: [200, 404]")
_MODE = about(
    "The file's mode, in quotes. If the mode hides the file from other users, its changes are not shown in the log either.",
    'mode: "0640"',
    without="the mode of the existing file, or `0644`",
)
_OWNER = about("`user`, `user:group` or `:group`, by name or number.", "owner: root:www-data", without="unchanged")
_BACKUP = about("Keeps the old file next to the new one, with the time in its name.", "backup: true")
_CREATE_DIRECTORIES = about("Creates missing parent directories.", "create-directories: true")
_FOLLOW = about(
    "If the path is a symbolic link, writes the file that it points to; otherwise a link is an error.", "follow: true"
)
_COMPOSE_FILE = about("The Compose file, relative to the step's working directory.", "file: compose.yml")
_COMPOSE_PROJECT = about("The name of the project.", "project: shop", without="Compose's own choice")
_COMPOSE_ENV = about("Variables for the file.", "env: {TAG: v2}")
_COMPOSE_PROFILES = about("Profiles to enable.", "profiles: [debug]")
_REMOVE_ORPHANS = about("Removes containers of services that are no longer in the file.", "remove-orphans: true")
_CONTAINER_IMAGE = about("The image.", "image: myapp:latest")


#: The shells that have a name; any other is a command line with `{0}` in place of the script's file.
SHELLS = ("bash", "sh", "python", "pwsh")


class Shell(Parameters, frozen=True, kw_only=True):
    """Runs a script in a process on the server.

    `run` of a step is short for this node. The step ends when the script's main process ends; processes that it leaves
    behind run until the job ends.
    """

    run: Annotated[NonEmpty, about("The script.", "run: make")]
    shell: Annotated[
        str | None,
        about(
            "`bash`, `sh`, `python`, `pwsh`, or a command line with `{0}` in place of the script's file.",
            "run: print(1)\nshell: python",
            without="`bash`, or `sh` where there is no bash",
            takes_expressions=False,
        ),
    ] = None
    args: Annotated[list[str], about("The arguments of the script.", 'run: echo "$1"\nargs: [hello]')] = []


class Script(Parameters, frozen=True, kw_only=True):
    """Runs a script that is a file of the job's directory (`path`) or a text (`content`).

    Exactly one of `path` and `content` is required. The script runs in a process on the server, as with `shell`; what it
    writes to `$WATERFLOW_OUTPUT` becomes the step's outputs.
    """

    path: Annotated[
        NonEmpty | None,
        about(
            "The file, relative to the job's directory, which it must not leave. It needs no execute permission.",
            "path: scripts/migrate.py",
        ),
    ] = None
    content: Annotated[
        NonEmpty | None,
        about(
            "The script itself.",
            "content: |\n  #!/usr/bin/env python3\n  import sys\n  print(sys.argv[1])\nargs: [hello]",
            pitfalls=("It takes no expressions; pass values with `args`, or with `env` of the step.",),
            takes_expressions=False,
        ),
    ] = None
    interpreter: Annotated[
        NonEmpty | None,
        about(
            "The command to run the script with, such as `bash -e`. It gets the script's path, then `args`.",
            "path: scripts/migrate\ninterpreter: python3 -u",
            without="the command in the script's first line (`#!`), or `sh`",
            pitfalls=("It takes no expressions.",),
            takes_expressions=False,
        ),
    ] = None
    args: Annotated[list[str], about("The arguments of the script.", 'path: deploy.sh\nargs: ["${{ git.tag }}"]')] = []


class Sleep(Parameters, frozen=True, kw_only=True):
    """Waits for a `duration` such as `30s`, or `until` a point in time, without occupying a server.

    Exactly one of the two is required. The wait survives restarts of the daemon and of servers, and does not count against
    the job's `timeout-minutes`.
    """

    duration: Annotated[
        str | int | float | None,
        about("`30s`, `2d`, or a number of seconds; at most 366 days.", "duration: 90s"),
    ] = None
    until: Annotated[
        str | int | None,
        about(
            "A time such as `2030-01-31T08:00:00Z`, or milliseconds since 1970. A time in the past ends the wait at once.",
            "until: '2030-01-31T08:00:00Z'",
        ),
    ] = None


class Log(Parameters, frozen=True, kw_only=True):
    """Prints `message` to the step's output log."""

    message: Annotated[str, about("The text to print.", 'message: "run ${{ run.number }}"')]


class Fail(Parameters, frozen=True, kw_only=True):
    """Fails the step with `message`."""

    message: Annotated[str, about("The text to print, and the reason of the failure.", "message: too many")] = (
        "failed by the workflow"
    )
    exit_code: Annotated[
        int, msgspec.Meta(ge=1, le=255), about("The value of `steps.<id>.exit-code`, 1 to 255.", "exit-code: 2")
    ] = 1


class SetOutputs(Parameters, frozen=True, kw_only=True):
    """Sets the step's outputs, at most 1 MiB."""

    outputs: Annotated[
        dict[str, Any],
        about("Names and values of any JSON type.", "outputs: {targets: [web-1, web-2], count: 2}"),
    ]


class Condition(Parameters, frozen=True, kw_only=True):
    """Runs the steps of `then` if the condition `if` is true, otherwise those of `else`.

    An inner step sees the named steps before it, in its own block and in the enclosing ones; from outside, only the outputs
    of this step are visible.
    """

    if_: str | bool = msgspec.field(name="if")
    then: Annotated[list[Any], msgspec.Meta(min_length=1)]
    else_: list[Any] = msgspec.field(name="else", default=[])


class Loop(Parameters, frozen=True, kw_only=True):
    """Runs `steps` for each of `items`, or as long as the condition `while` is true.

    `loop.index` counts from 0, `loop.number` from 1, and `loop.total` is the number of items. `outputs.results` has a
    result for each iteration. An inner step sees the named steps before it, in its own block and in the enclosing ones; from
    outside, only the outputs of this step are visible.
    """

    items: str | list[Any] | None = None
    as_: str = msgspec.field(name="as", default="item")
    max_parallel: str | int = 1
    while_: str | bool | None = msgspec.field(name="while", default=None)
    max_iterations: str | int | None = None
    steps: Annotated[list[Any], msgspec.Meta(min_length=1)]


class Parallel(Parameters, frozen=True, kw_only=True):
    """Runs `branches`, each a list of steps, at the same time, and ends when all have ended.

    An inner step sees the named steps before it, in its own block and in the enclosing ones; from outside, only the outputs
    of this step are visible.
    """

    branches: Annotated[list[list[Any]], msgspec.Meta(min_length=1)]
    max_parallel: str | int | None = None


class Approval(Parameters, frozen=True, kw_only=True):
    """Waits until people approve, or one of them rejects.

    It occupies no server and no slot of a concurrency group while it waits.
    """

    approvers: str | list[str] = []
    minimum: str | int = 1
    message: str = ""
    timeout: str | None = None
    default: Literal["approve", "reject"] = "reject"


class WorkflowRun(Parameters, frozen=True, kw_only=True):
    """Starts a child run of another workflow of the repository, at the same commit, and waits until it has completed.

    It occupies no server while it waits, survives restarts of the daemon and of servers, and starts one child run per
    attempt. Its outputs are those that the workflow declares under `on.workflow_call.outputs`, `run-id`, and `conclusion`
    if it waited. The step fails unless the child run succeeds; if the step is cancelled, the child run is cancelled too.
    """

    workflow: Annotated[
        str,
        msgspec.Meta(min_length=1, max_length=400),
        about(
            "A path from the root of the repository, or the name of a file next to the workflow that is running.",
            "workflow: other.yml",
            pitfalls=(
                "Child runs can be nested eight levels deep.",
                "A file that was submitted directly has no other workflow to start.",
            ),
        ),
    ]
    inputs: Annotated[
        dict[str, Any],
        about(
            "The inputs of the child run: those of `on.workflow_dispatch`, or of `on.workflow_call` if the workflow can only"
            " be called.",
            "inputs: {version: '1.2'}",
        ),
    ] = {}
    wait: Annotated[
        bool, about("With `false` the step ends as soon as the child run exists, with its `run-id`.", "wait: false")
    ] = True


class HttpRequest(Parameters, frozen=True, kw_only=True):
    """Sends one HTTP request; fails if the status is not an expected one.

    On an unexpected status the step's log shows the first kilobyte of the body. Redirects are not followed. The query and a
    password in the address are never logged.
    """

    url: Annotated[NonEmpty, about("The address.", "url: https://example.org/api")]
    method: Annotated[str, about("The method.", "method: POST")] = "GET"
    headers: Annotated[dict[str, str], about("Headers.", "headers: {Accept: application/json}")] = {}
    query: Annotated[dict[str, str], about("Query parameters to add to the address.", "query: {q: '1'}")] = {}
    body: Annotated[
        str | None,
        about("A text as the body. Only one of `body`, `json` and `form` is allowed.", "method: POST\nbody: hello"),
    ] = None
    json: Annotated[Any, about("Any value, sent as JSON.", "method: POST\njson: {name: x}")] = None
    form: Annotated[dict[str, str] | None, about("The fields of a form.", "method: POST\nform: {name: x}")] = None
    timeout: Annotated[Duration, _TIMEOUT] = "30s"
    verify: Annotated[bool | str, _VERIFY] = True
    expect_status: Annotated[Statuses, _EXPECT_STATUS] = "2xx"
    retry_status: Annotated[
        Statuses,
        about(
            "Statuses for which a retry can help: the step then fails with exit code 75. A short `Retry-After` is waited for"
            " once.",
            "retry-status: 5xx",
        ),
    ] = "408, 429, 5xx"
    max_bytes: Annotated[
        int, msgspec.Meta(ge=1, le=1 << 34), about("The maximum size of the body.", "max-bytes: 4096")
    ] = 1 << 20
    save_to: Annotated[
        str | None, about("The file to save the body of an expected response to.", "save-to: out.bin")
    ] = None


class HttpWait(Parameters, frozen=True, kw_only=True):
    """Polls an address until it responds with an expected status.

    For example a health check after a deployment.
    """

    url: Annotated[NonEmpty, about("The address.", "url: http://localhost:8080/health")]
    expect_status: Annotated[Statuses, _EXPECT_STATUS] = "2xx"
    timeout: Annotated[
        Duration, about(f"The timeout: {_DURATION}. The step then fails with exit code 75.", "timeout: 5m")
    ] = "2m"
    interval: Annotated[Duration, about(f"The time between two attempts: {_DURATION}.", "interval: 500ms")] = "1s"
    verify: Annotated[bool | str, _VERIFY] = True


class NotifyWebhook(Parameters, frozen=True, kw_only=True):
    """Posts a message to a webhook of Slack, Teams or Discord (`template`), or any `json` to any webhook.

    The address is never logged, since it works like a secret.
    """

    url: Annotated[NonEmpty, about("The address of the webhook.", "url: '${{ secrets.HOOK }}'\nmessage: done")]
    message: Annotated[str, about("The message.", 'message: "run ${{ run.number }} is done"')] = ""
    template: Annotated[
        Literal["slack", "teams", "discord"] | None,
        about("The format that the service expects.", "message: done\ntemplate: slack"),
    ] = None
    json: Annotated[Any, about("Any value, sent instead of a message.", "json: {text: done}")] = None
    secret: Annotated[
        str | None,
        about(
            "The key that signs the body: HMAC-SHA256 in the header `X-Hub-Signature-256`.",
            "message: done\nsecret: '${{ secrets.SIGN }}'",
        ),
    ] = None
    timeout: Annotated[Duration, about(f"The timeout: {_DURATION}.", "message: done\ntimeout: 10s")] = "30s"


class FileWrite(Parameters, frozen=True, kw_only=True):
    """Writes a file with the given content; `changed` says whether anything differed.

    The file is replaced atomically. The difference is written to the log.
    """

    path: Annotated[NonEmpty, about("The file, relative to the step's working directory.", "path: /etc/app/app.conf")]
    content: Annotated[str, about("The whole content.", 'content: "port = 8080\\n"')]
    mode: Annotated[str | None, _MODE] = None
    owner: Annotated[str | None, _OWNER] = None
    backup: Annotated[bool, _BACKUP] = False
    create_directories: Annotated[bool, _CREATE_DIRECTORIES] = False
    follow: Annotated[bool, _FOLLOW] = False


class FileTemplate(Parameters, frozen=True, kw_only=True):
    """Writes a file from a template in which `${name}` is replaced by one of `values`.

    `$${` stands for `${`. A name without a value is an error. Everything else is as with `file/write`.
    """

    source: Annotated[
        NonEmpty, about("The template, relative to the step's working directory.", "source: templates/app.conf")
    ]
    path: Annotated[NonEmpty, about("The file, relative to the step's working directory.", "path: /etc/app/app.conf")]
    values: Annotated[dict[str, Any], about("Names and values.", "values: {port: 8080}")] = {}
    mode: Annotated[str | None, _MODE] = None
    owner: Annotated[str | None, _OWNER] = None
    backup: Annotated[bool, _BACKUP] = False
    create_directories: Annotated[bool, _CREATE_DIRECTORIES] = False
    follow: Annotated[bool, _FOLLOW] = False


class FileRead(Parameters, frozen=True, kw_only=True):
    """Reads a UTF-8 file and makes it available to later steps as `outputs.content`."""

    path: Annotated[NonEmpty, about("The file.", "path: VERSION")]
    max_bytes: Annotated[
        int,
        msgspec.Meta(ge=1, le=1 << 20),
        about("The maximum size, at most 1 MiB; the step fails for a larger file.", "max-bytes: 1024"),
    ] = 256 << 10


class FileDelete(Parameters, frozen=True, kw_only=True):
    """Deletes a file, or with `recursive` a directory; `changed` says whether it existed.

    `/`, the home directory and the job's directory cannot be deleted.
    """

    path: Annotated[NonEmpty, about("The file. A symbolic link is deleted, not what it points to.", "path: old.conf")]
    recursive: Annotated[bool, about("Deletes a directory with everything in it.", "recursive: true")] = False


#: How storage is reached: parameters that several nodes have.
_STORAGE_TIMEOUT = about(
    f"How long a server may be silent, or may take for 8 MiB of S3: {_DURATION}.",
    "timeout: 30s",
)
_S3_ENDPOINT = about(
    "S3: the endpoint, if it is not AWS.", "endpoint: https://s3.example.org", without="`AWS_ENDPOINT_URL`"
)
_S3_REGION = about("S3: the region.", "region: eu-central-1", without="`AWS_REGION`, or `us-east-1`")
_S3_ACCESS_KEY = about(
    "S3: the access key; requires `secret-key`.",
    "access-key: '${{ secrets.S3_KEY }}'\nsecret-key: '${{ secrets.S3_SECRET }}'",
    without="`AWS_ACCESS_KEY_ID` and the other `AWS_*` variables, or the credentials of the cloud instance",
)
_S3_SECRET_KEY = about(
    "S3: the secret key.", "access-key: '${{ secrets.S3_KEY }}'\nsecret-key: '${{ secrets.S3_SECRET }}'"
)
_S3_SESSION_TOKEN = about("S3: the session token of temporary keys.", "session-token: '${{ secrets.S3_TOKEN }}'")
_SFTP_PRIVATE_KEY = about(
    "SFTP: the private key, or the path of its file. Keys of the agent's user are not tried.",
    "private-key: '${{ secrets.DEPLOY_KEY }}'",
)
_SFTP_PASSPHRASE = about(
    "SFTP: the passphrase of the private key.",
    "private-key: /etc/waterflow/deploy_key\npassphrase: '${{ secrets.PASSPHRASE }}'",
)
_SFTP_PASSWORD = about("SFTP: a password instead of a key.", "password: '${{ secrets.SFTP_PASSWORD }}'")
_SFTP_KNOWN_HOSTS = about(
    "SFTP: the file with the keys of known servers.",
    "known-hosts: /etc/waterflow/known_hosts",
    without="`~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`",
)
_SFTP_HOST_KEY = about(
    "SFTP: the server's key, instead of `known-hosts`, as `SHA256:...` or as a public key.",
    "host-key: SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
)


class FileTransfer(Parameters, frozen=True, kw_only=True):
    """Copies files, folders or the files that match a pattern between this server, S3, SFTP and HTTP servers.

    Source and destination are each a path on the server, `s3://bucket/key`, `sftp://user@host:port/path` (`/~/` at the
    beginning of the path is the home directory), or an `http` or `https` address (a destination is uploaded with PUT).
    `repo:path` is a source below the job's working directory. Files are replaced atomically: after an error the old file is
    unchanged. `{date}` (2026-01-31) and `{time}` (235959) are replaced by the start of the attempt, in UTC.
    """

    source: Annotated[
        NonEmpty | Annotated[list[NonEmpty], msgspec.Meta(min_length=1)],
        about(
            "A file; a folder, which in S3 ends with a slash; or a pattern: `*`, `?` and `[...]` match within one part of a"
            " path, `**` matches any number of folders. Or a list of them, whose files go into one folder.",
            "source: [repo:dist/*.tar.gz, repo:CHANGELOG.md]\ndestination: s3://releases/v1/",
        ),
    ]
    destination: Annotated[
        NonEmpty,
        about(
            "A file, or a folder if there are several files, which keep their paths below the source. A path that ends with a"
            " slash is a folder.",
            "source: /var/backups/shop.sql\n"
            "destination: 'sftp://deploy@files.example.org/srv/in/'\npassword: '${{ secrets.SFTP_PASSWORD }}'",
        ),
    ]
    checksum: Annotated[
        str | None,
        about(
            "The checksum of the file, `sha256:` and 64 digits. It is verified before the file appears at the destination.",
            "source: /var/backups/shop.sql\n"
            "checksum: sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
    ] = None
    mode: Annotated[
        str | None,
        about(
            "The mode at a local or SFTP destination, in quotes.",
            'mode: "0755"',
            without="the mode of the existing file, or `0644`",
        ),
    ] = None
    owner: Annotated[
        str | None,
        about(
            "`user:group` at a local or SFTP destination; by number for SFTP.",
            "destination: /srv/in/\nowner: www-data:www-data",
            without="unchanged",
        ),
    ] = None
    timeout: Annotated[Duration, _STORAGE_TIMEOUT] = "2m"
    verify: Annotated[bool | str, _VERIFY] = True
    endpoint: Annotated[str | None, _S3_ENDPOINT] = None
    region: Annotated[str | None, _S3_REGION] = None
    access_key: Annotated[str | None, _S3_ACCESS_KEY] = None
    secret_key: Annotated[str | None, _S3_SECRET_KEY] = None
    session_token: Annotated[str | None, _S3_SESSION_TOKEN] = None
    private_key: Annotated[str | None, _SFTP_PRIVATE_KEY] = None
    passphrase: Annotated[str | None, _SFTP_PASSPHRASE] = None
    password: Annotated[str | None, _SFTP_PASSWORD] = None
    known_hosts: Annotated[str | None, _SFTP_KNOWN_HOSTS] = None
    host_key: Annotated[str | None, _SFTP_HOST_KEY] = None
    headers: Annotated[
        dict[str, str],
        about(
            "HTTP: headers. After a redirect they are not sent to another server.",
            "headers: {Authorization: 'Bearer ${{ secrets.TOKEN }}'}",
        ),
    ] = {}


class FileList(Parameters, frozen=True, kw_only=True):
    """Lists the files of a folder, or those that match a pattern, on this server, in S3 or on an SFTP server.

    `outputs.files` is a list of `{name, size, modified}`, sorted by name, with the time in UTC; at most 2,000 files.
    """

    path: Annotated[
        NonEmpty,
        about(
            "A folder, which in S3 ends with a slash; a pattern; or a file: a path, `s3://`, `sftp://` or `repo:`, as in"
            " `file/transfer`.",
            "path: s3://backups/shop/*.sql.gz",
        ),
    ]
    timeout: Annotated[Duration, _STORAGE_TIMEOUT] = "2m"
    verify: Annotated[bool | str, _VERIFY] = True
    endpoint: Annotated[str | None, _S3_ENDPOINT] = None
    region: Annotated[str | None, _S3_REGION] = None
    access_key: Annotated[str | None, _S3_ACCESS_KEY] = None
    secret_key: Annotated[str | None, _S3_SECRET_KEY] = None
    session_token: Annotated[str | None, _S3_SESSION_TOKEN] = None
    private_key: Annotated[str | None, _SFTP_PRIVATE_KEY] = None
    passphrase: Annotated[str | None, _SFTP_PASSPHRASE] = None
    password: Annotated[str | None, _SFTP_PASSWORD] = None
    known_hosts: Annotated[str | None, _SFTP_KNOWN_HOSTS] = None
    host_key: Annotated[str | None, _SFTP_HOST_KEY] = None


class FilePrune(Parameters, frozen=True, kw_only=True):
    """Deletes old files of a folder, or of those that match a pattern, on this server, in S3 or on an SFTP server.

    `keep-last` and `older-than` say which; with both, a file must be old and not among the last. Nothing to delete is not an
    error.
    """

    path: Annotated[
        NonEmpty,
        about(
            "A folder, which in S3 ends with a slash, or a pattern, as in `file/transfer`.",
            "path: s3://backups/shop/*.sql.gz",
        ),
    ]
    keep_last: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        about("How many of the newest files stay.", "keep-last: 7", without="no number"),
    ] = None
    older_than: Annotated[
        str | None,
        about("The age of files that are deleted, such as `30d`.", "older-than: 30d", without="any age"),
    ] = None
    by: Annotated[
        Literal["modified", "name"],
        about(
            "What makes a file newer: the time of its last change, or its name, which then contains a date.",
            "keep-last: 7\nby: name",
        ),
    ] = "modified"
    dry_run: Annotated[bool, about("Only shows what would be deleted.", "keep-last: 7\ndry-run: true")] = False
    timeout: Annotated[Duration, _STORAGE_TIMEOUT] = "2m"
    verify: Annotated[bool | str, _VERIFY] = True
    endpoint: Annotated[str | None, _S3_ENDPOINT] = None
    region: Annotated[str | None, _S3_REGION] = None
    access_key: Annotated[str | None, _S3_ACCESS_KEY] = None
    secret_key: Annotated[str | None, _S3_SECRET_KEY] = None
    session_token: Annotated[str | None, _S3_SESSION_TOKEN] = None
    private_key: Annotated[str | None, _SFTP_PRIVATE_KEY] = None
    passphrase: Annotated[str | None, _SFTP_PASSPHRASE] = None
    password: Annotated[str | None, _SFTP_PASSWORD] = None
    known_hosts: Annotated[str | None, _SFTP_KNOWN_HOSTS] = None
    host_key: Annotated[str | None, _SFTP_HOST_KEY] = None


#: The records with the parameters that say how storage is reached.
Storage = FileTransfer | FileList | FilePrune


class SystemdUnit(Parameters, frozen=True, kw_only=True):
    """Starts, stops, enables or reloads a systemd unit, unless it is already in the requested state.

    The agent must be allowed to do so: it needs the privileged profile.
    """

    name: Annotated[NonEmpty, about("The unit.", "name: app.service")]
    state: Annotated[
        Literal["started", "stopped", "restarted", "reloaded"] | None,
        about("The requested state. `restarted` and `reloaded` always act.", "state: started", without="unchanged"),
    ] = None
    enabled: Annotated[bool | None, about("Whether the unit starts at boot.", "enabled: true", without="unchanged")] = (
        None
    )
    reload: Annotated[
        bool, about("If the unit is running, reloads it, or restarts it if it cannot reload.", "reload: true")
    ] = False
    daemon_reload: Annotated[bool, about("Makes systemd read its unit files again first.", "daemon-reload: true")] = (
        False
    )


class DockerExec(Parameters, frozen=True, kw_only=True):
    """Runs a docker `command` line, or `run` inside a `container`.

    There is no shell: nothing is expanded.
    """

    command: Annotated[
        str | None,
        about("A whole command line, with or without `docker` in front.", "command: docker pull myapp:latest"),
    ] = None
    container: Annotated[
        str | None, about("A running container; requires `run`.", "container: mysql\nrun: mysqladmin ping")
    ] = None
    run: Annotated[
        str | None,
        about("The command to run inside it.", 'container: mysql\nrun: mysql -e "CREATE DATABASE app"'),
    ] = None


class DockerPull(Parameters, frozen=True, kw_only=True):
    """Pulls an image; `changed` says whether it differs from the one before."""

    image: Annotated[NonEmpty, _CONTAINER_IMAGE]
    always: Annotated[bool, about("With `false` the image is pulled only if it is not there.", "always: false")] = True


class DockerRun(Parameters, frozen=True, kw_only=True):
    """Runs a container until it exits, or in the background with `detach`.

    The container's output is the step's output. A cancel stops the container.
    """

    image: Annotated[NonEmpty, _CONTAINER_IMAGE]
    command: Annotated[
        str | list[str] | None,
        about("The command: a list, or a text that is split like a shell does.", "command: [migrate, --all]"),
    ] = None
    name: Annotated[str | None, about("The name of the container.", "name: app")] = None
    env: Annotated[dict[str, str], about("Environment variables.", "env: {MODE: prod}")] = {}
    volumes: Annotated[
        list[str],
        about("`host:container`, with `:ro` for read-only.", "volumes: ['/srv/data:/data:ro']"),
    ] = []
    ports: Annotated[
        dict[str, int | list[int]],
        about("Ports of the container, and the ports of the host that they are published on.", "ports: {80/tcp: 8080}"),
    ] = {}
    network: Annotated[str | None, about("The network.", "network: host")] = None
    user: Annotated[str | None, about("The user inside the container.", "user: '1000'")] = None
    working_dir: Annotated[str | None, about("The working directory inside the container.", "working-dir: /app")] = None
    entrypoint: Annotated[
        str | list[str] | None, about("Overrides the entrypoint of the image.", "entrypoint: [sh, -c]")
    ] = None
    labels: Annotated[dict[str, str], about("Labels.", "labels: {team: web}")] = {}
    restart: Annotated[
        Literal["always", "on-failure", "unless-stopped"] | None,
        about("The restart policy of the container.", "detach: true\nrestart: unless-stopped"),
    ] = None
    detach: Annotated[bool, about("Leaves the container running and ends the step.", "detach: true")] = False
    remove: Annotated[bool, about("Removes the container after it has exited.", "remove: false")] = True


class DockerStop(Parameters, frozen=True, kw_only=True):
    """Stops a container, if it is running."""

    container: Annotated[NonEmpty, about("The name or id of the container.", "container: app")]
    grace: Annotated[
        Duration, about(f"How long the container has to exit before it is killed: {_DURATION}.", "grace: 30s")
    ] = "10s"
    remove: Annotated[bool, about("Also removes the container.", "remove: true")] = False


class ComposeUp(Parameters, frozen=True, kw_only=True):
    """Starts the services of a Compose file.

    It uses `docker compose` version 2. `outputs.services` has the state of each service.
    """

    file: Annotated[NonEmpty, _COMPOSE_FILE]
    project: Annotated[str | None, _COMPOSE_PROJECT] = None
    env: Annotated[dict[str, str], _COMPOSE_ENV] = {}
    profiles: Annotated[list[str], _COMPOSE_PROFILES] = []
    build: Annotated[bool, about("Builds images first.", "build: true")] = False
    wait: Annotated[
        bool, about("Waits until all services are running, and healthy if they have a health check.", "wait: false")
    ] = True
    pull: Annotated[Literal["always", "missing", "never"] | None, about("Which images are pulled.", "pull: always")] = (
        None
    )
    remove_orphans: Annotated[bool, _REMOVE_ORPHANS] = False


class ComposeDown(Parameters, frozen=True, kw_only=True):
    """Stops and removes the services of a Compose file."""

    file: Annotated[NonEmpty, _COMPOSE_FILE]
    project: Annotated[str | None, _COMPOSE_PROJECT] = None
    env: Annotated[dict[str, str], _COMPOSE_ENV] = {}
    profiles: Annotated[list[str], _COMPOSE_PROFILES] = []
    volumes: Annotated[bool, about("Also removes their volumes.", "volumes: true")] = False
    remove_orphans: Annotated[bool, _REMOVE_ORPHANS] = False


class ArtifactUpload(Parameters, frozen=True, kw_only=True):
    """Stores files of this job as an artifact of the run, for other jobs and for people.

    The daemon keeps the artifact, completely or not at all. Jobs of the same run get it with `artifact/download`, on any
    server; people with `waterflowctl artifacts download`. `actions/upload-artifact` is the same node.
    """

    path: Annotated[
        NonEmpty,
        about(
            "Files, folders and patterns, one per line, relative to the step's working directory: `*`, `?` and `[...]` match"
            " within one part of a path, `**` matches any number of folders. `!` at the beginning of a line excludes what"
            " earlier lines have selected. Paths in the artifact begin below the deepest folder that all lines have in common.",
            "path: dist/**/*.js",
        ),
    ]
    name: Annotated[
        NonEmpty,
        about(
            'The name, unique in the run. It must not contain `" : < > | * ?` or slashes.',
            "name: site\npath: dist/",
        ),
    ] = "artifact"
    if_no_files_found: Annotated[
        Literal["warn", "error", "ignore"],
        about("What to do if the patterns select no file.", "path: dist/\nif-no-files-found: error"),
    ] = "warn"
    retention_days: Annotated[
        int | str,
        about(
            "After how many days the artifact is removed, if its run is not removed earlier; 0 for the daemon's default.",
            "path: dist/\nretention-days: 7",
        ),
    ] = 0
    overwrite: Annotated[
        bool,
        about(
            "Replaces an artifact of this name that another step has stored. A new attempt of the same step always does.",
            "path: dist/\noverwrite: true",
        ),
    ] = False
    include_hidden_files: Annotated[
        bool,
        about(
            "Whether files and folders whose name begins with a dot are included.",
            "path: dist/\ninclude-hidden-files: true",
        ),
    ] = False
    compression_level: Annotated[
        int | str, about("Accepted for GitHub's action; it has no effect.", "path: dist/\ncompression-level: 0")
    ] = 6


class ArtifactDownload(Parameters, frozen=True, kw_only=True):
    """Fetches artifacts of this run, from any of its jobs, whichever server they ran on.

    The files appear at their destination once all have arrived and their checksums are right. Without `name`, all artifacts
    are fetched. `actions/download-artifact` is the same node.
    """

    name: Annotated[str, about("The artifact.", "name: site", without="all of them")] = ""
    path: Annotated[
        str,
        about(
            "The folder for the files, relative to the step's working directory. Without `name`, each artifact gets a folder of"
            " its name there.",
            "name: site\npath: dist",
            without="the step's working directory",
        ),
    ] = ""
    pattern: Annotated[
        str,
        about("Instead of `name`: the artifacts whose name matches.", "pattern: site-*\npath: sites"),
    ] = ""
    merge_multiple: Annotated[
        bool,
        about(
            "Without `name`: puts the files of all artifacts into the same folder.",
            "pattern: site-*\nmerge-multiple: true",
        ),
    ] = False


class NodeSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What can be known about a node without running it."""

    name: str
    parameters: type[Parameters]
    runs_in: RunsIn
    #: The outputs that it always sets; a script may add more.
    outputs: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    #: GitHub's actions with the same parameters and meaning, in any version.
    actions: tuple[str, ...] = ()
    #: Whether a node that the engine runs can be retried; nodes that agents run always can.
    is_retried: bool = False

    @property
    def has_attempts(self) -> bool:
        """Whether a step with this node may have `retry`."""
        return self.is_retried or self.runs_in is not RunsIn.ENGINE

    @property
    def summary(self) -> str:
        """The first line of the parameter record's docstring."""
        return (self.parameters.__doc__ or "").strip().splitlines()[0]


BUILT_IN: dict[str, NodeSchema] = {
    schema.name: schema
    for schema in (
        NodeSchema(
            name="shell", parameters=Shell, runs_in=RunsIn.PROCESS, outputs=("exit-code",), aliases=("exec/shell",)
        ),
        NodeSchema(
            name="script", parameters=Script, runs_in=RunsIn.PROCESS, outputs=("exit-code",), aliases=("exec/script",)
        ),
        NodeSchema(
            name="http/request",
            parameters=HttpRequest,
            runs_in=RunsIn.HOST,
            outputs=("status", "headers", "body", "json", "elapsed-ms"),
        ),
        NodeSchema(name="http/wait", parameters=HttpWait, runs_in=RunsIn.HOST, outputs=("attempts", "status")),
        NodeSchema(name="notify/webhook", parameters=NotifyWebhook, runs_in=RunsIn.HOST, outputs=("status",)),
        NodeSchema(
            name="file/write", parameters=FileWrite, runs_in=RunsIn.HOST, outputs=("changed", "path", "checksum")
        ),
        NodeSchema(
            name="file/template", parameters=FileTemplate, runs_in=RunsIn.HOST, outputs=("changed", "path", "checksum")
        ),
        NodeSchema(
            name="file/read", parameters=FileRead, runs_in=RunsIn.HOST, outputs=("content", "checksum", "bytes")
        ),
        NodeSchema(
            name="file/transfer", parameters=FileTransfer, runs_in=RunsIn.HOST, outputs=("bytes", "files", "checksum")
        ),
        NodeSchema(name="file/list", parameters=FileList, runs_in=RunsIn.HOST, outputs=("files", "count", "bytes")),
        NodeSchema(name="file/prune", parameters=FilePrune, runs_in=RunsIn.HOST, outputs=("deleted", "kept", "bytes")),
        NodeSchema(name="file/delete", parameters=FileDelete, runs_in=RunsIn.HOST, outputs=("changed",)),
        NodeSchema(
            name="artifact/upload",
            parameters=ArtifactUpload,
            runs_in=RunsIn.HOST,
            outputs=("name", "files", "bytes", "digest", "artifact-digest"),
            actions=("actions/upload-artifact",),
        ),
        NodeSchema(
            name="artifact/download",
            parameters=ArtifactDownload,
            runs_in=RunsIn.HOST,
            outputs=("files", "bytes", "download-path"),
            actions=("actions/download-artifact",),
        ),
        NodeSchema(
            name="systemd/unit",
            parameters=SystemdUnit,
            runs_in=RunsIn.HOST,
            outputs=("changed", "active", "sub-state", "enabled"),
        ),
        NodeSchema(name="docker/exec", parameters=DockerExec, runs_in=RunsIn.HOST, outputs=("exit-code", "stdout")),
        NodeSchema(name="docker/pull", parameters=DockerPull, runs_in=RunsIn.HOST, outputs=("image", "changed")),
        NodeSchema(name="docker/run", parameters=DockerRun, runs_in=RunsIn.HOST, outputs=("id", "name", "exit-code")),
        NodeSchema(name="docker/stop", parameters=DockerStop, runs_in=RunsIn.HOST, outputs=("changed",)),
        NodeSchema(name="docker/compose-up", parameters=ComposeUp, runs_in=RunsIn.HOST, outputs=("services",)),
        NodeSchema(name="docker/compose-down", parameters=ComposeDown, runs_in=RunsIn.HOST),
        NodeSchema(name="sleep", parameters=Sleep, runs_in=RunsIn.ENGINE),
        NodeSchema(name="log", parameters=Log, runs_in=RunsIn.AGENT),
        NodeSchema(name="fail", parameters=Fail, runs_in=RunsIn.AGENT),
        NodeSchema(name="set-outputs", parameters=SetOutputs, runs_in=RunsIn.AGENT),
        NodeSchema(name="condition", parameters=Condition, runs_in=RunsIn.ENGINE, outputs=("result",)),
        NodeSchema(name="loop", parameters=Loop, runs_in=RunsIn.ENGINE, outputs=("results",)),
        NodeSchema(name="parallel", parameters=Parallel, runs_in=RunsIn.ENGINE),
        NodeSchema(name="approval", parameters=Approval, runs_in=RunsIn.ENGINE),
        NodeSchema(
            name="workflow/run",
            parameters=WorkflowRun,
            runs_in=RunsIn.ENGINE,
            outputs=("run-id", "conclusion"),
            is_retried=True,
        ),
    )
}

#: An agent with this entry among its nodes can run a repository's own nodes.
FROM_REPOSITORY = "own nodes of a repository"
#: The maximum size of a node's file. A node is one class; larger code belongs in a package.
SOURCE_BYTES_MAX = 256 << 10
#: The name of a repository's own node: a folder and a file.
OWN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}/[a-z0-9][a-z0-9_-]{0,63}")


def path_of(name: str) -> str:
    """The path of an own node's file in its repository."""
    return f"nodes/{name}.py"


def find(name: str) -> NodeSchema | None:
    """The built-in node called `name`, by its name or an alias, with or without `@v1`, or by a GitHub action with a version."""
    plain = name.removesuffix("@v1")
    known = BUILT_IN.get(plain)
    if known is not None:
        return known
    action, _, version = name.partition("@")
    return next(
        (schema for schema in BUILT_IN.values() if plain in schema.aliases or (version and action in schema.actions)),
        None,
    )
