// Scrolling through more rows than a browser can lay out: a box of limited height stands for a list of any height.
//
// A short scroll moves by as many pixels as the reader did; a jump of the scroll bar lands at its share of the whole. Between the
// two, `offset` is how far the list is ahead of the box. The idea is that of SlickGrid.

/** The highest box that every browser can scroll exactly. */
const BOX_PX_MAX = 8_000_000;
/** A tall list is divided into pages of this share of the box. */
const PAGES = 100;

export interface Geometry {
  /** The height of the list, and of the box that stands for it. */
  readonly listPx: number;
  readonly boxPx: number;
  readonly viewPx: number;
}

export interface Position {
  /** Where the view begins in the list, and in the box. */
  readonly list: number;
  readonly box: number;
}

export function geometry(rows: number, rowPx: number, viewPx: number, restPx = 0): Geometry {
  const listPx = rows * rowPx + restPx;
  return { listPx, boxPx: Math.min(listPx, BOX_PX_MAX), viewPx };
}

/** The last place of the list at which a view can begin. */
export const endOf = ({ listPx, viewPx }: Geometry): number => Math.max(0, listPx - viewPx);

/** Where the box must be scrolled to for this place of the list. */
export function at(geometry_: Geometry, list: number): Position {
  const found = Math.max(0, Math.min(list, endOf(geometry_)));
  return { list: found, box: found - offsetOf(geometry_, pageOf(geometry_, found)) };
}

/** After the reader has scrolled the box to `box`. */
export function scrolled(geometry_: Geometry, before: Position, box: number): Position {
  const { listPx, boxPx, viewPx } = geometry_;
  if (boxPx >= listPx) return { list: box, box };
  const moved = box - before.box;
  if (box <= 0) return { list: 0, box: 0 };
  if (box >= boxPx - viewPx) return { list: endOf(geometry_), box: boxPx - viewPx };
  if (Math.abs(moved) < viewPx) return at(geometry_, before.list + moved);
  const page = Math.min(pages(geometry_) - 1, Math.floor((box / (boxPx - viewPx)) * ((listPx - viewPx) / pagePx(geometry_))));
  return { list: Math.max(0, Math.min(box + offsetOf(geometry_, page), endOf(geometry_))), box };
}

const pagePx = ({ listPx, boxPx }: Geometry): number => (boxPx >= listPx ? boxPx : boxPx / PAGES);
const pages = (geometry_: Geometry): number => Math.max(1, Math.ceil(geometry_.listPx / pagePx(geometry_)));
const pageOf = (geometry_: Geometry, list: number): number => Math.min(pages(geometry_) - 1, Math.floor(list / pagePx(geometry_)));

function offsetOf(geometry_: Geometry, page: number): number {
  const { listPx, boxPx } = geometry_;
  const count = pages(geometry_);
  return count <= 1 || boxPx >= listPx ? 0 : Math.round((page * (listPx - boxPx)) / (count - 1));
}
