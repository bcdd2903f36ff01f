// The one stream of a tab: all events of the system. Every page hears from here that something has changed.
//
// A hidden tab closes its stream after 30 s and comes back with its position, so nothing is missed. A daemon without a common
// feed is asked every few seconds instead.

import { signal } from "@preact/signals";
import { EventReader, Lines } from "../model/lines";
import type { RunEvent } from "../model/shapes";
import { ApiError, send, session } from "./api";

export type Connection = { readonly state: "live" | "connecting" } | { readonly state: "lost"; readonly since: number };
export const connection = signal<Connection>({ state: "connecting" });

/** Called with each event; null when something may have changed that no event has told. */
export type Listener = (event: RunEvent | null) => void;

const HIDDEN_MS = 30_000;
const POLL_MS = 3_000;
const RETRY_MS = [500, 1_000, 2_000, 5_000];
/** Without even a heartbeat, which comes every 15 s, the connection is dead. */
const SILENT_MS = 40_000;

const listeners = new Set<Listener>();
let position: string | null = null;
let closing: AbortController | null = null;
let tries = 0;
let again: ReturnType<typeof setTimeout> | undefined;
let hiding: ReturnType<typeof setTimeout> | undefined;

export function listen(listener: Listener): () => void {
  listeners.add(listener);
  return () => void listeners.delete(listener);
}

/** Begins to follow, or does so again with another session. */
export function follow(): void {
  stop();
  if (session.peek() === null || session.peek() === "none") return;
  const controller = (closing = new AbortController());
  void read(controller).catch((error: unknown) => {
    if (controller.signal.aborted) return;
    if (error instanceof ApiError && error.problem.status === 404) poll(controller);
    else lost();
  });
}

export function stop(): void {
  closing?.abort();
  closing = null;
  clearTimeout(again);
}

async function read(controller: AbortController): Promise<void> {
  const path = position === null ? "/v1/events" : `/v1/events?cursor=${position}`;
  const answer = await send("GET", path, { signal: controller.signal, headers: { Accept: "text/event-stream" } });
  const wasLost = connection.peek().state === "lost";
  connection.value = { state: "live" };
  tries = 0;
  // Without a position there may be a gap between what a page has read and the first event.
  if (wasLost || position === null) tell(null);
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  const lines = new Lines();
  const events = new EventReader();
  for (;;) {
    const silence = setTimeout(() => controller.abort(), SILENT_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done) return lost();
    for (const line of lines.push(value)) {
      const found = events.push(line);
      if (!found) continue;
      position = found.id;
      tell(JSON.parse(found.data) as RunEvent);
    }
  }
}

function poll(controller: AbortController): void {
  connection.value = { state: "live" };
  again = setTimeout(() => {
    if (controller.signal.aborted) return;
    tell(null);
    poll(controller);
  }, POLL_MS);
}

function lost(): void {
  if (connection.peek().state !== "lost") connection.value = { state: "lost", since: Date.now() };
  again = setTimeout(follow, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
}

function tell(event: RunEvent | null): void {
  for (const listener of listeners) listener(event);
}

export function start(): void {
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(stop, HIDDEN_MS);
    else if (closing === null) follow();
  });
  addEventListener("online", follow);
}
