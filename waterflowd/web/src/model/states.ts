// The nine states that a person tells apart, each with its glyph, shape, word and colour. The server says what a state is; this
// only joins its status and conclusion to one word.

import type { Attempt, AttentionItem, Conclusion, Status } from "./shapes";

export type State =
  | "success" | "failure" | "timed-out" | "lost" | "running" | "waiting" | "cancelled" | "queued" | "skipped";

export const STATES: readonly State[] = [
  "failure", "timed-out", "lost", "running", "waiting", "queued", "cancelled", "skipped", "success",
];

const CONCLUSIONS: readonly Conclusion[] = ["success", "failure", "cancelled", "timed-out", "skipped", "lost"];

/** The state of anything with a status and a conclusion. */
export function stateOf(part: { readonly status: Status; readonly conclusion: Conclusion | null }): State {
  if (part.conclusion !== null) return part.conclusion;
  return part.status === "completed" ? "success" : part.status;
}

/** The state of an attempt: its outcome once it is finished. */
export function stateOfAttempt(attempt: Attempt): State {
  if (attempt.outcome !== null) return isState(attempt.outcome) ? attempt.outcome : "failure";
  return attempt.status === "started" ? "running" : "queued";
}

/** Whether a code of a change is the end of a part. */
export function isConclusion(code: string): code is Conclusion & State {
  return (CONCLUSIONS as readonly string[]).includes(code);
}

export function isState(word: string): word is State {
  return (STATES as readonly string[]).includes(word);
}

/** Whether somebody should look at it. */
export function isBad(state: State): boolean {
  return state === "failure" || state === "timed-out" || state === "lost";
}

/** Whether it may still change. */
export function isActive(state: State): boolean {
  return state === "running" || state === "waiting" || state === "queued";
}

/** How early a part is shown: what failed, then what is at work, then the rest. */
export function rank(state: State): number {
  if (isBad(state)) return 0;
  if (state === "running" || state === "waiting") return 1;
  return state === "cancelled" ? 2 : 3;
}

/** The sign of something that needs a person. */
export function stateOfAttention(item: AttentionItem): State {
  if (item.kind === "approval" || item.kind === "key") return "waiting";
  if (item.kind === "failed" && item.run !== null) return stateOf(item.run);
  return item.kind === "repository" || item.kind === "file" || item.kind === "disk" ? "failure" : "lost";
}
