"""Git as a source of workflows: repositories are read in place, from their objects, and never checked out or written.

`urls` says which repositories can be opened, `local` is the source for local ones, `watch` notices pushes, `objects`,
`commits` and `trees` read what is in them.
"""
