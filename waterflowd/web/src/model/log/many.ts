// The output of everything below a job: one section for each part, equal ones together, or all lines in the order of their times.

import { instant } from "../times";
import type { OutputLine } from "../shapes";

/** More lines than this are not shown together. */
export const MANY_MAX = 50_000;

export interface ManyLine {
  /** The number of the line within its own output. */
  readonly number: number;
  readonly job: string;
  readonly step: string;
  readonly attempt: number;
  readonly text: string;
  readonly at: number | null;
  readonly isError: boolean;
}

export interface Section {
  /** The jobs that printed this, in the order in which they began to. */
  readonly jobs: readonly string[];
  readonly step: string;
  readonly attempt: number;
  readonly lines: readonly ManyLine[];
}

/** Rows of the folded view: the head of a section, or one of its lines. */
export type ManyRow = { readonly section: Section; readonly line: ManyLine | null };

/** Joins the parts of long lines, and numbers the lines of each output. */
export function manyLines(objects: readonly (OutputLine & { readonly at?: string; readonly cut?: boolean })[]): readonly ManyLine[] {
  const numbers = new Map<string, number>();
  const open = new Map<string, string>();
  const found: ManyLine[] = [];
  for (const { job, step, attempt, text, stream, at, cut } of objects) {
    const key = keyOf(job, step, attempt);
    const whole = (open.get(key) ?? "") + text;
    if (cut) {
      open.set(key, whole);
      continue;
    }
    open.delete(key);
    const number = (numbers.get(key) ?? 0) + 1;
    numbers.set(key, number);
    found.push({ number, job, step, attempt, text: whole, at: instant(at ?? null), isError: stream === "stderr" });
  }
  return found;
}

/** One section for each step of each job; jobs whose step printed the same share one. */
export function sections(lines: readonly ManyLine[]): readonly Section[] {
  const outputs = new Map<string, ManyLine[]>();
  for (const line of lines) {
    const key = keyOf(line.job, line.step, line.attempt);
    const before = outputs.get(key);
    if (before) before.push(line);
    else outputs.set(key, [line]);
  }
  const equal = new Map<string, { jobs: string[]; lines: readonly ManyLine[] }>();
  for (const own of outputs.values()) {
    const [first] = own;
    if (!first) continue;
    const key = JSON.stringify([first.step, first.attempt, own.map((line) => [line.text, line.isError])]);
    const before = equal.get(key);
    if (before) before.jobs.push(first.job);
    else equal.set(key, { jobs: [first.job], lines: own });
  }
  // What differs from the rest stands first.
  const found = [...equal.values()].map(({ jobs, lines: own }) => ({ jobs, step: own[0]?.step ?? "", attempt: own[0]?.attempt ?? 1, lines: own }));
  const order = [...new Set(found.map((section) => section.step))];
  return found.sort((a, b) => order.indexOf(a.step) - order.indexOf(b.step) || a.jobs.length - b.jobs.length);
}

export function folded(found: readonly Section[], isOpen: (section: Section) => boolean): readonly ManyRow[] {
  return found.flatMap((section) => [{ section, line: null }, ...(isOpen(section) ? section.lines.map((line) => ({ section, line })) : [])]);
}

export function byTime(lines: readonly ManyLine[]): readonly ManyLine[] {
  return [...lines].sort((a, b) => (a.at ?? 0) - (b.at ?? 0));
}

/** The server or combination of a job's name: `web-3` of `release[web-3]`; the whole name without one. */
export function shortJob(job: string): string {
  return /\[([^\]]+)\][^[\]]*$/.exec(job)?.[1] ?? job;
}

export const sectionKey = (section: Section): string => `${section.jobs[0] ?? ""}\n${section.step}\n${section.attempt}`;
const keyOf = (job: string, step: string, attempt: number): string => `${job}\n${step}\n${attempt}`;
