// What a search has found: which lines, which one is next, and the view that shows only them.

import { plainText } from "./ansi";
import type { Line } from "./store";

export interface SearchTerms {
  readonly text: string;
  readonly hasCase: boolean;
  readonly isWord: boolean;
  /** A regular expression, which is only searched for in what is loaded. */
  readonly isExpression: boolean;
}

export const NO_TERMS: SearchTerms = { text: "", hasCase: false, isWord: false, isExpression: false };
/** The server stops after so many, and so do we. */
export const HITS_MAX = 10_000;
/** Words of lines that somebody looks for first. */
export const ERROR_WORDS = ["error", "fatal", "traceback", "panic"] as const;
const ERRORS = new RegExp(`\\b(?:${ERROR_WORDS.join("|")})\\b`, "iu");

/** Finds what is searched for in a text; null when there is nothing to look for, or the expression is not valid. */
export function expressionOf(terms: SearchTerms): RegExp | null {
  if (terms.text === "") return null;
  const source = terms.isExpression ? terms.text : terms.text.replace(/[\\^$.*+?()[\]{}|/-]/gu, "\\$&");
  try {
    return new RegExp(terms.isWord ? `(?<![\\p{L}\\p{N}_])(?:${source})(?![\\p{L}\\p{N}_])` : source, terms.hasCase ? "gu" : "giu");
  } catch {
    return null;
  }
}

/** The lines that match, of those that are loaded. */
export function searched(lines: Iterable<Line>, terms: SearchTerms): readonly number[] {
  const expression = expressionOf(terms);
  const found: number[] = [];
  if (expression === null) return found;
  for (const line of lines) {
    expression.lastIndex = 0;
    if (expression.test(plainText(line.text))) found.push(line.number);
    if (found.length >= HITS_MAX) break;
  }
  return found;
}

export const looksLikeError = (text: string): boolean => ERRORS.test(plainText(text));

/** Index of the first hit at or after a line; of the first one when there is none. */
export function hitFrom(hits: readonly number[], line: number): number {
  const found = firstAtLeast(hits, line);
  return found < hits.length ? found : 0;
}

export interface Folded {
  /** How many rows the view has. */
  readonly rows: number;
  /** The line of a row; for a gap, minus the number of lines that it stands for. */
  readonly at: (row: number) => number;
  /** The row of a line, or the gap that it is in. */
  readonly rowOf: (line: number) => number;
}

/** All lines, each a row. */
export function unfolded(total: number): Folded {
  return { rows: total, at: (row) => row + 1, rowOf: (line) => Math.max(0, Math.min(total, line) - 1) };
}

/** Only the hits with `around` lines before and after each; a row says how many lines are left out in between. */
export function folded(hits: readonly number[], total: number, around: number): Folded {
  const stretches: { first: number; last: number; row: number }[] = [];
  let rows = 0;
  let end = 0;
  for (const hit of hits) {
    const first = Math.max(1, hit - around);
    const last = Math.min(total, hit + around);
    const previous = stretches.at(-1);
    // A gap of one line would be as long as the line.
    if (previous && first <= previous.last + 2) {
      rows += Math.max(0, last - previous.last);
      previous.last = Math.max(previous.last, last);
    } else {
      if (first > end + 1) rows += 1;
      stretches.push({ first, last, row: rows });
      rows += last - first + 1;
    }
    end = stretches.at(-1)?.last ?? 0;
  }
  if (end < total && total > 0) rows += 1;
  const starts = stretches.map((stretch) => stretch.row);
  const firsts = stretches.map((stretch) => stretch.first);
  return {
    rows,
    at: (row) => {
      const index = firstAtLeast(starts, row + 1) - 1;
      const stretch = stretches[index];
      if (stretch && row <= stretch.row + stretch.last - stretch.first) return stretch.first + row - stretch.row;
      const next = stretches[index + 1]?.first ?? total + 1;
      return -(next - (stretch?.last ?? 0) - 1);
    },
    rowOf: (line) => {
      const stretch = stretches[firstAtLeast(firsts, line + 1) - 1];
      if (!stretch) return 0;
      return line <= stretch.last ? stretch.row + line - stretch.first : Math.min(rows - 1, stretch.row + stretch.last - stretch.first + 1);
    },
  };
}

/** Index of the first number that is at least `value`, in ascending numbers. */
function firstAtLeast(numbers: readonly number[], value: number): number {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((numbers[middle] ?? 0) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
