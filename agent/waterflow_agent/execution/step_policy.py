"""What the agent's configuration says about steps: the user that each runs as, and its limits; and what this machine enforces.

Rules of this file:

- The configuration decides. A job may choose among the configured users (`user:`), and a step may ask for less than the
  configured limits (`limits:`). More is refused with the line that would allow it.
- What a workflow asks for is enforced or refused, never ignored. The defaults are enforced where the machine can;
  `warnings` says what it cannot.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from waterflow_agent.errors import Rejected
from waterflow_agent.runner.limits import size_text
from waterflow_agent.runner.reports import RunnerAbilities
from waterflow_agent.runner.users import DEFAULT_USER
from waterflow_agent.wire import messages

#: Enough for a large build, far below what a machine can have.
PROCESSES_MAX = 2_048
#: Of the machine's memory: the rest is for everything that is not a step.
MEMORY_SHARE = 0.75
_LIMITS = ("memory", "processes", "cpu")


@dataclass(frozen=True, slots=True)
class Account:
    """A user that steps run as, other than the agent's own."""

    name: str
    uid: int
    home: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that say who a process is."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPolicy:
    """The configuration of steps. Limits of 0 mean none; memory is in bytes, processor time in percent of one processor."""

    #: Empty: `waterflow-step` if it exists and the runner can start steps as it, else the agent's own user.
    user: str = ""
    users: Sequence[str] = ()
    group_users: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0
    processes: int = 0
    cpu_percent: int = 0

    def account(self, task: messages.Task, abilities: RunnerAbilities) -> Account | None:
        """Return the user of the task's steps, None for the agent's own. Raises `Rejected` WF709."""
        name = task.user or self.group_users.get(task.group) or self._default(abilities)
        if not name:
            return None
        if task.user and name not in {self._default(abilities), *self.users, *self.group_users.values()}:
            text = f'steps may not run as user {name} on this server; add step-users = ["{name}"] to the agent\'s configuration'
            raise Rejected("WF709", text)
        account = _find(name)
        if account is None:
            raise Rejected("WF709", f"this server has no user {name}")
        if account.uid == os.geteuid():
            return None
        if not abilities.can_switch:
            raise Rejected(
                "WF709", f"this server cannot run steps as user {name}: its step runner was started without that right"
            )
        return account

    def accounts(self, abilities: RunnerAbilities) -> list[Account | None]:
        """Return the users that steps can have here, the default one first; None is the agent's own user."""
        found: dict[Account | None, None] = {}
        for name in (self._default(abilities), *self.group_users.values(), *self.users):
            account = _find(name) if name else None
            if account is not None and account.uid == os.geteuid():
                account = None
            elif name and (account is None or not abilities.can_switch):
                continue
            found[account] = None
        return list(found)

    def limits(self, task: messages.Task, abilities: RunnerAbilities) -> dict[str, int]:
        """Return the limits of the task's step by name. Raises `Rejected` WF710."""
        limits: dict[str, int] = {}
        for name, asked in _asked(task.limits).items():
            allowed = self._configured(name)
            if asked and allowed and asked > allowed:
                text = f"limits.{name}: the step asks for {_shown(name, asked)}, this server allows {_shown(name, allowed)}"
                raise Rejected("WF710", f"{text}; see step-{name} in the agent's configuration")
            if asked and name not in abilities.limits:
                raise Rejected(
                    "WF710", f"limits.{name}: this server cannot enforce it, because it delegates no control group"
                )
            value = asked or allowed
            if value and name in abilities.limits:
                limits[name] = value
        return limits

    def describe(self, abilities: RunnerAbilities) -> tuple[str, list[str]]:
        """Return the user of steps unless a job chooses another one, and the enforced limits, for people."""
        shown = [
            f"{name} {_shown(name, value)}"
            for name in _LIMITS
            if (value := self._configured(name)) and name in abilities.limits
        ]
        return self._default(abilities) or _own_name(), shown

    def warnings(self, abilities: RunnerAbilities) -> list[str]:
        """Return a sentence for each kind of isolation that is not enforced."""
        found: list[str] = []
        name = self._default(abilities)
        account = _find(name) if name else None
        if name and account is None:
            found.append(f"steps cannot run: this server has no user {name} (step-user)")
        elif account is not None and account.uid == 0:
            found.append("steps run as root: they control this server, its agent and the secrets of all its steps")
        elif account is None or account.uid == os.geteuid():
            found.append(
                f"steps run as the agent's own user ({_own_name()}): a step can read the agent's key and the secrets of other"
                " steps, and can outlive its job"
            )
        elif not abilities.can_switch:
            found.append(f"steps cannot run as {name}: the step runner was started without the right to change users")
        missing = [limit for limit in _LIMITS if limit not in abilities.limits]
        if missing:
            found.append(
                f"no limits for {', '.join(missing)}: this machine delegates no control group for them to the step runner"
            )
        return found

    def _default(self, abilities: RunnerAbilities) -> str:
        if self.user or not abilities.can_switch or _find(DEFAULT_USER) is None:
            return self.user
        return DEFAULT_USER

    def _configured(self, name: str) -> int:
        return {"memory": self.memory_bytes, "processes": self.processes, "cpu": self.cpu_percent}[name]


def memory_of_machine() -> int:
    """Return the size of the machine's memory in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def account_of(uid: int) -> Account | None:
    """Return the user with this number, or None."""
    try:
        return _find(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return None


def _asked(limits: messages.Limits | None) -> dict[str, int]:
    limits = limits or messages.Limits()
    asked = {"memory": limits.memory_bytes, "processes": limits.processes, "cpu": limits.cpu_percent}
    return {name: value or 0 for name, value in asked.items()}


def _shown(name: str, value: int) -> str:
    if name == "memory":
        return size_text(value)
    return f"{value}%" if name == "cpu" else str(value)


def _find(name: str) -> Account | None:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(found.pw_name, found.pw_uid, found.pw_dir)


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
