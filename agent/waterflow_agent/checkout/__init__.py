"""The initial files of working directories: fetched over the link, cached by content, and written into a new directory.

`file_list` is the list of a tree's files, `file_requests` fetches files, `large_files` those that are larger than a response,
which `incoming_files` keeps until they are complete, each as a `spooled_file`. `blob_cache` keeps files by their Git id,
`tree_writer` writes them into a directory, `git_index` completes a `.git`, `tree_store` manages everything on disk, and
`service` does the checkout of a job.
"""
