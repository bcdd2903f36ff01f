"""Chance: which faults a simulation has, and how often. All of it follows from the seed.

Rules of this file: a simulation has a few kinds of faults, not all of them at once, so that one fault does not hide what
another would reveal; the seed decides which. Every fault that happens is counted under its name.
"""

from __future__ import annotations

import random
from collections import Counter

#: Faults at random moments, as (name, mean seconds between two).
MOMENTS: dict[str, float] = {
    "daemon killed": 8.0,
    "daemon frozen": 12.0,
    "daemon disk full": 12.0,
    "agent killed": 5.0,
    "agent frozen": 10.0,
    "agent disk full": 12.0,
    "runner killed": 12.0,
    "server rebooted": 14.0,
    "link cut": 7.0,
    "link cut for long": 14.0,
    "link cut one way": 7.0,
    "connection closed": 6.0,
    "stale report": 4.0,
    "wall clock jumped": 6.0,
}
#: Faults that hit an operation, such as a frame or a commit, with this probability.
CHANCES: dict[str, float] = {
    "commit: killed before": 0.03,
    "commit: killed after": 0.04,
    "commit slow": 0.10,
    "output: killed before": 0.04,
    "output: killed after": 0.04,
    "frame lost": 0.02,
    "frame repeated": 0.05,
    "frame late": 0.05,
    "journal: killed before": 0.02,
    "journal: killed after": 0.03,
    "journal tail lost": 0.6,
    "spawn failed": 0.03,
    "power lost at a start": 0.02,
    "step slow": 0.10,
}
NAMES = (*MOMENTS, *CHANCES)
#: Probabilities of optional features of a simulation, and the faults that these add, in the same two categories.
HAS_REPOSITORY = 0.35
HAS_REVOCATION = 0.10
HAS_BACKUP = 0.12
HAS_LANGUAGE = 0.5
HAS_SECRETS = 0.25
#: Chosen so that the seeds that once found a bug (tests/simulation/seeds.txt) have none of these and stay unchanged.
SALT = 459
LANGUAGE_SALT = 15767
SECRETS_SALT = 197
HAS_CHILD_RUNS = 0.2
CHILD_RUNS_SALT = 90
CHILD_RUNS_CHANCES = {"target unreadable": 0.2, "target slow": 0.2}
REPOSITORY_MOMENTS = {"repository away": 7.0}
REPOSITORY_CHANCES = {"hint lost": 0.3, "repository slow": 0.15, "object unreadable": 0.05}
HAS_TRIGGERS = 0.1
TRIGGERS_SALT = 6
#: Faults that are hard on triggers: such a simulation has some of them in addition.
TRIGGERS_FAULTS = (
    "wall clock jumped",
    "daemon killed",
    "daemon frozen",
    "daemon disk full",
    "commit: killed before",
    "commit: killed after",
    "commit slow",
)
#: A slow compiler meets files that have changed in the meantime.
TRIGGERS_CHANCES = {"compiler slow": 0.4}
REVOCATION_MOMENTS = {"agent revoked": 12.0}
#: Worlds whose steps may start elsewhere when their server is cut off, with cuts that outlast every lease.
HAS_LEASES = 0.15
LEASES_SALT = 0
LEASES_MOMENTS = {"link cut for very long": 15.0}
MOMENTS |= REPOSITORY_MOMENTS | REVOCATION_MOMENTS | LEASES_MOMENTS
CHANCES |= REPOSITORY_CHANCES | CHILD_RUNS_CHANCES | TRIGGERS_CHANCES


class Chance:
    """The dice of one simulation."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        #: Decides what the simulation is like: plans, servers, start times.
        self.shape = random.Random(f"{seed}/shape")
        #: Decides what goes wrong, and how long things take.
        self.dice = random.Random(f"{seed}/dice")
        kinds = self.shape.choice((0, 1, 2, 3, 5, 8, len(NAMES)))
        self.active = frozenset(self.shape.sample(NAMES, kinds))
        #: Whether the simulation has long steps, and cuts that are longer.
        self.is_long = self.shape.random() < 0.12
        if self.is_long:
            self.active |= {"link cut for long"}
        #: Decides which optional features the simulation has, and their faults.
        self.more = random.Random(f"{seed}/more/{SALT}")
        self.has_repository = self.more.random() < HAS_REPOSITORY
        self.has_revocation = self.more.random() < HAS_REVOCATION
        self.has_backup = self.more.random() < HAS_BACKUP
        if self.has_repository:
            names = (*REPOSITORY_MOMENTS, *REPOSITORY_CHANCES)
            self.active |= set(self.more.sample(names, self.more.choice((0, 1, 2, len(names)))))
        #: Decides whether workflows use all features of the language, and how; separate dice.
        self.language = random.Random(f"{seed}/language/{LANGUAGE_SALT}")
        self.has_language = self.language.random() < HAS_LANGUAGE
        #: Decides whether secret sources take time, and how long; separate dice.
        self.secrets = random.Random(f"{seed}/secrets/{SECRETS_SALT}")
        self.has_secrets = self.secrets.random() < HAS_SECRETS
        #: Decides whether steps start child runs, and which; separate dice.
        self.child_runs = random.Random(f"{seed}/subruns/{CHILD_RUNS_SALT}")
        self.has_child_runs = self.child_runs.random() < HAS_CHILD_RUNS
        if self.has_child_runs:
            self.active |= set(self.child_runs.sample(list(CHILD_RUNS_CHANCES), self.child_runs.choice((0, 1, 2))))
        #: Decides about schedules, webhooks and workflow_run triggers; separate dice.
        self.triggers = random.Random(f"{seed}/triggers/{TRIGGERS_SALT}")
        self.has_triggers = self.triggers.random() < HAS_TRIGGERS
        if self.has_triggers:
            self.active |= set(self.triggers.sample(TRIGGERS_FAULTS, self.triggers.choice((0, 1, 2, 3))))
            self.active |= set(self.triggers.sample(list(TRIGGERS_CHANCES), self.triggers.choice((0, 1))))
        if self.has_revocation:
            self.active |= set(REVOCATION_MOMENTS)
        #: Decides whether steps have leases and what goes wrong with them; separate dice.
        self.leases = random.Random(f"{seed}/leases/{LEASES_SALT}")
        self.has_leases = self.leases.random() < HAS_LEASES
        if self.has_leases:
            self.active |= set(LEASES_MOMENTS)
        #: Decides how wrong the clocks of servers are.
        self.clocks = random.Random(f"{seed}/clocks")
        #: Decides which repository files are kept on servers.
        self.files = random.Random(f"{seed}/files")
        self.counts: Counter[str] = Counter()
        self.is_healed = False

    def happens(self, name: str) -> bool:
        """Returns whether this fault happens here and now; if so, it is counted."""
        if name not in self.active or self.is_healed or self.dice.random() >= CHANCES[name]:
            return False
        self.counts[name] += 1
        return True

    def delay_s(self, least_s: float, most_s: float) -> float:
        """Returns a duration in seconds: mostly near the minimum."""
        return least_s + (most_s - least_s) * self.dice.random() ** 3
