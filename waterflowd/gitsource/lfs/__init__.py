"""Files in Git LFS: the commit has a pointer for each, and the contents are on the remote's LFS server.

`pointers` finds the pointers of a commit, `transfer_child` fetches contents in a process of its own over `batch_api`, and
`content_store` keeps them for agents.
"""
