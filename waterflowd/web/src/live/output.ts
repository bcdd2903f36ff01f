// The output of one attempt, as the API gives it: pages of lines, and searches.

import { Lines } from "../model/lines";
import { HITS_MAX, type SearchTerms } from "../model/log/hits";
import type { OutputAddress } from "../model/log/ranges";
import type { OutputHit, OutputPage } from "../model/shapes";
import { get, send } from "./api";

const query = ({ job, step, attempt }: OutputAddress, more: Readonly<Record<string, string>>): string =>
  new URLSearchParams({ job, step, attempt: String(attempt), ...more }).toString();
const path = (address: OutputAddress): string => `/v1/runs/${encodeURIComponent(address.run)}/output`;

/** Where the whole output can be downloaded. */
export const rawPath = (address: OutputAddress): string => `${path(address)}/raw?${query(address, {})}`;

/** The topic of `/v1/live` for what is added from a line on. */
export function topicOf({ run, job, step, attempt }: OutputAddress, line: number): string {
  return `output:${[run, job, step, String(attempt)].map(encodeURIComponent).join("/")}@${line}`;
}

export function readLines(address: OutputAddress, first: number, count: number, signal: AbortSignal): Promise<OutputPage> {
  return get<OutputPage>(`${path(address)}?${query(address, { line: String(first), lines: String(count) })}`, signal);
}

export function readTail(address: OutputAddress, count: number, signal: AbortSignal): Promise<OutputPage> {
  return get<OutputPage>(`${path(address)}?${query(address, { tail: String(count) })}`, signal);
}

/** Calls `found` with hits as they come, from `line` on; resolves when all of the output has been searched. */
export async function search(address: OutputAddress, terms: SearchTerms, line: number, limit: number, signal: AbortSignal, found: (hits: readonly OutputHit[]) => void): Promise<void> {
  const more = { q: terms.text, line: String(line), case: String(terms.hasCase), word: String(terms.isWord), limit: String(Math.min(limit, HITS_MAX)) };
  const answer = await send("GET", `${path(address)}/search?${query(address, more)}`, { signal, headers: { Accept: "application/x-ndjson" } });
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  const lines = new Lines();
  for (;;) {
    const { done, value } = (await reader?.read()) ?? { done: true, value: undefined };
    if (done || value === undefined) return;
    const objects = lines.push(value).filter((text) => text !== "").map((text) => JSON.parse(text) as Partial<OutputHit>);
    const hits = objects.filter((object): object is OutputHit => object.line !== undefined);
    if (hits.length > 0) found(hits);
  }
}
