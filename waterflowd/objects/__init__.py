"""Storage that several daemons share: objects under keys, and the output logs made of them.

`directory` keeps objects on a file system, `s3` in a bucket; `opening` chooses by address. `outputs` stores what steps print.
An object is written once and never changed, so that nothing has to be locked between daemons.
"""
