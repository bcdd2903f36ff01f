"""Builds the packages: `python -m builder --help`, with this folder's parent on the path; `make packages` does it all.

The stages, each a module: `cpython` (a private interpreter), `environment` (the locked libraries and our wheels in it),
`samples` (configuration files), `manuals` (man pages and completions), `bill` (what is inside, and its licences), `layout` (the
two trees as they lie on disk), `formats` (deb and rpm of them, by nfpm).

Rules: what is built depends on the locks, the wheels, this folder and SOURCE_DATE_EPOCH, and on nothing else of the machine, so
two builds are equal to the byte. Nothing needs root. The two packages share no file, so that either is installed, upgraded and
removed without the other.
"""
