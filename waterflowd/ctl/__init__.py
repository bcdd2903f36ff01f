"""waterflowctl: the command line client of the API, and commands that need no daemon.

Rules of this package:

- `--help` and `version` start fast: the group (main.py) imports the module of a command only when the command is called,
  and functions import heavy libraries (httpx, rich, pydantic, the language) themselves.
- Text from outside (names, log lines, reasons) is escaped before it is printed (`escape_for_display`, terminal.py).
- Every error ends with the next command to type. Exit codes: 0 ok, 1 the run failed, 2 usage, 3 cancelled, 4 unreachable,
  5 refused.
"""
