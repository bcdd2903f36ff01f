"""The files that working directories begin with: asked for over the link, kept by content, written into a new directory.

`listing` says what is in a tree, `asking` fetches, `blobs` keeps files by their Git id, `writing` makes a directory of them,
`store` has all that is on the disk, and `checkouts` is the way from a task to its job's directory.
"""
