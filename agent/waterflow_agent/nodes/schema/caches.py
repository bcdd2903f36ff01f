"""Nodes for caches: files that runs leave for later runs of the same repository."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from waterflow_agent.nodes.schema.records import BooleanText, NonEmpty, Parameters, about

CacheKey = Annotated[str, msgspec.Meta(min_length=1, max_length=512, pattern="^[^,]*$")]
_PATH = (
    "Files, folders and patterns, one per line, relative to the step's working directory; `~` is the home directory. `*`, `?`"
    " and `[...]` match within one part of a path, `**` matches any number of folders, and `!` at the beginning of a line"
    " excludes what earlier lines have selected."
)
_UPLOAD_CHUNK_SIZE = about("Accepted for GitHub's action; it has no effect.", "upload-chunk-size: 1048576")
_CROSS_OS = about("Accepted for GitHub's action; it has no effect.", "enableCrossOsArchive: true")


class CacheRestore(Parameters, frozen=True, kw_only=True):
    """Restores files that an earlier run has saved in a cache.

    The files appear once all have arrived and their checksums are right. If no entry fits, the step succeeds and the job does
    the work itself. A run finds entries of its own branch and of the default branch. `actions/cache/restore` is the same node;
    `actions/cache` also saves the files at the end of the job if it has succeeded and no entry had the key.
    """

    key: Annotated[
        CacheKey,
        about("The key to look for: the entry with this key, or the newest one that begins with it.", "key: npm"),
    ]
    path: Annotated[
        NonEmpty,
        about(
            f"{_PATH} An entry fits only if it was saved with the same lines.",
            "key: npm-${{ hashFiles('package-lock.json') }}\npath: ~/.npm",
        ),
    ]
    restore_keys: Annotated[
        str | list[str],
        about(
            "Beginnings of keys, one per line, in the order in which they are tried if no entry has the key.",
            "key: npm-${{ hashFiles('package-lock.json') }}\npath: ~/.npm\nrestore-keys: npm-",
        ),
    ] = ""
    scope: Annotated[
        Literal["shared", "server"],
        about(
            "`shared`: the daemon keeps the entries, for all servers. `server`: each server keeps its own; nothing is sent.",
            "key: target\npath: target\nscope: server",
        ),
    ] = "shared"
    fail_on_cache_miss: Annotated[
        bool | BooleanText,
        about("Whether the step fails if no entry fits.", "key: npm\npath: ~/.npm\nfail-on-cache-miss: true"),
    ] = False
    lookup_only: Annotated[
        bool | BooleanText,
        about("Looks for an entry, and restores nothing.", "key: npm\npath: ~/.npm\nlookup-only: true"),
    ] = False
    upload_chunk_size: Annotated[int | str, _UPLOAD_CHUNK_SIZE] = 0
    enable_cross_os_archive: Annotated[bool | str, _CROSS_OS] = msgspec.field(
        name="enableCrossOsArchive", default=False
    )


class CacheSave(Parameters, frozen=True, kw_only=True):
    """Saves files in a cache, for later runs of the same repository.

    An entry never changes: if the branch has one with this key, nothing is saved. What cannot be saved is a warning; the step
    succeeds. `actions/cache/save` is the same node.
    """

    key: Annotated[
        CacheKey,
        about("The key of the new entry.", "key: npm-${{ hashFiles('package-lock.json') }}\npath: ~/.npm"),
    ]
    path: Annotated[NonEmpty, about(_PATH, "key: npm\npath: ~/.npm")]
    scope: Annotated[
        Literal["shared", "server"],
        about(
            "`shared`: the daemon keeps the entry, for all servers. `server`: this server keeps it, and nothing is sent.",
            "key: target\npath: target\nscope: server",
        ),
    ] = "shared"
    upload_chunk_size: Annotated[int | str, _UPLOAD_CHUNK_SIZE] = 0
    enable_cross_os_archive: Annotated[bool | str, _CROSS_OS] = msgspec.field(
        name="enableCrossOsArchive", default=False
    )
