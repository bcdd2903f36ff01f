// Where the boxes and lines of a graph are: the second half of the layout.
//
// - The vertical places of a layer are those nearest to what each node's neighbours want, in order and with a distance between them
//   (pool adjacent violators); lines over several layers count most, so they are straight.
// - A narrow graph that is much wider than the view continues below, as lines of a text do.

import { layered, type Edge, type Layered } from "./layers";

export interface Size {
  readonly width: number;
  readonly height: number;
}

export interface Point {
  readonly x: number;
  readonly y: number;
}

export interface Layout {
  readonly width: number;
  readonly height: number;
  /** The upper left corner of each node. */
  readonly corners: readonly Point[];
  /** The points that each edge passes, from the right side of one node to the left side of another. */
  readonly routes: readonly (readonly Point[])[];
}

export const GAP_X = 48;
export const GAP_Y = 14;
/** A line that passes a layer takes so much of its height. */
const LINE_Y = 8;
const SWEEPS = 6;
/** A graph continues below where at most so many lines are cut. */
const CUT_MAX = 2;
/** A graph of fewer layers is never cut. */
const STRIPED_LAYERS = 8;
/** Between one stripe and the next, where the lines pass. */
const STRIPE_GAP = 36;

export function layout(sizes: readonly Size[], edges: readonly Edge[], viewPx: number): Layout {
  const graph = layered(sizes.length, edges);
  const height = (node: number): number => sizes[node]?.height ?? LINE_Y;
  const middles = middlesOf(graph, height);
  const widths = graph.layers.map((layer) => Math.max(0, ...layer.map((node) => sizes[node]?.width ?? 0)));
  const stripes = stripesOf(graph, widths, viewPx);
  const lefts: number[] = [];
  const shifts: number[] = [];
  const stripeOf: number[] = [];
  let bottom = 0;
  let right = 0;
  stripes.forEach((stripe, number) => {
    let x = 0;
    let top = Infinity;
    let low = -Infinity;
    for (const index of stripe) {
      lefts[index] = x;
      stripeOf[index] = number;
      x += (widths[index] ?? 0) + GAP_X;
      for (const node of graph.layers[index] ?? []) {
        top = Math.min(top, (middles[node] ?? 0) - height(node) / 2);
        low = Math.max(low, (middles[node] ?? 0) + height(node) / 2);
      }
    }
    for (const index of stripe) shifts[index] = bottom - top;
    bottom += low - top + STRIPE_GAP;
    right = Math.max(right, x - GAP_X);
  });
  const layerOf: number[] = [];
  graph.layers.forEach((layer, index) => layer.forEach((node) => void (layerOf[node] = index)));
  const yOf = (node: number): number => (middles[node] ?? 0) + (shifts[layerOf[node] ?? 0] ?? 0);
  const xOf = (node: number): number => lefts[layerOf[node] ?? 0] ?? 0;
  const corners = sizes.map(({ height: tall }, node) => ({ x: xOf(node), y: yOf(node) - tall / 2 }));
  const routes = graph.chains.map((chain) => {
    const points: Point[] = [];
    chain.forEach((node, index) => {
      const isFirst = index === 0;
      const isLast = index === chain.length - 1;
      const previous = chain[index - 1];
      if (previous !== undefined && stripeOf[layerOf[previous] ?? 0] !== stripeOf[layerOf[node] ?? 0]) points.push(...turn(xOf(previous) + (widths[layerOf[previous] ?? 0] ?? 0), yOf(previous), xOf(node), yOf(node), stripeTop(graph, layerOf[node] ?? 0, shifts, middles, height, stripes)));
      if (!isFirst) points.push({ x: xOf(node), y: yOf(node) });
      if (isFirst) points.push({ x: xOf(node) + (sizes[node]?.width ?? 0), y: yOf(node) });
      // A line bends only between two layers: beside a narrow node, or through a layer, it is straight.
      const layerEnd = xOf(node) + (widths[layerOf[node] ?? 0] ?? 0);
      if (!isLast && layerEnd > (points.at(-1)?.x ?? 0)) points.push({ x: layerEnd, y: yOf(node) });
    });
    return points;
  });
  return { width: Math.max(0, right), height: Math.max(0, bottom - STRIPE_GAP), corners, routes };
}

/** From the end of one stripe to the beginning of the next: out, down into the gap, back, and in. */
function turn(fromX: number, fromY: number, toX: number, toY: number, nextTop: number): readonly Point[] {
  const gap = nextTop - STRIPE_GAP / 2;
  const out = fromX + GAP_X / 3;
  const back = toX - GAP_X / 3;
  return [{ x: out, y: fromY }, { x: out, y: gap }, { x: back, y: gap }, { x: back, y: toY }];
}

function stripeTop(graph: Layered, layer: number, shifts: readonly number[], middles: Float64Array, height: (node: number) => number, stripes: readonly (readonly number[])[]): number {
  const stripe = stripes.find((layers) => layers.includes(layer)) ?? [];
  return Math.min(...stripe.flatMap((index) => (graph.layers[index] ?? []).map((node) => (middles[node] ?? 0) - height(node) / 2 + (shifts[index] ?? 0))));
}

/** Consecutive layers side by side; the next ones go below where the graph is narrow enough to be cut. */
function stripesOf(graph: Layered, widths: readonly number[], viewPx: number): readonly (readonly number[])[] {
  const all = widths.map((_, index) => index);
  const total = widths.reduce((sum, width) => sum + width + GAP_X, -GAP_X);
  if (widths.length < STRIPED_LAYERS || total <= viewPx * 2) return [all];
  const found: number[][] = [];
  let stripe: number[] = [];
  let used = 0;
  for (const index of all) {
    const width = (widths[index] ?? 0) + GAP_X;
    const cut = index === 0 ? 0 : (graph.layers[index - 1] ?? []).reduce((sum, node) => sum + (graph.after[node]?.length ?? 0), 0);
    if (stripe.length > 0 && used + width - GAP_X > viewPx && cut <= CUT_MAX) {
      found.push(stripe);
      stripe = [];
      used = 0;
    }
    stripe.push(index);
    used += width;
  }
  found.push(stripe);
  // Cuts that leave stripes of very different lengths would not make it easier to read.
  const longest = Math.max(...found.map((layers) => layers.reduce((sum, index) => sum + (widths[index] ?? 0) + GAP_X, -GAP_X)));
  return found.length > 1 && longest <= viewPx * 1.5 ? found : [all];
}

/** The vertical middle of each node and dummy. */
function middlesOf({ layers, before, after, nodes }: Layered, height: (node: number) => number): Float64Array {
  const middles = new Float64Array(before.length);
  const offsets = layers.map((layer) => {
    let y = 0;
    return layer.map((node, index) => {
      const above = layer[index - 1];
      if (above !== undefined) y += height(above) / 2 + height(node) / 2 + GAP_Y;
      return y;
    });
  });
  layers.forEach((layer, index) => {
    const own = offsets[index] ?? [];
    const middle = (own.at(-1) ?? 0) / 2;
    layer.forEach((node, at) => void (middles[node] = (own[at] ?? 0) - middle));
  });
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const isForward = sweep % 2 === 0;
    const order = layers.map((_, index) => (isForward ? index : layers.length - 1 - index));
    for (const index of order) {
      const layer = layers[index] ?? [];
      const own = offsets[index] ?? [];
      const isLast = sweep === SWEEPS - 1;
      const targets = layer.map((node, position): Target => {
        // In the end lines stay as straight as they are, and boxes come to the middle of what they belong to.
        if (isLast && node >= nodes) return { at: (middles[node] ?? 0) - (own[position] ?? 0), weight: 8 };
        const near = (isForward ? before : after)[node] ?? [];
        const far = isLast ? ((isForward ? after : before)[node] ?? []) : [];
        const count = near.length + far.length;
        if (count === 0) return { at: (middles[node] ?? 0) - (own[position] ?? 0), weight: 0.1 };
        let sum = 0;
        for (const other of near) sum += middles[other] ?? 0;
        for (const other of far) sum += middles[other] ?? 0;
        const weight = node < nodes ? 1 : (near[0] ?? 0) >= nodes ? 8 : 2;
        return { at: sum / count - (own[position] ?? 0), weight };
      });
      const found = nearest(targets);
      layer.forEach((node, position) => void (middles[node] = (found[position] ?? 0) + (own[position] ?? 0)));
    }
  }
  return middles;
}

interface Target {
  readonly at: number;
  readonly weight: number;
}

/** The ascending numbers with the smallest weighted squares of distances to the targets. */
function nearest(targets: readonly Target[]): readonly number[] {
  const pools: { at: number; weight: number; count: number }[] = [];
  for (const { at, weight } of targets) {
    let pool = { at, weight, count: 1 };
    for (let last = pools.at(-1); last !== undefined && last.at > pool.at; last = pools.at(-1)) {
      pools.pop();
      const sum = last.weight + pool.weight;
      pool = { at: (last.at * last.weight + pool.at * pool.weight) / sum, weight: sum, count: last.count + pool.count };
    }
    pools.push(pool);
  }
  return pools.flatMap(({ at, count }) => new Array<number>(count).fill(at));
}
