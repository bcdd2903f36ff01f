"""The simulator: driver, agents with journals, links, timers and clocks in one deterministic simulation, made from one seed.

The real code runs: host, engine, fleet and sessions of the daemon; executor, handlers, ledger, link, wire session and
runner client of the agent. The outside is simulated: time, network, disks, the step runner with its processes, people,
and all faults. No thread, socket, file or clock is used, so the seed determines the whole simulation: the same seed gives
the same trace on every machine.

    loop                                     time and processes
    outside/                                 daemon, network, servers, hosts, step runner, disks, repository, secret sources
    chance, faults                           which faults occur, and when
    people, senders                          who start, cancel, re-run and approve; who send webhooks
    plans, language, child_runs              the workflows
    triggered, calendar                      workflows that start by schedule, webhook or after another workflow
    backups                                  a daemon whose log is restored from a backup
    truth, checks                            what really happened, and whether the promises were kept
    environment, observer                    what all parts share; what they report to the checkers
    simulation, campaign                     both phases of one simulation; many simulations; `__main__` is the command
"""

from tests.simulator.simulation import Report, Simulation, simulate

__all__ = ["Report", "Simulation", "simulate"]
