"""Imports workflows of GitHub Actions: the text stays as it is, and the edits are as small as possible.

Most of a file means the same here. First `runs-on` names a group and local files get their new paths (`rewriting`); then
`validity` edits what the compiler refuses. Composite actions and reusable workflows of the repository are imported too.
"""
