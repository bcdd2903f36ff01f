// The lines of one output that a page has: parts of any of them, by number, and never more than `KEPT`.
//
// - The number of lines is known before the lines are, so a view has its full height from the first moment.
// - Lines are kept in chunks. When there are too many, the chunks farthest from what is shown are dropped; they are fetched again
//   when somebody scrolls there.
// - Blocks may overlap what is there already: the same lines again change nothing. A block that begins where an unfinished line
//   ended continues it; if it begins later, the bytes between are the part of a long line that the server leaves out.

import type { OutputBlock, OutputPage } from "../shapes";

export interface Line {
  readonly number: number;
  readonly text: string;
  /** Milliseconds since 1970; null when it is not known. */
  readonly at: number | null;
  readonly isError: boolean;
  /** Bytes that are missing here; the line only says so. 0 for any other line. */
  readonly leftOut: number;
  /** Bytes of a long line that the server does not send. */
  readonly cut: number;
}

export interface Span {
  readonly first: number;
  readonly count: number;
}

export const CHUNK = 500;
/** The most lines that a page keeps: minutes of a fast program, and about 40 MB. */
export const KEPT = 200_000;
const CHUNKS_MAX = KEPT / CHUNK;

interface Chunk {
  readonly texts: (string | undefined)[];
  readonly at: (number | undefined)[];
  readonly errors: Set<number>;
}

export class LogLines {
  private readonly chunks = new Map<number, Chunk>();
  private readonly missingBytes = new Map<number, number>();
  private readonly cutBytes = new Map<number, number>();
  /** Lines without a newline so far, each with the offset at which it continues. */
  private readonly unfinished = new Map<number, number>();
  private known = 0;
  /** The earliest time that is known, for times since the start. */
  startedAt: number | null = null;
  isComplete = false;
  bytes = 0;

  /** How many lines the output has so far. */
  get total(): number {
    return this.known;
  }

  add(page: OutputPage): void {
    this.known = Math.max(this.known, page.lines);
    this.bytes = Math.max(this.bytes, page.bytes);
    this.isComplete ||= page.is_complete;
    for (const { line, bytes } of page.left_out) this.missingBytes.set(line, bytes);
    for (const block of page.blocks) this.put(block);
  }

  put(block: OutputBlock): void {
    if (block.text === "") return;
    const texts = block.text.split("\n");
    const isFinished = texts.at(-1) === "";
    if (isFinished) texts.pop();
    const continuesAt = this.unfinished.get(block.line);
    if (continuesAt !== undefined && block.offset >= continuesAt) {
      texts[0] = (this.line(block.line)?.text ?? "") + (texts[0] ?? "");
      if (block.offset > continuesAt) this.cutBytes.set(block.line, block.offset - continuesAt);
    }
    const last = block.line + texts.length - 1;
    texts.forEach((text, index) => {
      this.chunk(block.line + index).texts[(block.line + index - 1) % CHUNK] = text;
    });
    for (let number = block.line; this.unfinished.size > 0 && number <= last; number++) this.unfinished.delete(number);
    if (!isFinished) this.unfinished.set(last, block.offset + block.bytes);
    this.known = Math.max(this.known, last);
    this.putTimes(block, last);
    for (const [first, count] of block.stderr) {
      for (let number = first; number < first + count; number++) this.chunk(number).errors.add(number);
    }
  }

  /** The line at which to go on reading at the end: an unfinished last line is read again. */
  get next(): number {
    return this.unfinished.has(this.known) ? this.known : this.known + 1;
  }

  private putTimes(block: OutputBlock, last: number): void {
    const changes = new Map(block.at);
    let ms = this.chunks.get(Math.floor((block.line - 2) / CHUNK))?.at[(block.line - 2) % CHUNK];
    for (let number = block.line; number <= last; number++) {
      ms = changes.get(number) ?? ms;
      if (ms === undefined) continue;
      this.chunk(number).at[(number - 1) % CHUNK] = ms;
      if (this.startedAt === null || ms < this.startedAt) this.startedAt = ms;
    }
  }

  line(number: number): Line | null {
    const chunk = this.chunks.get(Math.floor((number - 1) / CHUNK));
    const text = chunk?.texts[(number - 1) % CHUNK];
    if (chunk === undefined || text === undefined) return null;
    return { number, text, at: chunk.at[(number - 1) % CHUNK] ?? null, isError: chunk.errors.has(number), leftOut: this.missingBytes.get(number) ?? 0, cut: this.cutBytes.get(number) ?? 0 };
  }

  /** The first stretch of these lines that is not here, at most `most` lines long; null when all are. */
  missing(first: number, count: number, most: number): Span | null {
    const end = Math.min(first + count, this.known + 1);
    let from = Math.max(1, first);
    while (from < end && this.has(from)) from += 1;
    if (from >= end) return null;
    let to = from;
    while (to < end && to < from + most && !this.has(to)) to += 1;
    return { first: from, count: to - from };
  }

  private has(number: number): boolean {
    return this.chunks.get(Math.floor((number - 1) / CHUNK))?.texts[(number - 1) % CHUNK] !== undefined;
  }

  /** Drops what is farthest from this line, as long as there are more than `KEPT` lines. */
  trim(around: number): void {
    if (this.chunks.size <= CHUNKS_MAX) return;
    const here = Math.floor((around - 1) / CHUNK);
    const far = [...this.chunks.keys()].sort((a, b) => Math.abs(b - here) - Math.abs(a - here));
    for (const index of far.slice(0, this.chunks.size - CHUNKS_MAX)) this.chunks.delete(index);
  }

  /** The lines that are here, in order, from `first` to `last`. */
  *loaded(first = 1, last = Infinity): Generator<Line> {
    for (const index of [...this.chunks.keys()].sort((a, b) => a - b)) {
      const from = Math.max(first, index * CHUNK + 1);
      for (let number = from; number <= Math.min(last, (index + 1) * CHUNK); number++) {
        const found = this.line(number);
        if (found) yield found;
      }
    }
  }

  /** Lines at which bytes are missing, with how many. */
  gaps(): Iterable<readonly [number, number]> {
    return this.missingBytes;
  }

  /** Lines on standard error, of those that are here. */
  *errors(): Generator<number> {
    for (const chunk of this.chunks.values()) yield* chunk.errors;
  }

  /** How many lines are here. */
  get kept(): number {
    let count = 0;
    for (const chunk of this.chunks.values()) chunk.texts.forEach((text) => (count += text === undefined ? 0 : 1));
    return count;
  }

  private chunk(number: number): Chunk {
    const index = Math.floor((number - 1) / CHUNK);
    let found = this.chunks.get(index);
    if (found === undefined) {
      found = { texts: new Array<string | undefined>(CHUNK).fill(undefined), at: new Array<number | undefined>(CHUNK).fill(undefined), errors: new Set() };
      this.chunks.set(index, found);
    }
    return found;
  }
}
