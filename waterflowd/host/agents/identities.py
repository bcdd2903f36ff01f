"""What an agent's key belongs to: a machine, an installation (data directory) and a boot. All others with the key are clones.

Rules of this file:

- The first session decides which machine and installation a key belongs to; the machine is already known from the enrollment.
- A key that comes from another machine or installation, or with a boot that was followed by another one, is refused until a
  person accepts it (`waterflowctl agents accept`), even if the agent that it belongs to is silent.
- Another boot of the same machine and installation is a reboot: it is accepted and recorded.
- An attacker who can read the data directory of a running agent can claim its identity. Only one of the two can be connected
  at a time (dispatch/clone_detection.py).
- Refused clones are kept in memory: they try again about once a minute. The audit trail has every rejection.
- The same record says which of the server's keys the agent uses, so that an operator knows when all have followed a rotation,
  and which labels it has, so that every daemon can list the servers with a label.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.fleet import events
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Enrolled, Registry
from waterflowd.model.ids import AgentId

#: How long after its last try a clone counts as refused; it tries again after a minute.
REFUSED_MS = 5 * 60_000
#: Of a machine id in the registry; enrollment stores no more.
MACHINE_ID_LENGTH = 64
#: Of the labels that are recorded, in characters: more are known only while the agent is connected.
LABELS_LENGTH_MAX = 4_096


class RefusedClone(msgspec.Struct, frozen=True, kw_only=True):
    """A server that has used an agent's key and was refused."""

    machine_id: str
    installation: str
    boot_id: str
    hostname: str
    #: One sentence without a subject, such as `comes from another machine`.
    text: str
    refused_at: int


class AgentIdentities:
    """Compares each session with what the registry knows; the only writer of `AgentIdentified`."""

    def __init__(
        self,
        registry: Registry,
        placement: Placement,
        fleet: ports.StreamWriter,
        clock: ports.Clock,
        server_key: str = "",
    ) -> None:
        """`fleet` appends to the `fleet` stream, and what it folds changes `registry`.

        `server_key` is the fingerprint of the server's current key, which every agent with a session uses.
        """
        self._server_key = server_key
        self._registry = registry
        self._placement = placement
        self._fleet = fleet
        self._clock = clock
        self._refused: dict[AgentId, RefusedClone] = {}
        #: Called with an agent and a text when its session must end: another daemon has let another server use the key.
        self.on_foreign: Callable[[AgentId, str], None] = lambda agent, text: None
        #: Called with an agent, `cloned` and a text for each refused clone, for the audit trail.
        self.on_refused: Callable[[AgentId, str, str], None] = lambda agent, what, detail: None

    def identify(self, agent: AgentId, hello: messages.Hello) -> str:
        """Why this `Hello` may not open a session, with the next step; "" if it may."""
        entry = self._registry.agents.get(agent)
        if entry is None:
            # The link refuses keys that are not approved.
            return ""
        problem = _difference(entry, hello)
        if problem:
            return self._refused_text(entry, hello, problem)
        if not self._is_known(entry, hello):
            self._fleet.keep(lambda: self._identified(agent, hello))
        return ""

    def _refused_text(self, entry: Enrolled, hello: messages.Hello, problem: str) -> str:
        self._refuse(entry.agent, hello, problem)
        return (
            f"this agent's key belongs to another server: it {problem}. If this server replaces that one, run "
            f"`waterflowctl agents accept {entry.name}`; if not, enroll this server with a new data directory"
        )

    def _is_known(self, entry: Enrolled, hello: messages.Hello) -> bool:
        known = (entry.machine_id, entry.installation, entry.boot_id, entry.server_key, entry.labels)
        return known == (_machine_id(hello), hello.installation, hello.boot_id, self._server_key, _labels(hello))

    def _identified(self, agent: AgentId, hello: messages.Hello) -> list[events.Fact]:
        """What is recorded of a session; nothing if it is known already, or if the key belongs to another server by now."""
        entry = self._registry.agents.get(agent)
        if entry is None or self._is_known(entry, hello):
            return []
        problem = _difference(entry, hello)
        if problem:
            self.on_foreign(agent, self._refused_text(entry, hello, problem))
            return []
        fact = self._fact(agent, "waterflowd", hello.machine_id, hello.installation, hello.boot_id)
        return [msgspec.structs.replace(fact, server_key=self._server_key, labels=_labels(hello))]

    def clone_found(self, agent: AgentId, hello: messages.Hello) -> None:
        """Two live processes use the key; the newer one, with this `Hello`, is refused."""
        self._refuse(agent, hello, "uses the key at the same time")

    def refused(self, agent: AgentId) -> RefusedClone | None:
        """The clone that is refused at the moment; None if there is none."""
        clone = self._refused.get(agent)
        if clone is not None and self._clock.now() - clone.refused_at > REFUSED_MS:
            del self._refused[agent]
            return None
        return clone

    async def accept(self, agent: AgentId, by: str) -> None:
        """Lets the refused server have the key. `Rejected` WF606 (409) if there is none, or the agent is connected."""
        clone = self.refused(agent)
        entry = self._registry.agents[agent]
        if clone is None:
            text = f"no other server has tried to connect with the key of {entry.name} in the last minutes"
            raise Rejected("WF606", text, status=409)
        if self._placement.server(agent).is_connected:
            text = f"{entry.name} is connected from the server that its key belongs to; stop that agent first"
            raise Rejected("WF606", text, status=409)
        fact = self._fact(agent, by, clone.machine_id, clone.installation, clone.boot_id, is_accepted=True)

        def accepted() -> list[events.Fact]:
            entry = self._registry.agents.get(agent)
            return [fact] if entry is not None and entry.accepted_at != fact.at else []

        await self._fleet.append(accepted)
        self._refused.pop(agent, None)

    def _fact(
        self, agent: AgentId, by: str, machine_id: str, installation: str, boot_id: str, *, is_accepted: bool = False
    ) -> events.AgentIdentified:
        return events.AgentIdentified(
            at=self._clock.now(),
            by=by,
            agent=agent,
            machine_id=machine_id[:MACHINE_ID_LENGTH],
            installation=installation,
            boot_id=boot_id,
            is_accepted=is_accepted,
        )

    def _refuse(self, agent: AgentId, hello: messages.Hello, problem: str) -> None:
        self._refused[agent] = RefusedClone(
            machine_id=hello.machine_id,
            installation=hello.installation,
            boot_id=hello.boot_id,
            hostname=hello.hostname,
            text=problem,
            refused_at=self._clock.now(),
        )
        self.on_refused(agent, "cloned", f"a server with this key, {hello.hostname}, was refused: it {problem}")


def _machine_id(hello: messages.Hello) -> str:
    return hello.machine_id[:MACHINE_ID_LENGTH]


def _labels(hello: messages.Hello) -> dict[str, str]:
    """The labels that are recorded: all of them, or none."""
    length = sum(len(name) + len(value) for name, value in hello.labels.items())
    return hello.labels if length <= LABELS_LENGTH_MAX else {}


def _difference(entry: Enrolled, hello: messages.Hello) -> str:
    """How the `Hello` differs from what the key belongs to; "" if it does not."""
    if entry.machine_id and _machine_id(hello) != entry.machine_id:
        return "comes from another machine"
    if entry.installation and hello.installation != entry.installation:
        return "has another data directory, or one that was copied or moved"
    if hello.boot_id in entry.past_boots:
        return "was booted before the newest boot of its machine, so that the machine was cloned or set back"
    return ""
