// What a view of one output has: its lines, the search in them, and whether more are coming. Views read the signals; all requests
// of a log begin here.

import { computed, signal } from "@preact/signals";
import { ERROR_WORDS, HITS_MAX, looksLikeError, NO_TERMS, searched, type SearchTerms } from "../model/log/hits";
import type { OutputAddress } from "../model/log/ranges";
import { LogLines, type Span } from "../model/log/store";
import type { OutputPage, Problem } from "../model/shapes";
import { ApiError } from "./api";
import { readLines, readTail, search, topicOf } from "./output";
import { connection, follow } from "./stream";

/** How many lines are read at first, and around what is shown. */
export const FIRST_LINES = 200;
const AROUND = 150;
const REQUEST_LINES = 1_000;
/** More lines than this are not put on the clipboard. */
export const COPIED_MAX = 20_000;

export interface Found {
  readonly terms: SearchTerms;
  readonly hits: readonly number[];
  readonly isSearching: boolean;
  /** Whether only what is loaded was searched. */
  readonly isPartial: boolean;
}

export const NOTHING: Found = { terms: NO_TERMS, hits: [], isSearching: false, isPartial: false };

export class LogSource {
  readonly lines = new LogLines();
  /** Grows with every change of `lines`, at most once a frame. */
  readonly version = signal(0);
  readonly problem = signal<Problem | null>(null);
  readonly isOpen = signal(false);
  /** Whether new lines can come; null where none are expected. */
  readonly isLive = computed(() => {
    void this.version.value;
    return this.lines.isComplete ? null : connection.value.state !== "lost";
  });
  readonly found = signal<Found>(NOTHING);

  private readonly closing = new AbortController();
  private searching = new AbortController();
  private unfollow: (() => void) | null = null;
  private reading = false;
  private readingOn = false;
  private wanted: readonly Span[] = [];
  private frame = 0;
  private shown = 1;
  private searchedTo = 0;

  constructor(readonly address: OutputAddress) {}

  /** Reads around a line, or the end without one; then follows if there is more to come. */
  async open(line: number | null): Promise<void> {
    this.problem.value = null;
    try {
      const first = line === null ? null : Math.max(1, line - FIRST_LINES / 2);
      const { signal: closed } = this.closing;
      let page = first === null ? await readTail(this.address, FIRST_LINES, closed) : await readLines(this.address, first, FIRST_LINES, closed);
      // A link to a line that does not exist shows the end.
      if (first !== null && first > page.lines) page = await readTail(this.address, FIRST_LINES, closed);
      this.lines.add(page);
      this.changed();
      this.isOpen.value = true;
      if (!this.lines.isComplete) this.follow();
    } catch (error) {
      this.failed(error);
    }
  }

  close(): void {
    this.closing.abort();
    this.searching.abort();
    this.unfollow?.();
    cancelAnimationFrame(this.frame);
  }

  /** Adds what the stream brings, until the output is complete. */
  private follow(): void {
    const name = topicOf(this.address, 1).split("@")[0];
    const { end } = follow({
      topics: () => (this.lines.isComplete ? [] : [topicOf(this.address, this.lines.next)]),
      change: (change) => {
        if (change.kind === "stale") void this.readOn();
        else if (change.kind === "block" && change.topic === name) {
          this.add({ lines: 0, bytes: 0, left_out: [], blocks: change.blocks, is_complete: change.is_complete });
          // Only a page says where output was left out.
          if (change.is_complete) void readTail(this.address, 1, this.closing.signal).then((page) => this.add(page), () => undefined);
        }
      },
    });
    this.unfollow = end;
  }

  /** Without a stream: reads what was added since. */
  private async readOn(): Promise<void> {
    if (this.readingOn || this.lines.isComplete) return;
    this.readingOn = true;
    try {
      for (let before = -1; before < this.lines.total && !this.closing.signal.aborted; ) {
        before = this.lines.total;
        this.add(await readLines(this.address, this.lines.next, REQUEST_LINES, this.closing.signal));
      }
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
    } finally {
      this.readingOn = false;
    }
  }

  private add(page: OutputPage): void {
    this.lines.add(page);
    this.lines.trim(this.shown);
    const { terms, hits, isSearching } = this.found.peek();
    if (terms.text !== "" && !isSearching && hits.length < HITS_MAX && this.lines.total > this.searchedTo) {
      const more = searched(this.lines.loaded(this.searchedTo + 1), terms);
      this.searchedTo = this.lines.total;
      if (more.length > 0) this.found.value = { ...this.found.peek(), hits: [...hits, ...more] };
    }
    this.changed();
  }

  private changed(): void {
    if (this.frame !== 0) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.version.value += 1;
    });
  }

  /** Says which lines are shown, so that they and those around them are read; one request at a time, for the newest view. */
  need(spans: readonly Span[]): void {
    this.wanted = spans;
    this.shown = spans[0]?.first ?? 1;
    if (!this.reading) void this.readWanted();
  }

  private async readWanted(): Promise<void> {
    this.reading = true;
    try {
      for (let span = this.nextMissing(); span !== null && !this.closing.signal.aborted; span = this.nextMissing()) {
        const before = this.lines.kept;
        this.lines.add(await readLines(this.address, span.first, span.count, this.closing.signal));
        this.lines.trim(this.shown);
        this.changed();
        // An answer that brings nothing would be asked for again forever.
        if (this.lines.kept === before) break;
      }
      if (!this.closing.signal.aborted) this.problem.value = null;
    } catch (error) {
      this.failed(error);
    } finally {
      this.reading = false;
    }
  }

  private nextMissing(): Span | null {
    for (const { first, count } of this.wanted) {
      // What is in view comes first; then what is around it, in the same request.
      if (this.lines.missing(first, count, REQUEST_LINES) === null) continue;
      return this.lines.missing(first - AROUND, count + 2 * AROUND, REQUEST_LINES);
    }
    return null;
  }

  /** Searches the loaded lines at once, and then the whole output on the server. */
  search(terms: SearchTerms): void {
    this.searching.abort();
    this.searching = new AbortController();
    const { signal: stopped } = this.searching;
    if (terms.text === "") {
      this.found.value = NOTHING;
      return;
    }
    const loaded = searched(this.lines.loaded(), terms);
    const isWhole = this.lines.kept >= this.lines.total;
    this.searchedTo = this.lines.total;
    this.found.value = { terms, hits: loaded, isSearching: !isWhole && !terms.isExpression, isPartial: terms.isExpression && !isWhole };
    if (isWhole || terms.isExpression) return;
    let hits: number[] = [];
    search(this.address, terms, 1, HITS_MAX, stopped, (more) => {
      for (const { line } of more) if (line !== hits.at(-1)) hits.push(line);
      // As soon as there are more than were loaded; until then the loaded ones stay, so that the count never shrinks.
      if (hits.length >= this.found.peek().hits.length) this.found.value = { ...this.found.peek(), hits: (hits = [...hits]) };
    })
      .then(() => (this.found.value = { ...this.found.peek(), hits, isSearching: false }))
      .catch((error: unknown) => {
        if (stopped.aborted) return;
        // What is loaded has been searched; the count says so.
        this.found.value = { ...this.found.peek(), isSearching: false, isPartial: true };
        this.failed(error);
      });
  }

  /** The next line after `line` that looks like an error; null when there is none. */
  async nextError(line: number): Promise<number | null> {
    let expected = line + 1;
    for (const loaded of this.lines.loaded(line + 1)) {
      if (loaded.number !== expected) break;
      if (looksLikeError(loaded.text)) return loaded.number;
      expected += 1;
    }
    if (expected > this.lines.total) return null;
    // One after the other: a person may have only a few searches at a time.
    const firsts: number[] = [];
    for (const text of ERROR_WORDS) {
      const terms: SearchTerms = { text, hasCase: false, isWord: true, isExpression: false };
      await search(this.address, terms, expected, 1, this.closing.signal, ([hit]) => firsts.push(hit?.line ?? Infinity)).catch((error: unknown) => this.failed(error));
    }
    const nearest = Math.min(...firsts);
    return Number.isFinite(nearest) ? nearest : null;
  }

  /** The lines as they were printed. */
  async text(first: number, last: number): Promise<string> {
    const copy = new LogLines();
    const end = Math.min(last, this.lines.total, first + COPIED_MAX - 1);
    copy.add({ lines: end, bytes: 0, is_complete: false, left_out: [], blocks: [] });
    for (const line of this.lines.loaded(first, end)) copy.put({ line: line.number, offset: 0, bytes: 0, text: `${line.text}\n`, at: [], stderr: [] });
    for (let span = copy.missing(first, end - first + 1, REQUEST_LINES); span !== null; span = copy.missing(first, end - first + 1, REQUEST_LINES)) {
      const before = copy.kept;
      copy.add(await readLines(this.address, span.first, span.count, this.closing.signal));
      if (copy.kept === before) break;
    }
    return [...copy.loaded(first, end)].map((line) => line.text).join("\n");
  }

  private failed(error: unknown): void {
    if (this.closing.signal.aborted) return;
    this.problem.value = error instanceof ApiError ? error.problem : { status: 0, title: "", detail: String(error), code: "" };
  }
}
