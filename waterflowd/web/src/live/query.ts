// An answer of the API that stays current: read at first, and again after events that concern it.

import { signal, type Signal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import type { Problem, RunEvent } from "../model/shapes";
import { ApiError, get } from "./api";
import { connection, listen } from "./stream";

export interface Query<T> {
  readonly value: Signal<T | null>;
  readonly problem: Signal<Problem | null>;
  readonly isLoading: Signal<boolean>;
  readonly again: () => void;
}

/** Not more often than this, however many events there are; the first one is followed at once. */
const EVERY_MS = 400;

/** Follows `path` as long as the component is shown; the old answer stays until the new one is there. */
export function useQuery<T>(path: string | null, concerns: (event: RunEvent) => boolean): Query<T> {
  const query = useMemo(() => ({ value: signal<T | null>(null), problem: signal<Problem | null>(null), isLoading: signal(false), again: signal(0) }), []);
  useEffect(() => {
    if (path === null) return undefined;
    const controller = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let isReading = false;
    let isStale = false;
    const read = async (): Promise<void> => {
      isReading = true;
      isStale = false;
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
        isReading = false;
        query.isLoading.value = false;
      }
      timer = setTimeout(() => {
        timer = undefined;
        if (isStale) void read();
      }, EVERY_MS);
    };
    const refresh = (): void => {
      isStale = true;
      if (!isReading && timer === undefined) void read();
    };
    void read();
    const unlisten = listen((event) => {
      if (event === null || concerns(event)) refresh();
    });
    const unsubscribe = query.again.subscribe((count) => {
      if (count > 0) refresh();
    });
    return () => {
      unlisten();
      unsubscribe();
      clearTimeout(timer);
      controller.abort();
    };
  }, [path]);
  return { ...query, again: () => (query.again.value += 1) };
}
