// The parts of a run as one tree: jobs, their instances, steps and blocks, each with the times that its bar shows; as they are now,
// or as they were after an earlier event.

import { isOpened, type Change, type Outline, type OutlineNode } from "./outline";
import type { Reason } from "./shapes";
import { isActive, isConclusion, rank, stateOf, type State } from "./states";

export type PartKind = "job" | "step" | "block" | "more";
/** What a stretch of time was spent on. */
export type Spent = "whole" | "needs" | "slot" | "lock" | "sent" | "running" | "retry" | "decision";

export interface Segment {
  readonly spent: Spent;
  readonly from: number;
  /** Null for what is not over. */
  readonly to: number | null;
  readonly state: State;
}

export interface Part {
  /** `JOB`, `JOB/STEP`, or for a block `JOB/STEP[INDEX]`: its address in the run. */
  readonly place: string;
  readonly kind: PartKind;
  /** For a row that stands for others: whether they are `others`, or `all` there are. */
  readonly name: string;
  /** Beside the name: the server, or how many there are. */
  readonly detail: string;
  readonly state: State;
  readonly reason: Reason | null;
  readonly from: number | null;
  readonly to: number | null;
  readonly segments: readonly Segment[];
  readonly children: readonly Part[];
  /** What it is in the outline; null for a block, and for a row that stands for others. */
  readonly node: OutlineNode | null;
  /** The job that it is, or is in. */
  readonly job: string;
  /** Whether what is in it must be asked for before it is shown. */
  readonly isClosed: boolean;
}

/** The id of the step in its job; null for anything else. */
export const stepOf = (part: Part): string | null => (part.kind === "step" ? part.place.slice(part.job.length + 1) : null);

/** More instances than this stand behind one row, except those that failed or are at work. */
const SHOWN = 12;

/** The jobs of a run with everything below them that is known; with `at` as they were after that event. */
export function partsOf(outline: Outline, at: number = Infinity): readonly Part[] {
  const inside = new Map<string, OutlineNode[]>();
  const roots: OutlineNode[] = [];
  for (const node of outline.nodes.values()) {
    if (node.parent === undefined) roots.push(node);
    else {
      const siblings = inside.get(node.parent);
      if (siblings) siblings.push(node);
      else inside.set(node.parent, [node]);
    }
  }
  const tree = new Tree(outline, at, inside);
  return roots.map((root) => tree.job(root));
}

class Tree {
  constructor(
    private readonly outline: Outline,
    private readonly at: number,
    private readonly inside: ReadonlyMap<string, readonly OutlineNode[]>,
  ) {}

  job(node: OutlineNode): Part {
    const below = this.inside.get(node.place) ?? [];
    const jobs = below.filter((child) => child.kind !== "step").map((child) => this.job(child));
    const steps = below.filter((child) => child.kind === "step").map((child) => this.step(node.place, child));
    const changes = this.changes(node);
    const isInstance = node.parent !== undefined && node.place.startsWith(`${node.parent}[`);
    const total = node.total ?? 0;
    const instances = node.kind === "matrix" || node.kind === "each" ? grouped(node.place, jobs) : jobs;
    return {
      ...this.part(node, changes, node.place, "job"),
      name: isInstance ? node.place.slice((node.parent ?? "").length + 1, -1) : node.name,
      detail: total > 0 ? `×${total}` : isInstance && node.agent === node.place.slice((node.parent ?? "").length + 1, -1) ? "" : (node.agent || node.group) ?? "",
      segments: jobSegments(node, changes, this.outline, this.at === Infinity ? this.outline.endedAt : null).filter(isSeen),
      children: [...instances, ...steps],
      isClosed: node.kind === "steps" && !isOpened(this.outline, node.place),
    };
  }

  private step(job: string, node: OutlineNode): Part {
    const changes = this.changes(node);
    const tries = changes.filter((change) => change[2] === "queued").length;
    const total = node.total ?? 0;
    return {
      ...this.part(node, changes, job, "step"),
      detail: tries > 1 ? `try ${tries}` : total > 1 ? `×${total}` : "",
      segments: stepSegments(changes, this.outline).filter(isSeen),
      children: this.blocks(job, node),
    };
  }

  /** What is inside a step: its steps, or where it has several blocks, a row for each of them. */
  private blocks(job: string, owner: OutlineNode): readonly Part[] {
    const direct: Part[] = [];
    const blocks = new Map<string, Part[]>();
    for (const node of this.inside.get(owner.place) ?? []) {
      const step = this.step(job, node);
      const index = /^\[\d+\]/.exec(node.place.slice(owner.place.length))?.[0];
      if (index === undefined) direct.push(step);
      else blocks.set(index, [...(blocks.get(index) ?? []), step]);
    }
    const found = [...blocks].map(([index, steps]) => block(owner, job, index, steps));
    return [...direct, ...grouped(owner.place, found)];
  }

  private changes(node: OutlineNode): readonly Change[] {
    const all = node.changes ?? [];
    return this.at === Infinity ? all : all.filter((change) => change[0] <= this.at);
  }

  private part(node: OutlineNode, changes: readonly Change[], job: string, kind: "job" | "step"): Part {
    const last = changes.at(-1);
    const reason = last === undefined ? undefined : this.outline.reasons[last[3]];
    const { createdAt } = this.outline;
    const began = changes.find((change) => (kind === "step" ? !isConclusion(change[2]) : change[2] === "running"));
    const state = this.at === Infinity ? stateOf({ status: node.status ?? "completed", conclusion: node.conclusion ?? null }) : stateAfter(changes);
    return {
      place: node.place,
      kind,
      name: node.name,
      detail: "",
      state,
      reason: reason === undefined ? null : { code: reason[0], text: reason[1] },
      from: began === undefined ? null : createdAt + began[1],
      to: last !== undefined && isConclusion(last[2]) ? createdAt + last[1] : null,
      segments: [],
      children: [],
      node,
      job,
      isClosed: false,
    };
  }
}

/** A wait that took no time would still have a bar of a few pixels. */
const isSeen = (segment: Segment): boolean => segment.to !== segment.from || segment.spent === "running" || segment.spent === "whole";

const OF_ATTEMPTS: Readonly<Partial<Record<string, State>>> = { queued: "queued", sent: "running", started: "running", finished: "running" };

/** The state after the last of the changes. */
export function stateAfter(changes: readonly Change[]): State {
  const code = changes.at(-1)?.[2] ?? "queued";
  return OF_ATTEMPTS[code] ?? (isConclusion(code) || code === "running" || code === "waiting" ? code : "queued");
}

function block(owner: OutlineNode, job: string, index: string, steps: readonly Part[]): Part {
  const begins = steps.flatMap((step) => (step.from === null ? [] : [step.from]));
  const open = steps.some((step) => isActive(step.state));
  const ends = steps.flatMap((step) => (step.to === null ? [] : [step.to]));
  const from = begins.length ? Math.min(...begins) : null;
  const to = open || ends.length === 0 ? null : Math.max(...ends);
  const state = [...steps].sort((a, b) => rank(a.state) - rank(b.state))[0]?.state ?? "queued";
  return {
    place: `${owner.place}${index}`,
    kind: "block",
    name: `${owner.name} ${Number(index.slice(1, -1)) + 1}`,
    detail: "",
    state,
    reason: null,
    from,
    to,
    segments: from === null ? [] : [{ spent: "whole", from, to, state }],
    children: steps,
    node: null,
    job,
    isClosed: false,
  };
}

/** What failed or is at work first. Where there are many, one row stands for the others; it opens like a part. */
function grouped(place: string, parts: readonly Part[]): readonly Part[] {
  const ranked = [...parts].sort((a, b) => rank(a.state) - rank(b.state));
  if (ranked.length <= SHOWN) return ranked;
  const first = ranked.filter((part) => rank(part.state) < 2);
  const others = ranked.slice(first.length);
  if (others.length <= 1) return ranked;
  const states = new Set(others.map((part) => part.state));
  const [state] = states.size === 1 ? states : (["queued"] as const);
  return [
    ...first,
    {
      place: `${place}…`, kind: "more", name: first.length > 0 ? "others" : "all", detail: "", state: state ?? "queued",
      reason: null, from: null, to: null, segments: [], children: others, node: null, job: others[0]?.job ?? "", isClosed: false,
    },
  ];
}

const WAITS: Readonly<Partial<Record<string, Spent>>> = {
  "retry": "retry", "waiting-approval": "decision", "approved": "decision", "held": "decision", "waiting-lock": "lock", "waiting-turn": "lock", "batch-pause": "retry",
  "sleeping": "running", "waiting-child-run": "running", "child-run-starting": "running",
};

function jobSegments(node: OutlineNode, changes: readonly Change[], outline: Outline, endedAt: number | null): readonly Segment[] {
  const found: Segment[] = [];
  const { createdAt } = outline;
  const first = changes[0];
  const skipped = first !== undefined && isConclusion(first[2]);
  if ((node.needs?.length ?? 0) > 0 && !skipped) {
    found.push({ spent: "needs", from: createdAt, to: first === undefined ? endedAt : createdAt + first[1], state: "waiting" });
  }
  let began: number | null = null;
  changes.forEach((change, index) => {
    const next = changes[index + 1];
    const to = next === undefined ? null : createdAt + next[1];
    if (change[2] === "running") began ??= createdAt + change[1];
    else if (change[2] === "waiting" && began === null) {
      found.push({ spent: WAITS[outline.reasons[change[3]]?.[0] ?? ""] ?? "slot", from: createdAt + change[1], to, state: "waiting" });
    }
  });
  if (began !== null) {
    const last = changes.at(-1);
    const hasEnded = last !== undefined && isConclusion(last[2]);
    found.push({ spent: "whole", from: began, to: hasEnded ? createdAt + last[1] : null, state: stateAfter(changes) });
  }
  return found;
}

function stepSegments(changes: readonly Change[], outline: Outline): readonly Segment[] {
  const found: Segment[] = [];
  changes.forEach((change, index) => {
    const next = changes[index + 1];
    const from = outline.createdAt + change[1];
    const to = next === undefined ? null : outline.createdAt + next[1];
    const result = next !== undefined && isConclusion(next[2]) ? next[2] : null;
    const code = change[2];
    if (isConclusion(code) || code === "finished") return;
    if (code === "queued") found.push({ spent: "slot", from, to, state: "waiting" });
    // A short step is reported as started and ended at once.
    else if (code === "sent" && result === null && next?.[2] !== "finished") found.push({ spent: "sent", from, to, state: "waiting" });
    else if (code === "started" || code === "sent") found.push({ spent: "running", from, to, state: next === undefined ? "running" : (result ?? "failure") });
    else if (code === "running") found.push({ spent: "whole", from, to, state: result ?? "running" });
    else if (code === "waiting") {
      const spent = WAITS[outline.reasons[change[3]]?.[0] ?? ""] ?? "slot";
      found.push({ spent, from, to, state: spent === "running" ? (result ?? "running") : "waiting" });
    }
  });
  return found;
}
