"""waterflowctl: the command line over the API, and what needs no daemon at all.

Rules of this package:

- `--help`, `version` and completion start fast: the group (main.py) imports a command's module only when it is called, and
  heavy libraries (httpx, rich, pydantic, the language) are imported inside functions.
- What comes from outside (names, log lines, reasons) may hold anything: it passes terminal.py before a terminal sees it.
- Every error ends with the next command to type. Exit codes: 0 ok, 1 the run failed, 2 usage, 3 cancelled, 4 unreachable,
  5 refused.
"""
