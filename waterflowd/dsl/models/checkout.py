"""The model of `checkout`: the files that a job's working directory has before its first step."""

from __future__ import annotations

from waterflowd.dsl.models.field_types import Boolean, History, StaticText, Text, Texts, wrong
from waterflowd.dsl.models.model import LanguageModel, Page, key
from waterflowd.dsl.reporting.values import describe


def checkout_spelling(value: object) -> object:
    """`true` is a mapping without keys, a list is `patterns`, and `false` is nothing."""
    if isinstance(value, bool):
        return {} if value else None
    if isinstance(value, list) and value:
        return {"patterns": value}
    if not isinstance(value, dict):
        raise wrong(f"expected true, false, a list of path patterns or a mapping, not {describe(value)}")
    return value


class Checkout(LanguageModel):
    """The files that a job's working directory has before its first step: those of the run's commit, or others."""

    TITLE = "checkout"
    PAGE = Page(
        name="checkout",
        where="`jobs.<id>.checkout`",
        frame="jobs:\n  build:\n    runs-on: web-servers\n    checkout:\n      {}\n    steps:\n      - run: make\n",
    )

    patterns: Texts = key(
        "Patterns of the paths that the directory has; one that begins with `!` excludes paths.",
        "patterns: ['app/**', '!app/docs/**']",
        default=[],
        without="all files",
    )
    history: History = key(
        "Whether the directory has a `.git`: `true` for one with all commits, branches and tags of the repository, so that"
        " `git log`, `git describe` and `git diff origin/main` work, `shallow` for one with the checked-out commit alone, so"
        " that `git rev-parse HEAD`, `git status` and `git diff` work. The daemon sends what the server does not have yet.",
        "history: true",
        default=False,
        pitfalls=(
            "With `shallow` the only branch or tag is that of the run; `git describe` needs `--always`.",
            "The server needs Git, but no credentials. `git push` and `git fetch` need credentials of your own.",
            "All files are required: `patterns` cannot be set as well.",
            "The size is limited by `fetch-max-bytes` of the repository.",
        ),
    )
    repository: Text = key(
        "Another repository that the daemon watches, by its name in the configuration or as `owner/name` of its address. Its"
        " `readable-by` must allow it.",
        "repository: acme/deploy-scripts",
        default="",
        expressions="job",
        without="the run's own repository",
        pitfalls=("The files are those at the start of the job: of the newest commit that the ref has then.",),
    )
    ref: Text = key(
        "A branch, tag or commit (40 digits) in place of the run's commit.",
        "ref: release/2.1",
        default="",
        expressions="job",
        without="the run's commit; the default branch of another repository",
        pitfalls=("`git.sha` and `hashFiles` are still those of the run's commit.",),
    )
    submodules: Boolean = key(
        "Whether submodules, and those in them, have their files. The address of each must be that of a repository that the"
        " daemon watches, and whose `readable-by` allows it.",
        "submodules: true",
        default=False,
        pitfalls=("Submodules have no `.git` of their own.",),
    )
    lfs: Boolean = key(
        "Whether files in Git LFS have their contents; otherwise they are pointers. The daemon fetches the contents from the"
        " LFS server of the repository with its credentials, and sends them like other files.",
        "lfs: true",
        default=False,
        pitfalls=(
            "All files together have at most `fetch-max-bytes` of the repository (1 GiB, unless it is raised), and each at most"
            " 5 GiB; `patterns` can exclude files.",
            "A file that is larger than `cache-mb` of the agent is sent anew for each job.",
            "With `submodules`, those of submodules come from the LFS server of the submodule's own repository.",
            "`.lfsconfig` is not read.",
        ),
    )
    path: StaticText | None = key(
        "The folder of the working directory that gets the files.",
        "path: src",
        default=None,
        without="the directory itself",
        pitfalls=(
            "Steps still start in the working directory; set `working-directory` for those that need the files.",
        ),
    )
