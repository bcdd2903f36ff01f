// The newest lines of output that a page keeps.

import { outputText } from "./lines";
import type { OutputLine } from "./shapes";

export interface ShownLine {
  readonly number: number;
  readonly text: string;
  readonly isError: boolean;
  readonly attempt: number;
}

/** A ring: beyond this the oldest lines are left out, and the count says how many. */
export const KEPT = 20_000;

export interface Output {
  readonly lines: readonly ShownLine[];
  readonly total: number;
}

export const NONE: Output = { lines: [], total: 0 };

export function appended(output: Output, added: readonly OutputLine[]): Output {
  const fresh = added.map((line, index) => ({
    number: output.total + index + 1,
    text: outputText(line.text),
    isError: line.stream === "stderr",
    attempt: line.attempt,
  }));
  const all = output.lines.concat(fresh);
  return { lines: all.length > KEPT ? all.slice(all.length - KEPT) : all, total: output.total + added.length };
}
