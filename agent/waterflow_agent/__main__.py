"""`python -m waterflow_agent` is `waterflow-agent`."""

from waterflow_agent.cli import main

main(prog_name="waterflow-agent")
