"""Builds the packages: `python -m builder --help`, with this folder's parent on the path; `make packages` does everything.

The stages, each a module: `cpython` (a private interpreter), `environment` (the locked libraries and our wheels in it),
`samples` (configuration files), `variables` (the page of environment variables), `manuals` (man pages and completions),
`bill` (bill of materials and licences; `image_bill` writes that of a container image), `layout` (the files of the two
packages), `formats` (deb and rpm packages, by nfpm).

Rules: the result depends only on the lock files, the wheels, this folder and SOURCE_DATE_EPOCH, so two builds are identical to
the byte. Nothing needs root. The two packages share no file, so each can be installed, upgraded and removed without the other.
"""
