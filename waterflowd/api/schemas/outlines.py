"""The outline of a run: all its jobs and steps, and when each of them changed; small enough for thousands of them."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from waterflowd.api.runs.outlines import Change, Mark, Node, Outline, OutlineReason
from waterflowd.api.schemas.jobs import JobKind, block_state, job_kind
from waterflowd.api.timestamps import Timestamp, timestamp
from waterflowd.engine.state.runs import Job
from waterflowd.model.statuses import Conclusion, Status
from waterflowd.time_slices import Work

#: Nodes of one answer: about 1 MB.
NODES_MAX = 5_000
#: Nodes that are described before the work can be interrupted.
_PIECE = 100

NodeKind = JobKind | Literal["step"]


class OutlineNode(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A job or step; fields with their defaults are left out.

    `changes` are `[seq, at_ms, code, reason]`: the position of an event, the time since the creation of the run, a status, a
    conclusion or (of an attempt) `queued`, `sent`, `started` or `finished`, and the index of the reason.
    """

    #: `JOB[/STEP]`.
    place: str
    #: The job or step that it is in, or the job that became it.
    parent: str | None = None
    name: str
    kind: NodeKind
    #: What a step uses.
    node: str = ""
    status: Status = Status.COMPLETED
    conclusion: Conclusion | None = None
    needs: tuple[str, ...] = ()
    group: str = ""
    agent: str = ""
    #: Jobs that it became, or blocks inside it, by state.
    counts: dict[str, int] = {}
    total: int = 0
    #: Of instances in batches: the number of instances up to the end of each batch.
    batches: list[int] = []
    #: Why no further instance starts.
    halted: str = ""
    changes: list[Change] = []


class OutlineSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the parts of a run up to event `seq`.

    With `after`, only what has changed since that event. `reasons` are `[code, text]`; those before `reasons_from` were in
    earlier answers. `marks` are `[seq, at_ms, kind]`.
    """

    seq: int
    #: `at_ms` counts from here.
    created_at: Timestamp | None
    started_at: Timestamp | None
    ended_at: Timestamp | None
    status: Status
    conclusion: Conclusion | None
    reasons_from: int
    reasons: list[OutlineReason]
    nodes: list[OutlineNode]
    #: Of the whole run.
    nodes_total: int
    marks: list[Mark]
    marks_left_out: int
    next: str | None


def outline_schema(
    outline: Outline, *, after: int, job: str | None, depth: int | None, first: int, limit: int = NODES_MAX
) -> Work[OutlineSchema]:
    """A page of the outline, from the node with index `first`. An event that arrives meanwhile is left for the next answer."""
    seq = outline.seq
    nodes: list[OutlineNode] = []
    following: str | None = None
    for index, node in outline.selected(after, job, depth, first):
        if len(nodes) >= limit:
            following = str(index)
            break
        nodes.append(_node(node, after, seq))
        if len(nodes) % _PIECE == 0:
            yield
    reasons_from = outline.reasons_before(after)
    run = outline.run
    return OutlineSchema(
        seq=seq,
        created_at=timestamp(run.created_at),
        started_at=timestamp(run.started_at),
        ended_at=timestamp(run.completed_at),
        status=run.status,
        conclusion=run.conclusion,
        reasons_from=reasons_from,
        reasons=outline.reasons[reasons_from:],
        nodes=nodes,
        nodes_total=len(outline.nodes),
        marks=[mark for mark in outline.marks if after < mark.seq <= seq] if first == 0 else [],
        marks_left_out=outline.marks_left_out,
        next=following,
    )


def _node(node: Node, after: int, seq: int) -> OutlineNode:
    part, job = node.part, node.job
    changes = [change for change in node.changes if after < change.seq <= seq]
    if isinstance(part, Job):
        children = part.children.jobs if part.children is not None else []
        return OutlineNode(
            place=node.place,
            parent=part.parent.id if part.parent is not None else None,
            name=part.name,
            kind=job_kind(part),
            status=part.status,
            conclusion=part.conclusion,
            needs=part.plan.needs if part.key is None else (),
            group=part.group,
            agent=part.agent_name or part.pinned_name,
            counts=dict(Counter((child.conclusion or child.status).value for child in children)) if children else {},
            total=len(children),
            batches=part.children.batches if part.children is not None and len(part.children.batches) > 1 else [],
            halted=part.children.halted.text if part.children is not None and part.children.halted is not None else "",
            changes=changes,
        )
    owner = part.block.owner
    return OutlineNode(
        place=node.place,
        parent=f"{job.id}/{owner.id}" if owner is not None else job.id,
        name=part.name,
        kind="step",
        node=part.plan.node,
        status=part.status,
        conclusion=part.conclusion,
        counts=dict(Counter(block_state(block) for block in part.blocks)) if part.blocks else {},
        total=max(len(part.blocks), part.count or 0),
        changes=changes,
    )
