#!@HOME@/bin/python3.11 -I
"""Whether the agent has a way to join, or has joined: ends 0 when it may start, and 1, with what to do, when it may not.

A wrong configuration is for the agent to report, so that lets it start.
"""

import os
import sys
import time
from pathlib import Path

from waterflow_agent import config
from waterflow_agent.errors import WaterflowError

#: A token that is just being written is waited for.
_PATIENCE_S = 2.0


def main() -> int:
    """Decides, with a sentence for the journal."""
    try:
        settings = config.load()
    except WaterflowError:
        return 0
    has_joined = Path(settings.data_dir, "server.json").exists()
    if has_joined or settings.server or os.environ.get(config.TOKEN_VARIABLE):
        return 0
    if not settings.join_token_file:
        print("the agent has no server to join: set join-token-file or server in /etc/waterflow/agent.toml")
        return 1
    until_s = time.monotonic() + _PATIENCE_S
    while problem := _problem_with(settings.join_token_file):
        if time.monotonic() > until_s or not os.path.lexists(settings.join_token_file):
            break
        time.sleep(0.1)
    if not problem:
        return 0
    print(f"{problem}. On the daemon's host: waterflowctl agents token --group GROUP. Then here:")
    print(f"echo TOKEN | sudo install -m 600 -o waterflow-agent /dev/stdin {settings.join_token_file}")
    return 1


def _problem_with(file: str) -> str:
    try:
        return "" if Path(file).read_text().strip() else f"the join token in {file} is empty"
    except FileNotFoundError:
        return f"the agent waits for a join token in {file}"
    except (OSError, UnicodeDecodeError) as error:
        return f"the agent cannot read the join token in {file} ({error}); it must belong to waterflow-agent"


sys.exit(main())
