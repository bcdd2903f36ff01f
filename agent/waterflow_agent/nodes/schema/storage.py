"""Nodes for files of storage: other servers and buckets."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from waterflow_agent.nodes.schema.records import DURATION, VERIFY, Duration, NonEmpty, Parameters, about

_STORAGE_TIMEOUT = about(
    f"How long a server may be silent, or may take for 8 MiB of S3: {DURATION}.",
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


class Storage(Parameters, frozen=True, kw_only=True):
    """How storage is reached: parameters of every node that uses it."""

    timeout: Annotated[Duration, _STORAGE_TIMEOUT] = "2m"
    verify: Annotated[bool | str, VERIFY] = True
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


class FileTransfer(Storage, frozen=True, kw_only=True):
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
    headers: Annotated[
        dict[str, str],
        about(
            "HTTP: headers. After a redirect they are not sent to another server.",
            "headers: {Authorization: 'Bearer ${{ secrets.TOKEN }}'}",
        ),
    ] = {}


class FileList(Storage, frozen=True, kw_only=True):
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


class FilePrune(Storage, frozen=True, kw_only=True):
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
