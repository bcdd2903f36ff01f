"""Nodes for artifacts: files that jobs of a run pass on."""

from __future__ import annotations

from typing import Annotated, Literal

from waterflow_agent.nodes.schema.records import NonEmpty, Parameters, about


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
            " earlier lines have selected.",
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
    root: Annotated[
        str,
        about(
            "The folder below which paths in the artifact begin, relative to the step's working directory; all files must be"
            " inside it.",
            "path: dist/\nroot: .",
            without="the deepest folder that all lines of `path` have in common",
        ),
    ] = ""
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
    archive: Annotated[
        bool,
        about(
            "With `false`, as in GitHub's action, the artifact consists of a single file, and has its name; `name` has no"
            " effect.",
            "path: dist/shop.tar\narchive: false",
        ),
    ] = True


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
    digest_mismatch: Annotated[
        Literal["error", "warn", "info", "ignore"],
        about(
            "Accepted for GitHub's action; it has no effect, because files with a wrong checksum are never kept.",
            "name: site\ndigest-mismatch: error",
        ),
    ] = "error"
    skip_decompress: Annotated[
        bool,
        about(
            "Accepted for GitHub's action; it has no effect, because files are not packed.",
            "name: site\nskip-decompress: false",
        ),
    ] = False
