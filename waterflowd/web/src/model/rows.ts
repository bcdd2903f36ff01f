// Which rows of a long list are in the document: those in view, and a few around them.

export interface Window {
  readonly first: number;
  readonly count: number;
}

const AROUND = 8;

/** The rows of equal height that a view of `viewPx` shows, scrolled by `scrollPx`. */
export function windowOf(total: number, rowPx: number, scrollPx: number, viewPx: number): Window {
  const first = Math.max(0, Math.min(Math.floor(scrollPx / rowPx) - AROUND, total - 1));
  const last = Math.min(total, Math.ceil((scrollPx + viewPx) / rowPx) + AROUND);
  return { first, count: Math.max(0, last - first) };
}

/** Where to scroll so that a row is in view; the present place if it is already. */
export function scrollFor(row: number, rowPx: number, scrollPx: number, viewPx: number): number {
  const top = row * rowPx;
  if (top < scrollPx) return top;
  return top + rowPx > scrollPx + viewPx ? top + rowPx - viewPx : scrollPx;
}
