#!@HOME@/bin/python3.11 -I
"""Checks whether the agent can join a daemon or has joined one. Exits with 0 if the agent may start, else with 1 and a hint.

With an invalid configuration it exits with 0, so that the agent starts and reports the error.
"""

import os
import sys
import time
from pathlib import Path

from waterflow_agent import config
from waterflow_agent.errors import WaterflowError

#: How long to wait for a token that is being written.
_PATIENCE_S = 2.0


def main() -> int:
    """Decides, and explains the decision in the journal."""
    try:
        settings = config.load()
    except WaterflowError:
        return 0
    has_joined = Path(settings.data_dir, "server.json").exists()
    if has_joined or settings.server or os.environ.get(config.TOKEN_VARIABLE):
        return 0
    if not settings.join_token_file:
        print("no server to join: set join-token-file or server in /etc/waterflow/agent.toml")
        return 1
    until_s = time.monotonic() + _PATIENCE_S
    while problem := _problem_with(settings.join_token_file):
        if time.monotonic() > until_s or not os.path.lexists(settings.join_token_file):
            break
        time.sleep(0.1)
    if not problem:
        return 0
    print(f"{problem}. On the daemon's host: waterflowctl agents tokens create --group GROUP. Then here:")
    print(f"echo TOKEN | sudo install -m 600 -o waterflow-agent /dev/stdin {settings.join_token_file}")
    return 1


def _problem_with(file: str) -> str:
    try:
        return "" if Path(file).read_text().strip() else f"the join token in {file} is empty"
    except FileNotFoundError:
        return f"waiting for a join token in {file}"
    except (OSError, UnicodeDecodeError) as error:
        return f"cannot read the join token in {file} ({error}); it must be owned by waterflow-agent"


sys.exit(main())
