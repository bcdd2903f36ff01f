"""Facts of the stream `notices`: what was to be told, to which channels, and what became of it.

Rules of this file: as for the events of runs (engine/events.py): past tense, readable forever, new fields have defaults. No
fact holds an address of a webhook or a password. A delivery is recorded before it begins, so that after a crash it is known
which notices may have been sent.
"""

from __future__ import annotations

import msgspec


class Notice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One notice. Texts may come from strangers; each format escapes them in its own way."""

    #: Ascending from 1.
    id: int
    #: `failure`, `recovery`, `approval`, `agent` or `repository`; see `channels.KINDS`.
    kind: str
    #: The problem that it is about: notices about the same problem are not repeated.
    key: str
    at: int
    title: str
    text: str
    #: A command that shows more.
    command: str = ""
    link: str = ""
    #: True when the problem has ended.
    is_resolved: bool = False
    repository: str | None = None
    workflow: str = ""
    path: str = ""
    ref: str | None = None
    run: str | None = None
    number: int = 0
    conclusion: str = ""
    agent: str = ""


class NoticeFact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of all facts of the stream; `at` is the log's clock in ms."""

    at: int


class EventsRead(NoticeFact, frozen=True, kw_only=True, tag="events-read"):
    """Everything in the log up to `seq` was looked at; 0: nothing is looked at from now on."""

    seq: int


class NoticeQueued(NoticeFact, frozen=True, kw_only=True, tag="notice-queued"):
    """The notice will be sent to these channels; none if no channel wants it, and only the problem is remembered."""

    notice: Notice
    channels: tuple[str, ...] = ()


class ProblemEnded(NoticeFact, frozen=True, kw_only=True, tag="problem-ended"):
    """The problem has ended without a notice, because what had it is gone."""

    key: str


class DeliveryBegun(NoticeFact, frozen=True, kw_only=True, tag="delivery-begun"):
    """The notices are being sent as one message; what is sent after a crash says that it may be a repetition."""

    channel: str
    notices: tuple[int, ...]


class DeliveryEnded(NoticeFact, frozen=True, kw_only=True, tag="delivery-ended"):
    """`sent`, `failed` (tried again), `given-up` or `dropped`. `text` says why; it never has the channel's address."""

    channel: str
    notices: tuple[int, ...]
    outcome: str
    text: str = ""
    #: Of `failed`: the other side may have taken the message.
    is_uncertain: bool = False


class TestSent(NoticeFact, frozen=True, kw_only=True, tag="test-sent"):
    """A channel that was failing has taken a test message."""

    channel: str


class StateRecorded(NoticeFact, frozen=True, kw_only=True, tag="state-recorded"):
    """Stands for all facts before it, so that a start reads little."""

    #: A `state.NoticeState`, encoded with MessagePack.
    state: bytes


Fact = EventsRead | NoticeQueued | ProblemEnded | DeliveryBegun | DeliveryEnded | TestSent | StateRecorded
