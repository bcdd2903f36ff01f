// The scrolled lines of a log: only those in view are in the document, whatever its length. With wrapped lines, whose height is known
// only once they are laid out, the view is placed by the line at its top.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import * as scroll from "../../model/log/scroll";

export interface BoxHandle {
  /** Brings a row into view: in the upper third if it is not in view already. */
  readonly show: (row: number) => void;
  readonly toEnd: () => void;
  /** The row at the top of the view. */
  readonly top: () => number;
}

interface Properties {
  readonly rows: number;
  readonly wraps: boolean;
  readonly isFollowing: boolean;
  readonly label: string;
  /** Called when the reader scrolls: whether the view is at the end now. */
  readonly onScroll: (isAtEnd: boolean) => void;
  /** Called with the rows in view whenever they may have changed. */
  readonly onView: (first: number, count: number) => void;
  readonly render: (row: number) => JSX.Element;
  readonly handle: { current: BoxHandle | null };
  readonly hasLines: boolean;
}

const LINE_REM = 1.25;
const AROUND = 4;
/** Pixels that still count as the end. */
const NEAR_PX = 4;

export function LogBox({ rows, wraps, isFollowing, label, onScroll, onView, render, handle, hasLines }: Properties): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const some = useRef<HTMLDivElement>(null);
  const [size, setSize] = useState({ viewPx: 600, rowPx: 20 });
  const position = useRef<scroll.Position>({ list: 0, box: 0 });
  /** Where the box was when the page has last moved it: anything else is the reader's doing. */
  const settled = useRef(0);
  const [, setMoved] = useState(0);
  const { viewPx, rowPx } = size;
  const shape = scroll.geometry(rows, rowPx, viewPx, wraps ? Math.max(0, viewPx - rowPx) : 0);
  if (isFollowing) position.current = scroll.at(shape, scroll.endOf(shape));
  const { list } = position.current;
  const top = Math.min(Math.max(0, rows - 1), Math.floor(list / rowPx));
  const visibleRows = Math.ceil(viewPx / rowPx) + 1;
  const first = wraps ? Math.max(0, Math.min(top, rows - visibleRows)) : Math.max(0, top - AROUND);
  const count = Math.max(0, Math.min(rows - first, visibleRows + (wraps ? Math.max(0, top - first) : 2 * AROUND)));
  const latest = useRef({ shape, rowPx, viewPx, isFollowing, onScroll });
  latest.current = { shape, rowPx, viewPx, isFollowing, onScroll };

  const move = (next: scroll.Position): void => {
    position.current = next;
    setMoved((count_) => count_ + 1);
  };
  useLayoutEffect(() => {
    const measure = (): void => {
      const found = box.current;
      if (!found) return;
      const rem = parseFloat(getComputedStyle(document.documentElement).fontSize) || 16;
      setSize((old) => (old.viewPx === found.clientHeight && old.rowPx === Math.round(rem * LINE_REM) ? old : { viewPx: found.clientHeight, rowPx: Math.round(rem * LINE_REM) }));
    };
    const observer = new ResizeObserver(measure);
    if (box.current) observer.observe(box.current);
    measure();
    handle.current = {
      show: (row) => {
        const now = latest.current;
        const y = row * now.rowPx;
        if (y < position.current.list || y + now.rowPx * 2 > position.current.list + now.viewPx) move(scroll.at(now.shape, y - now.viewPx / 3));
        else move(position.current);
      },
      toEnd: () => move(scroll.at(latest.current.shape, scroll.endOf(latest.current.shape))),
      top: () => Math.floor(position.current.list / latest.current.rowPx),
    };
    // Before the browser tells that it has scrolled, new lines could have taken the view back to the end.
    const wheel = ({ deltaY }: WheelEvent): void => {
      const now = latest.current;
      if (deltaY < 0 && now.isFollowing && now.shape.boxPx > now.viewPx) now.onScroll(false);
    };
    box.current?.addEventListener("wheel", wheel, { passive: true });
    return () => {
      observer.disconnect();
      box.current?.removeEventListener("wheel", wheel);
    };
  }, []);
  // The box may have become higher or lower: the same place of the list may be another one of the box.
  useLayoutEffect(() => {
    const found = box.current;
    if (!found) return;
    const wanted = scroll.at(shape, position.current.list);
    position.current = shape.boxPx < shape.listPx && Math.abs(wanted.list - position.current.list) < 1 ? { list: position.current.list, box: position.current.box } : wanted;
    position.current = { ...position.current, box: Math.max(0, Math.min(position.current.box, shape.boxPx - viewPx)) };
    if (Math.abs(found.scrollTop - position.current.box) >= 1) found.scrollTop = position.current.box;
    // The browser may not go so far, for example while a scroll bar comes or goes.
    settled.current = found.scrollTop;
    place();
  });
  useLayoutEffect(() => onView(top, visibleRows), [top, visibleRows, rows]);

  const place = (): void => {
    const lines = some.current;
    if (!lines) return;
    let shift = first * rowPx - position.current.list;
    if (wraps) {
      const line = lines.children[top - first];
      const height = line instanceof HTMLElement ? line.offsetHeight : rowPx;
      const above = line instanceof HTMLElement ? line.offsetTop : 0;
      const wanted = above + ((position.current.list - top * rowPx) / rowPx) * height;
      const isLast = first + count >= rows;
      shift = -(isFollowing ? Math.max(0, lines.offsetHeight - viewPx) : isLast ? Math.max(0, Math.min(wanted, lines.offsetHeight - viewPx)) : wanted);
    }
    lines.style.transform = `translateY(${position.current.box + shift}px)`;
  };
  const scrolled = (): void => {
    const found = box.current;
    if (!found || Math.abs(found.scrollTop - settled.current) < 1) return;
    settled.current = found.scrollTop;
    move(scroll.scrolled(shape, position.current, found.scrollTop));
    onScroll(found.scrollTop + found.clientHeight >= found.scrollHeight - NEAR_PX);
  };
  return (
    <div ref={box} class={`log-box ${wraps ? "wraps" : ""}`} role="log" aria-live="off" aria-label={label} tabIndex={0} aria-busy={!hasLines} onScroll={scrolled}>
      <div class="all" role="presentation" style={{ height: `${shape.boxPx}px` }}>
        <div ref={some} class="some" role="presentation">
          {Array.from({ length: count }, (_, index) => render(first + index))}
        </div>
      </div>
    </div>
  );
}
