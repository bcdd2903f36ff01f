"""The simulator: driver, agents with journals, links, timers and clocks in one deterministic world made from one seed.

What runs is the real code: host, engine, fleet and sessions of the daemon; executor, handlers, ledger, link, wire session and
runner client of the agent. What is simulated is the outside: time, network, disks, the step runner with its processes, people,
and all that goes wrong. No thread, socket, file or clock is used, so a seed is the whole of a world: the same seed gives the
same trace, on every machine.

    loop       time and processes            network, storage, runner   the outside
    server, daemon, clients                  the inside, composed
    chance, nemesis                          what goes wrong, and when
    repository, triggered, calendar          what people push, and what of it starts by itself
    deliveries                               those who send requests to webhooks, and what they are promised
    backups                                  a daemon that travels back in time
    truth, checks, oracle                    what really happened, and what was promised
    movements, instants, followers           the same of pushes, schedules, and starts after other workflows
    world, campaign                          both phases of one world; many of them; `__main__` is the command
"""

from tests.simulator.world import Report, World, simulate

__all__ = ["Report", "World", "simulate"]
