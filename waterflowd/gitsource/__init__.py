"""Git as a source of workflows: repositories are read from their objects, and never checked out or written.

`urls` parses the configured URLs; `repository_opener` opens `local` repositories in place and `remote` ones through a mirror.
`watch` notices pushes to local ones. `objects`, `commits`, `tree_walk` and `trees` read their content, `reading` combines them,
and `revision_files` serves the files of a commit to agents.
"""
