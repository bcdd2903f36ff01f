// The outline of the run that a page shows. It is read once; then the stream brings what changes.

import { signal, type ReadonlySignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { begun, isOpened, merged, withPage, withSteps, type Outline, type OutlineAnswer } from "../model/outline";
import type { Problem } from "../model/shapes";
import { ApiError, get } from "./api";
import { Refresher } from "./query";
import { follow, type Change } from "./stream";

export interface Followed {
  readonly outline: ReadonlySignal<Outline | null>;
  readonly problem: ReadonlySignal<Problem | null>;
  readonly again: () => void;
  /** Reads the steps of a job of a large run; nothing when they are here. */
  readonly open: (job: string) => void;
}

/** A run with more parts is shown with its jobs at first: about 200 KB. */
const WHOLE = 1_000;
const PAGE = 5_000;
/** No run has more parts than its limits allow; this only ends a loop. */
const PAGES_MAX = 20;

export function useOutline(run: string): Followed {
  const source = useMemo(() => new Source(run), [run]);
  useEffect(() => source.begin(), [source]);
  return source;
}

class Source implements Followed {
  readonly outline = signal<Outline | null>(null);
  readonly problem = signal<Problem | null>(null);
  private readonly address: string;
  private readonly opening = new Set<string>();
  private controller = new AbortController();
  private readonly refresher: { current: Refresher | null } = { current: null };

  constructor(private readonly run: string) {
    this.address = `/v1/runs/${encodeURIComponent(run)}/outline`;
  }

  begin(): () => void {
    const controller = (this.controller = new AbortController());
    const refresher = (this.refresher.current = new Refresher(() => this.read()));
    let end: (() => void) | null = null;
    void this.read().then(() => {
      // With the event up to which the run is known: nothing is missed, and nothing comes twice.
      if (!controller.signal.aborted) end = follow({ topics: () => [`run:${this.run}@${this.outline.peek()?.seq ?? 0}`], change: (change) => this.change(change) }).end;
    });
    return () => {
      controller.abort();
      refresher.end();
      end?.();
    };
  }

  again = (): void => this.refresher.current?.refresh();

  open = (job: string): void => {
    const known = this.outline.peek();
    if (known === null || isOpened(known, job) || this.opening.has(job)) return;
    this.opening.add(job);
    void this.attempt(async () => {
      await this.pages({ job, limit: String(WHOLE) }, (answer) => this.set((outline) => withSteps(outline, job, answer)));
    }).finally(() => this.opening.delete(job));
  };

  private change(change: Change): void {
    const known = this.outline.peek();
    if (change.kind === "stale" || known === null) this.again();
    else if (change.kind !== "run" || change.run !== this.run) return;
    else if (change.after > known.seq) this.again();
    else this.outline.value = merged(known, change.outline);
  }

  private read(): Promise<void> {
    return this.attempt(async () => {
      const known = this.outline.peek();
      if (known !== null) {
        let seq: number | null = null;
        await this.pages({ after: String(known.seq), limit: String(PAGE) }, (answer) => {
          seq ??= answer.seq;
          this.set((outline) => withPage(outline, answer));
        });
        this.set((outline) => ({ ...outline, seq: Math.max(outline.seq, seq ?? 0) }));
        return;
      }
      const first = await this.get({ limit: String(WHOLE) });
      if (first.next === null) {
        this.outline.value = begun(first, false);
        return;
      }
      let outline: Outline | null = null;
      await this.pages({ depth: "0", limit: String(PAGE) }, (answer) => (outline = outline === null ? begun(answer, true) : withPage(outline, answer)));
      this.outline.value = outline;
    });
  }

  private set(change: (outline: Outline) => Outline): void {
    const known = this.outline.peek();
    if (known !== null) this.outline.value = change(known);
  }

  private get(query: Readonly<Record<string, string>>): Promise<OutlineAnswer> {
    return get<OutlineAnswer>(`${this.address}?${new URLSearchParams(query).toString()}`, this.controller.signal);
  }

  private async pages(query: Readonly<Record<string, string>>, take: (answer: OutlineAnswer) => void): Promise<void> {
    let cursor: string | null = null;
    for (let page = 0; page < PAGES_MAX; page++) {
      const answer: OutlineAnswer = await this.get(cursor === null ? query : { ...query, cursor });
      take(answer);
      cursor = answer.next;
      if (cursor === null) return;
    }
  }

  private async attempt(work: () => Promise<void>): Promise<void> {
    const { signal: aborted } = this.controller;
    try {
      await work();
      this.problem.value = null;
    } catch (error) {
      if (!aborted.aborted && error instanceof ApiError) this.problem.value = error.problem;
    }
  }
}
