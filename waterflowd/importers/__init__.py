"""Importers: turn the files of other systems into workflow files that validate.

    files of GitHub, GitLab, ... ─importer─▶ text of workflows ─validity─▶ files that compile, and findings

| module or package | holds |
|---|---|
| `findings` | what an import yields: files, findings with their places, and refused files |
| `origin` | the files that are imported, decoded within limits, and the guess of the system that they belong to |
| `writing` | YAML with comments, for the importers that write workflows from scratch |
| `source_yaml` | YAML of other systems, with their tags, within limits |
| `validity` | compiles the text and edits it until it validates, with a comment at each edit |
| `github`, `gitlab`, `ansible`, `jenkins`, `rundeck`, `crontab` | one importer for each system |

Rules of the package: pure, like the language; files arrive through `origin.Origin`. Nothing is dropped silently: every
construct of a source is in the result, or in a finding. What needs a decision is also a comment that begins with `DECIDE:`
in the result. Where a step cannot be translated, the result fails there with a sentence instead of continuing without it.
Whatever the content of a file is, the result is a workflow that validates, or a refusal with one sentence.
"""
