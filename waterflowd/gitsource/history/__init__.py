"""The commits of repositories for agents, so that a job's directory can have a `.git`.

`pack_child` writes packs in a process of its own, `pack_store` keeps them, `git_files` makes the other files of `.git`, and
`reader` puts everything together.
"""
