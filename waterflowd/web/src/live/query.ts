// An answer of the API that stays current: read at first, and again after changes that concern it.

import { signal, type Signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import type { Problem } from "../model/shapes";
import { ApiError, get } from "./api";
import { connection, follow, type Change } from "./stream";

export interface Query<T> {
  readonly value: Signal<T | null>;
  readonly problem: Signal<Problem | null>;
  readonly isLoading: Signal<boolean>;
  readonly again: () => void;
}

/** Not more often than this, however many changes there are; the first one is followed at once. */
const EVERY_MS = 400;

const always = (): boolean => true;

/** Reads something often enough, and never twice at a time. */
export class Refresher {
  private timer: ReturnType<typeof setTimeout> | undefined;
  private isReading = false;
  private isStale = false;
  private hasEnded = false;

  constructor(private readonly read: () => Promise<void>) {}

  refresh(): void {
    this.isStale = true;
    if (!this.isReading && this.timer === undefined && !this.hasEnded) void this.go();
  }

  end(): void {
    this.hasEnded = true;
    clearTimeout(this.timer);
  }

  private async go(): Promise<void> {
    this.isReading = true;
    this.isStale = false;
    try {
      await this.read();
    } finally {
      this.isReading = false;
    }
    if (this.hasEnded) return;
    this.timer = setTimeout(() => {
      this.timer = undefined;
      if (this.isStale) this.refresh();
    }, EVERY_MS);
  }
}

/** Follows `path` as long as the component is shown; the old answer stays until the new one is there. */
export function useQuery<T>(path: string | null, topics: readonly string[] = [], concerns: (change: Change) => boolean = always): Query<T> {
  const query = useMemo(() => ({ value: signal<T | null>(null), problem: signal<Problem | null>(null), isLoading: signal(false), again: signal(0) }), []);
  useEffect(() => {
    if (path === null) return undefined;
    const controller = new AbortController();
    const read = async (): Promise<void> => {
      query.isLoading.value = true;
      try {
        query.value.value = await get<T>(path, controller.signal);
        query.problem.value = null;
      } catch (error) {
        if (controller.signal.aborted) return;
        // A lost connection is said once, by its own sign.
        const isOld = query.value.peek() !== null && connection.peek().state === "lost";
        if (error instanceof ApiError && !isOld) query.problem.value = error.problem;
      } finally {
        query.isLoading.value = false;
      }
    };
    const refresher = new Refresher(read);
    const followed = topics.length === 0 ? null : follow({
      topics: () => topics,
      change: (change) => {
        if (change.kind === "stale" || concerns(change)) refresher.refresh();
      },
    });
    void (followed?.ready ?? Promise.resolve()).then(() => refresher.refresh());
    const unsubscribe = query.again.subscribe((count) => {
      if (count > 0) refresher.refresh();
    });
    return () => {
      followed?.end();
      unsubscribe();
      refresher.end();
      controller.abort();
    };
  }, [path]);
  return { ...query, again: () => (query.again.value += 1) };
}
