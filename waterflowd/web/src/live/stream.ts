// The one stream of a tab: what has changed in everything that it shows (`GET /v1/live`).
//
// Whoever shows something names its topics here. When these change, the stream opens again and continues where it was, so nothing
// is missed. Who reads a list only when the stream is open (`ready`) misses nothing of it either. A hidden tab closes its stream
// after 30 s and comes back with its position. A daemon without a common feed is asked every few seconds instead.

import { signal } from "@preact/signals";
import { EventReader, Lines } from "../model/lines";
import type { OutlineAnswer } from "../model/outline";
import { ApiError, send, session } from "./api";

export type Connection = { readonly state: "live" | "connecting" } | { readonly state: "lost"; readonly since: number };
export const connection = signal<Connection>({ state: "connecting" });

export type Change =
  | { readonly kind: "row"; readonly list: "runs" | "agents" | "repositories"; readonly key: string; readonly row: unknown }
  | { readonly kind: "run"; readonly run: string; readonly after: number; readonly outline: OutlineAnswer }
  | { readonly kind: "overview"; readonly open: Readonly<Record<string, number>> }
  /** Something may have changed that nothing has told. */
  | { readonly kind: "stale" };

export interface Follower {
  /** `overview`, `runs`, `agents`, `repositories`, or `run:ID@SEQ` with the event up to which the run is known. */
  readonly topics: () => readonly string[];
  readonly change: (change: Change) => void;
}

interface Followed extends Follower {
  isReady: boolean;
  readonly settle: () => void;
}

/** Without a page that follows anything: it says when the connection or the session is lost. */
const QUIET = "overview";
const HIDDEN_MS = 30_000;
const POLL_MS = 3_000;
const RETRY_MS = [500, 1_000, 2_000, 5_000];
/** Without even a heartbeat, which comes every 15 s, the connection is dead. */
const SILENT_MS = 40_000;
/** How long topics are kept that nothing shows: a page that closes is mostly followed by another one. */
const KEPT_MS = 1_000;

const followers = new Set<Followed>();
let isOn = false;
let isPolling = false;
let opened = new Set<string>();
let position: string | null = null;
let closing: AbortController | null = null;
let tries = 0;
let again: ReturnType<typeof setTimeout> | undefined;
let hiding: ReturnType<typeof setTimeout> | undefined;
let arranging: ReturnType<typeof setTimeout> | undefined;

/** Follows topics until `end`. What is read after `ready` has no gap to the first change. */
export function follow(follower: Follower): { readonly ready: Promise<void>; readonly end: () => void } {
  let settle = (): void => undefined;
  const ready = new Promise<void>((resolve) => (settle = resolve));
  const followed: Followed = {
    ...follower, isReady: false,
    settle: () => {
      followed.isReady = true;
      settle();
    },
  };
  followers.add(followed);
  if (closing === null || isPolling) followed.settle();
  arrange(0);
  return {
    ready,
    end: () => {
      followers.delete(followed);
      arrange(KEPT_MS);
    },
  };
}

/** Begins, or does so again with another session. */
export function start(): void {
  isOn = true;
  open();
}

export function stop(): void {
  isOn = false;
  close();
}

function topics(): readonly string[] {
  const found = new Map<string, string>();
  for (const follower of followers) for (const topic of follower.topics()) found.set(nameOf(topic), topic);
  return found.size === 0 ? [QUIET] : [...found.values()].sort();
}

const nameOf = (topic: string): string => topic.split("@")[0] ?? topic;

/** Opens the stream again when its topics are no longer the right ones. */
function arrange(inMs: number): void {
  clearTimeout(arranging);
  arranging = setTimeout(() => {
    const wanted = new Set(topics().map(nameOf));
    if (wanted.size === opened.size && [...wanted].every((name) => opened.has(name))) for (const follower of followers) follower.settle();
    else if (closing !== null && !isPolling) open();
  }, inMs);
}

function close(): void {
  closing?.abort();
  closing = null;
  clearTimeout(again);
}

function open(): void {
  close();
  if (!isOn || session.peek() === null || session.peek() === "none") return;
  const controller = (closing = new AbortController());
  isPolling = false;
  read(controller).then(
    () => lost(controller),
    (error: unknown) => {
      if (error instanceof ApiError && error.problem.status === 404) poll(controller);
      else lost(controller);
    },
  );
}

async function read(controller: AbortController): Promise<void> {
  const asked = topics();
  opened = new Set(asked.map(nameOf));
  const included = new Set(followers);
  const query = new URLSearchParams({ topics: asked.join(",") });
  const isFirst = position === null;
  if (position !== null) query.set("after", position);
  const answer = await send("GET", `/v1/live?${query.toString()}`, { signal: controller.signal, headers: { Accept: "text/event-stream" } });
  connection.value = { state: "live" };
  tries = 0;
  const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
  if (!reader) return;
  const lines = new Lines();
  const events = new EventReader();
  for (;;) {
    const silence = setTimeout(() => controller.abort(), SILENT_MS);
    const { done, value } = await reader.read().finally(() => clearTimeout(silence));
    if (done || controller.signal.aborted) return;
    for (const line of lines.push(value)) {
      const found = events.push(line);
      if (found) tell(found.event, JSON.parse(found.data) as unknown);
      if (line !== "" || events.id === "") continue;
      // An id ends each piece. The first one says where the stream begins.
      position = events.id;
      for (const follower of included) {
        if (isFirst && follower.isReady) follower.change({ kind: "stale" });
        follower.settle();
      }
      included.clear();
    }
  }
}

function tell(event: string, content: unknown): void {
  if (event === "lag") {
    const { topic } = content as { readonly topic: string };
    // Who is not ready yet will read everything anyway.
    for (const follower of followers) if (follower.isReady && follower.topics().some((other) => nameOf(other) === topic)) follower.change({ kind: "stale" });
  } else if (event === "row" || event === "run" || event === "overview") {
    const change = { kind: event, ...(content as object) } as Change;
    for (const follower of followers) follower.change(change);
  }
}

function tellAll(): void {
  for (const follower of followers) {
    if (follower.isReady) follower.change({ kind: "stale" });
    follower.settle();
  }
}

function poll(controller: AbortController): void {
  if (controller.signal.aborted) return;
  isPolling = true;
  connection.value = { state: "live" };
  tellAll();
  again = setTimeout(() => poll(controller), POLL_MS);
}

function lost(controller: AbortController): void {
  // Aborted by whoever opens another one, or by its silence.
  if (closing !== controller) return;
  if (connection.peek().state !== "lost") connection.value = { state: "lost", since: Date.now() };
  for (const follower of followers) follower.settle();
  again = setTimeout(open, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
}

/** Closes the stream of a hidden tab, and opens it again. */
export function watchTab(): void {
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) hiding = setTimeout(close, HIDDEN_MS);
    else if (closing === null) open();
  });
  addEventListener("online", open);
}
