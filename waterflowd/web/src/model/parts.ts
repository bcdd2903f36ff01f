// The parts of a run as one tree: jobs, their instances, steps and blocks, each with the times that its bar shows.

import type { Attempt, Block, Job, Reason, Run, Step } from "./shapes";
import { isActive, rank, stateOf, stateOfAttempt, stateOfBlock, type State } from "./states";
import { instant } from "./times";

export type PartKind = "job" | "step" | "block" | "more";
/** What a stretch of time was spent on. */
export type Spent = "whole" | "slot" | "sent" | "running" | "retry" | "decision";

export interface Segment {
  readonly spent: Spent;
  readonly from: number;
  /** Null for what is not over. */
  readonly to: number | null;
  readonly state: State;
  readonly attempt: number | null;
}

export interface Part {
  /** `JOB`, `JOB/STEP`, or for a block `JOB/STEP#INDEX`: its address in the run. */
  readonly place: string;
  readonly kind: PartKind;
  readonly name: string;
  /** Beside the name: the server, or how many there are. */
  readonly detail: string;
  readonly state: State;
  readonly reason: Reason | null;
  readonly from: number | null;
  readonly to: number | null;
  readonly segments: readonly Segment[];
  readonly children: readonly Part[];
  readonly job: Job | null;
  readonly step: Step | null;
}

/** The jobs of a run with everything below them that the answer holds. */
export function partsOf(run: Run): readonly Part[] {
  return run.jobs.map((job) => jobPart(job));
}

function jobPart(job: Job): Part {
  const state = stateOf(job);
  const instances = [...job.jobs].map(jobPart).sort((a, b) => rank(a.state) - rank(b.state));
  const steps = job.steps.map((step) => stepPart(job, step));
  const from = instant(job.started_at);
  const to = instant(job.completed_at);
  const isPending = job.approval !== null && isActive(state) && from === null;
  return {
    place: job.id,
    kind: "job",
    name: job.key === null ? job.name : (job.server ?? job.key),
    detail: job.jobs_total > 0 ? `×${job.jobs_total}` : (job.agent ?? job.group),
    state,
    reason: job.reason,
    from,
    to,
    segments: from === null || isPending ? [] : [{ spent: "whole", from, to, state, attempt: null }],
    children: [...instances, ...hidden(job.id, job.jobs_total - instances.length, "job"), ...steps, ...hidden(job.id, job.steps_total - steps.length, "step")],
    job,
    step: null,
  };
}

function stepPart(job: Job, step: Step): Part {
  const state = stateOf(step);
  const blocks = step.blocks.map((block) => blockPart(job, step, block));
  return {
    place: `${job.id}/${step.id}`,
    kind: "step",
    name: step.name,
    detail: step.attempts.length > 1 ? `try ${step.attempts.length}` : step.blocks_total > 0 ? `×${step.blocks_total}` : "",
    state,
    reason: step.reason,
    from: instant(step.started_at) ?? instant(step.attempts[0]?.queued_at ?? null),
    to: instant(step.completed_at),
    segments: stepSegments(step, state),
    children: [...blocks, ...hidden(`${job.id}/${step.id}`, step.blocks_total - blocks.length, "block")],
    job,
    step,
  };
}

function blockPart(job: Job, step: Step, block: Block): Part {
  const place = `${job.id}/${step.id}#${block.index}`;
  const steps = block.steps.map((inner) => stepPart(job, inner));
  const begins = steps.flatMap((inner) => (inner.from === null ? [] : [inner.from]));
  const ends = steps.flatMap((inner) => (inner.to === null ? [] : [inner.to]));
  const from = begins.length ? Math.min(...begins) : null;
  const to = block.state === "running" || ends.length === 0 ? null : Math.max(...ends);
  return {
    place,
    kind: "block",
    name: block.name,
    detail: "",
    state: stateOfBlock(block),
    reason: null,
    from,
    to,
    segments: from === null ? [] : [{ spent: "whole", from, to, state: stateOfBlock(block), attempt: null }],
    children: [...steps, ...hidden(place, block.steps_total - steps.length, "step")],
    job,
    step: null,
  };
}

/** One row for what an answer leaves out. */
function hidden(place: string, count: number, what: string): readonly Part[] {
  if (count <= 0) return [];
  const name = `${count} other ${what}${count === 1 ? "" : "s"}`;
  return [
    { place: `${place}…${what}`, kind: "more", name, detail: "", state: "queued", reason: null, from: null, to: null, segments: [], children: [], job: null, step: null },
  ];
}

function stepSegments(step: Step, state: State): readonly Segment[] {
  const from = instant(step.started_at);
  if (step.attempts.length === 0) {
    if (from === null) return [];
    const spent: Spent = step.approval !== null ? "decision" : step.blocks_total > 0 ? "whole" : "running";
    return [{ spent, from, to: instant(step.completed_at), state, attempt: null }];
  }
  const found: Segment[] = [];
  let ended: number | null = null;
  for (const attempt of step.attempts) {
    const queued = instant(attempt.queued_at);
    if (ended !== null && queued !== null && queued > ended) {
      found.push({ spent: "retry", from: ended, to: queued, state: "waiting", attempt: attempt.attempt });
    }
    found.push(...attemptSegments(attempt));
    ended = instant(attempt.finished_at);
  }
  const retry = instant(step.retry_at);
  if (ended !== null && isActive(state) && retry !== null) {
    found.push({ spent: "retry", from: ended, to: null, state: "waiting", attempt: null });
  }
  return found;
}

function attemptSegments(attempt: Attempt): readonly Segment[] {
  const state = stateOfAttempt(attempt);
  const marks: readonly [Spent, number | null][] = [
    ["slot", instant(attempt.queued_at)],
    ["sent", instant(attempt.dispatched_at)],
    ["running", instant(attempt.started_at)],
  ];
  const end = instant(attempt.finished_at);
  const known = marks.filter((mark): mark is [Spent, number] => mark[1] !== null);
  return known.map(([spent, from], index) => {
    const to = known[index + 1]?.[1] ?? end;
    return { spent, from, to, state: spent === "running" ? state : "waiting", attempt: attempt.attempt };
  });
}
