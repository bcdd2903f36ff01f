// The one stream of a tab: what has changed in everything that it shows (`GET /v1/live`).
//
// Each part that shows something names its topics here. When these change, the stream opens again and continues where it was, so nothing
// is missed. Who reads a list only when the stream is open (`ready`) misses nothing of it either. A hidden tab closes its stream
// after 30 s, or once other tabs have been looked at, and comes back with its position: a browser has six connections to one host,
// and who opens many tabs must not wait for them. A daemon without a common feed is asked every few seconds instead.

import { signal } from "@preact/signals";
import { EventReader, Lines } from "../model/lines";
import type { OutlineAnswer } from "../model/outline";
import type { OutputBlock } from "../model/shapes";
import { ApiError, send, session } from "./api";

export type Connection = { readonly state: "live" | "connecting" } | { readonly state: "lost"; readonly since: number };
export const connection = signal<Connection>({ state: "connecting" });

export type Change =
  | { readonly kind: "row"; readonly list: "runs" | "agents" | "repositories"; readonly key: string; readonly row: unknown }
  | { readonly kind: "run"; readonly run: string; readonly after: number; readonly outline: OutlineAnswer }
  | { readonly kind: "block"; readonly topic: string; readonly blocks: readonly OutputBlock[]; readonly is_complete: boolean }
  | { readonly kind: "overview"; readonly open: Readonly<Record<string, number>> }
  /** Something may have changed that nothing has told. */
  | { readonly kind: "stale" };

export interface Subscriber {
  /**
   * `overview`, `runs`, `agents`, `repositories`, `run:ID@SEQ` with the event up to which the run is known, or
   * `output:ID/JOB/STEP/N@LINE` with the first line of the output that is not known.
   */
  readonly topics: () => readonly string[];
  readonly change: (change: Change) => void;
}

interface Subscription extends Subscriber {
  isReady: boolean;
  readonly settle: () => void;
}

/** Without a page that follows anything: it says when the connection or the session is lost. */
const QUIET = "overview";
const HIDDEN_MS = 30_000;
/** A hidden tab keeps its stream while no more than so many others are looked at. */
const OTHERS_MAX = 2;
const POLL_MS = 3_000;
const RETRY_MS = [500, 1_000, 2_000, 5_000];
/** Without even a heartbeat, which comes every 15 s, the connection is dead. */
const SILENT_MS = 40_000;
/** How long topics are kept that nothing shows: a page that closes is mostly followed by another one. */
const KEPT_MS = 1_000;

const subscribers = new Set<Subscription>();
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
export function follow(subscriber: Subscriber): { readonly ready: Promise<void>; readonly end: () => void } {
  let settle = (): void => undefined;
  const ready = new Promise<void>((resolve) => (settle = resolve));
  const followed: Subscription = {
    ...subscriber, isReady: false,
    settle: () => {
      followed.isReady = true;
      settle();
    },
  };
  subscribers.add(followed);
  if (closing === null || isPolling) followed.settle();
  arrange(0);
  return {
    ready,
    end: () => {
      subscribers.delete(followed);
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
  for (const subscriber of subscribers) for (const topic of subscriber.topics()) found.set(nameOf(topic), topic);
  return found.size === 0 ? [QUIET] : [...found.values()].sort();
}

const nameOf = (topic: string): string => topic.split("@")[0] ?? topic;

/** Opens the stream again when its topics are no longer the right ones. */
function arrange(inMs: number): void {
  clearTimeout(arranging);
  arranging = setTimeout(() => {
    const wanted = new Set(topics().map(nameOf));
    if (wanted.size === opened.size && [...wanted].every((name) => opened.has(name))) for (const subscriber of subscribers) subscriber.settle();
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
  // A tab that was opened in the background reads once, and follows when somebody looks at it.
  if (document.hidden) {
    for (const subscriber of subscribers) subscriber.settle();
    return;
  }
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
  const included = new Set(subscribers);
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
      for (const subscriber of included) {
        if (isFirst && subscriber.isReady) subscriber.change({ kind: "stale" });
        subscriber.settle();
      }
      included.clear();
    }
  }
}

function tell(event: string, content: unknown): void {
  if (event === "lag") {
    const { topic } = content as { readonly topic: string };
    // Who is not ready yet will read everything anyway.
    for (const subscriber of subscribers) if (subscriber.isReady && subscriber.topics().some((other) => nameOf(other) === topic)) subscriber.change({ kind: "stale" });
  } else if (event === "row" || event === "run" || event === "overview" || event === "block") {
    const change = { kind: event, ...(content as object) } as Change;
    for (const subscriber of subscribers) subscriber.change(change);
  }
}

function tellAll(): void {
  for (const subscriber of subscribers) {
    if (subscriber.isReady) subscriber.change({ kind: "stale" });
    subscriber.settle();
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
  // Aborted because another one opens, or by its silence.
  if (closing !== controller) return;
  if (connection.peek().state !== "lost") connection.value = { state: "lost", since: Date.now() };
  for (const subscriber of subscribers) subscriber.settle();
  again = setTimeout(open, RETRY_MS[Math.min(tries++, RETRY_MS.length - 1)]);
}

/** Closes the stream of a hidden tab, and opens it again. */
export function watchTab(): void {
  const tabs = new BroadcastChannel("waterflow-tabs");
  let others = 0;
  const show = (): void => tabs.postMessage("shown");
  tabs.addEventListener("message", () => {
    others += 1;
    if (document.hidden && others > OTHERS_MAX) close();
  });
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiding);
    if (document.hidden) {
      others = 0;
      hiding = setTimeout(close, HIDDEN_MS);
      return;
    }
    show();
    if (closing === null) open();
  });
  addEventListener("online", open);
  if (!document.hidden) show();
}
