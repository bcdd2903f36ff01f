// Rows of equal height of which only those in view are in the document. The list scrolls inside of its own box.

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import type { JSX } from "preact";
import { scrollFor, windowOf } from "../model/rows";

interface Properties {
  readonly total: number;
  readonly rowPx: number;
  /** The row that must be in view whenever it changes; -1 for none. */
  readonly focused: number;
  readonly render: (index: number) => JSX.Element;
  readonly attributes: JSX.HTMLAttributes<HTMLDivElement>;
  readonly head?: JSX.Element;
  /** Stays at the end as rows are added, as long as the reader has not scrolled up. */
  readonly sticksToEnd?: boolean;
  /** Where the list is scrolled to at first. */
  readonly scrollTop?: number;
  /** Goes to the top whenever this becomes true. */
  readonly isAtTop?: boolean;
  readonly onScrolled?: (scrollTop: number) => void;
}

/** Pixels that still count as the end. */
const NEAR_PX = 24;

export function VirtualRows({ total, rowPx, focused, render, attributes, head, sticksToEnd = false, scrollTop = 0, isAtTop = false, onScrolled }: Properties): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const [scroll, setScroll] = useState({ top: 0, height: 600 });
  const isAtEnd = useRef(true);
  const measure = (): void => {
    const found = box.current;
    if (!found) return;
    isAtEnd.current = found.scrollTop + found.clientHeight >= found.scrollHeight - NEAR_PX;
    setScroll((old) => (old.top === found.scrollTop && old.height === found.clientHeight ? old : { top: found.scrollTop, height: found.clientHeight }));
  };
  useLayoutEffect(() => {
    const observer = new ResizeObserver(measure);
    if (box.current) {
      box.current.scrollTop = scrollTop;
      observer.observe(box.current);
    }
    return () => observer.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (isAtTop && scroll.top > 0 && box.current && box.current.scrollTop !== scrollTop) box.current.scrollTop = 0;
  }, [isAtTop]);
  useLayoutEffect(() => {
    const found = box.current;
    if (!found || focused < 0) return;
    const headPx = found.firstElementChild?.classList.contains("head") ? found.firstElementChild.clientHeight : 0;
    found.scrollTop = scrollFor(focused, rowPx, found.scrollTop, found.clientHeight - headPx);
  }, [focused]);
  useLayoutEffect(() => {
    if (sticksToEnd && isAtEnd.current && box.current) box.current.scrollTop = box.current.scrollHeight;
    measure();
  }, [total]);
  const { first, count } = windowOf(total, rowPx, scroll.top, scroll.height);
  return (
    <div {...attributes} ref={box} onScroll={() => { measure(); onScrolled?.(box.current?.scrollTop ?? 0); }} class={`virtual ${String(attributes.class ?? "")}`}>
      {head && <div class="head" role="row">{head}</div>}
      <div class="all" role="presentation" style={{ height: `${total * rowPx}px` }}>
        <div class="some" role="presentation" style={{ transform: `translateY(${first * rowPx}px)` }}>
          {Array.from({ length: count }, (_, index) => render(first + index))}
        </div>
      </div>
    </div>
  );
}
