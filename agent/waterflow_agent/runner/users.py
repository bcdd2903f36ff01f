"""The users that steps run as, and how this process acts for them.

Theory. The runner starts as root with few capabilities (`CAP_SETUID`, `CAP_SETGID`) and takes the agent's user, but keeps root
as its saved user. So it can take another user for a moment (`acting_as`), as which the kernel checks its permissions, and root
(`acting_as_root`), to fork a child that takes the step's user for good. Its real user stays the agent's, so a step can neither
signal nor trace it. A runner that was not started as root runs every step as its own user.

Rules of this file
- Which users are allowed is decided by root's configuration, not by the agent that asks: a runner that a service manager starts
  reads `step-user`, `step-users` and `group-users` of the agent's configuration file, and the variables of these names in its
  own environment, which root's unit sets. One that the agent starts has the agent's rights anyway, and gets no such file.
- Root is allowed only where the unit says so (`WATERFLOW_RUNNER_ALLOW_ROOT`), or where the runner itself runs as root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: The user of steps unless the configuration names another one; packages create it.
DEFAULT_USER = "waterflow-step"
#: Set by the privileged profile.
ALLOW_ROOT_VARIABLE = "WATERFLOW_RUNNER_ALLOW_ROOT"
#: Keys of the configuration, and the variables that set them.
_KEYS = {key: f"WATERFLOW_AGENT_{key.replace('-', '_').upper()}" for key in ("step-user", "step-users", "group-users")}


class UserRefused(Exception):
    """Steps may not run as this user; the text is for people."""


class User:
    """A user of this machine, with its groups."""

    __slots__ = ("gid", "groups", "name", "uid")

    def __init__(self, account: pwd.struct_passwd) -> None:
        self.name = account.pw_name
        self.uid = account.pw_uid
        self.gid = account.pw_gid
        self.groups = os.getgrouplist(account.pw_name, account.pw_gid)


class Users:
    """The users of steps of one runner. `take_user` comes first when the runner shall not stay root."""

    def __init__(self, configuration: str | None = None) -> None:
        """`configuration` is the agent's configuration file; None when the agent that started this process decides."""
        self._configuration = configuration
        self._own = os.geteuid()
        self._is_root_allowed = self._own == 0 or bool(os.environ.get(ALLOW_ROOT_VARIABLE))
        #: Whether steps can run as another user than this process.
        self.can_switch = 0 in os.getresuid()
        self._known: dict[str, User] = {}

    def find(self, name: str) -> User | None:
        """Return the user with this name, None for this process's own. Raises `UserRefused`."""
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            raise UserRefused(f"this server has no user {name}") from None
        if account.pw_uid == self._own:
            return None
        if not self.can_switch:
            raise UserRefused(f"the step runner cannot run steps as {name}: it was not started with that right")
        if account.pw_uid == 0 and not self._is_root_allowed:
            raise UserRefused("steps may not run as root; that needs the privileged profile of the units")
        if self._configuration is not None and account.pw_uid != 0 and name not in _allowed(self._configuration):
            raise UserRefused(f"steps may not run as {name}: add it to step-users in {self._configuration}")
        known = self._known.get(name)
        if known is None or known.uid != account.pw_uid:
            known = self._known[name] = User(account)
        return known

    def all(self) -> list[User]:
        """Return every user that steps of this process may still run as."""
        return list(self._known.values())


@contextlib.contextmanager
def acting_as(user: User | None) -> Iterator[None]:
    """Have the permissions of `user`, and no others, for a moment. Does nothing for None."""
    if user is None:
        yield
        return
    before = os.geteuid(), os.getegid(), os.getgroups()
    os.seteuid(0)
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(before[1])
        os.setgroups(before[2])
        os.seteuid(before[0])


@contextlib.contextmanager
def acting_as_root() -> Iterator[None]:
    """Have the rights of the saved user for a moment."""
    before = os.geteuid()
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(before)


def kill_child(pid: int, possible: Iterable[User | None]) -> None:
    """Kill a child, whose number cannot be reused before it is reaped, with the right of whichever user it has."""
    for user in possible:
        with acting_as(user):
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                continue
            return


def take_user(name: str) -> None:
    """Take the user that the runner works as, and keep root as the saved user. Raises `UserRefused` and `OSError`."""
    try:
        user = User(pwd.getpwnam(name))
    except KeyError:
        raise UserRefused(f"this server has no user {name}") from None
    if os.geteuid() == user.uid:
        return
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, 0)


def _allowed(configuration: str) -> set[str]:
    """Return the names in the configuration and the environment, and the default. The file is read each time."""
    # Imported here: most runners never need it.
    import tomllib

    try:
        with open(configuration, "rb") as file:
            settings = tomllib.load(file)
    except FileNotFoundError:
        settings = {}
    except (OSError, ValueError) as error:
        raise UserRefused(f"cannot read {configuration}: {error}") from error
    names = {DEFAULT_USER}
    for key, variable in _KEYS.items():
        for value in (settings.get(key), _value_of(os.environ.get(variable, ""))):
            values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
            names.update(one for one in values if isinstance(one, str))
    return names - {""}


def _value_of(text: str) -> object:
    """Return the value of a variable: `NAME,NAME`, `group=NAME,group=NAME`, or a list or table in JSON or TOML."""
    if not text.lstrip().startswith(("[", "{")):
        return [part.rpartition("=")[2].strip() for part in text.split(",")]
    import json
    import tomllib

    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        # The agent, which reads the same variable, has refused it with the reason.
        return None
