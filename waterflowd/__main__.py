"""The program `waterflowd`, also as `python -m waterflowd`."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys

from waterflowd.app import cli


def main() -> None:
    """Runs the command line, and ends the process."""
    try:
        cli.main(prog_name="waterflowd")
    except SystemExit as end:
        # Threads of Temporal's client may return to Python while the interpreter is taken down. That aborts the process, after
        # its work is done (https://github.com/temporalio/sdk-python/issues/300), so it ends without this last phase.
        if "temporalio" not in sys.modules or not isinstance(end.code, int | None):
            raise
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(end.code or 0)


if __name__ == "__main__":
    main()
