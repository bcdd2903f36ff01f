// The critical path of a run: the jobs of which each had to wait for the one before it, up to the one that ended last. Had one of
// them been faster, the run would have been.

import { busy, endOf } from "./axis";
import type { Part } from "./parts";

export interface CriticalPath {
  /** In the order in which they ran; without the jobs that only expanded into others. */
  readonly links: readonly Part[];
  /** These, what they are in, and their steps. */
  readonly places: ReadonlySet<string>;
  readonly totalMs: number;
  /** How much of it nothing of these was on a server. */
  readonly waitedMs: number;
}

/** Null as long as no job has begun. */
export function criticalPath(parts: readonly Part[], createdAt: number, now: number): CriticalPath | null {
  const chain = chainOf(parts, now);
  const links = chain.filter((part) => jobsIn(part).length === 0);
  const last = links.at(-1);
  if (last === undefined) return null;
  const places = new Set(chain.map((part) => part.place));
  for (const part of links) part.children.forEach((child) => places.add(child.place));
  const totalMs = Math.max(0, endOf(last, now) - createdAt);
  return { links, places, totalMs, waitedMs: Math.max(0, totalMs - covered(busy(links, now))) };
}

/** The critical path among jobs that may need each other. */
function chainOf(jobs: readonly Part[], now: number): readonly Part[] {
  const found: Part[] = [];
  const byPlace = new Map(jobs.map((part) => [part.place, part]));
  let job = latest(jobs, now);
  while (job !== null && !found.includes(job)) {
    found.unshift(job, ...inside(job, now));
    const above = job.place.slice(0, job.place.lastIndexOf("/") + 1);
    const needs: readonly Part[] = (job.node?.needs ?? []).flatMap((need) => byPlace.get(need) ?? byPlace.get(above + need) ?? []);
    job = latest(needs, now);
  }
  return found;
}

/** The jobs that a job is made of. */
function jobsIn(job: Part): readonly Part[] {
  return job.children.flatMap((child) => (child.kind === "more" ? child.children : [child])).filter((child) => child.kind === "job");
}

function inside(job: Part, now: number): readonly Part[] {
  const jobs = jobsIn(job);
  if (jobs.length === 0) return [];
  if (job.node?.kind === "call") return chainOf(jobs, now);
  // An instance that did not begin with the first ones waited for a turn, a batch or a slot: for the one that ended last before it.
  const found: Part[] = [];
  let instance = latest(jobs, now);
  while (instance !== null) {
    found.unshift(instance);
    const began = instance.from ?? 0;
    instance = latest(jobs.filter((other) => !found.includes(other) && other.to !== null && other.to <= began), now);
  }
  return found;
}

function latest(jobs: readonly Part[], now: number): Part | null {
  let found: Part | null = null;
  for (const job of jobs) if (job.from !== null && (found === null || endOf(job, now) > endOf(found, now))) found = job;
  return found;
}

/** The length of all spans together; what two of them cover counts once. */
function covered(spans: readonly (readonly [from: number, to: number])[]): number {
  let sum = 0;
  let end = -Infinity;
  for (const [from, to] of spans) {
    if (to > end) sum += to - Math.max(from, end);
    end = Math.max(end, to);
  }
  return sum;
}
