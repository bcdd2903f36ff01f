"""Nodes for files of the server."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from waterflow_agent.nodes.schema.records import NonEmpty, Parameters, about

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
