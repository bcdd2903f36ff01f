// Layers of a graph from left to right, and the order within each: the first half of the layout.
//
// Nodes are numbered. Each edge leads from one layer to the next; a longer one passes through dummies, which are nodes that nobody
// sees. The order is found by sweeps of the median, and the best of them counts. Nothing is random: the same graph always
// looks the same.

export interface Edge {
  readonly from: number;
  readonly to: number;
}

export interface Layered {
  /** Nodes and dummies of each layer, from the top. */
  readonly layers: readonly (readonly number[])[];
  /** Neighbours in the layer before and after, by node. */
  readonly before: readonly (readonly number[])[];
  readonly after: readonly (readonly number[])[];
  /** The nodes that each edge passes, its ends included. */
  readonly chains: readonly (readonly number[])[];
  /** From here on, nodes are dummies. */
  readonly nodes: number;
}

const SWEEPS = 8;

/** Edges must have no cycle. */
export function layered(count: number, edges: readonly Edge[]): Layered {
  const ranks = ranksOf(count, edges);
  const before: number[][] = Array.from({ length: count }, () => []);
  const after: number[][] = Array.from({ length: count }, () => []);
  const layers: number[][] = [];
  const add = (node: number, rank: number): void => void (layers[rank] ??= []).push(node);
  for (let node = 0; node < count; node++) add(node, ranks[node] ?? 0);
  let next = count;
  const chains = edges.map(({ from, to }) => {
    const chain = [from];
    for (let rank = (ranks[from] ?? 0) + 1; rank < (ranks[to] ?? 0); rank++) {
      add(next, rank);
      before.push([]);
      after.push([]);
      chain.push(next++);
    }
    chain.push(to);
    for (let index = 1; index < chain.length; index++) {
      const [one, other] = [chain[index - 1] ?? 0, chain[index] ?? 0];
      after[one]?.push(other);
      before[other]?.push(one);
    }
    return chain;
  });
  const filled = Array.from(layers, (layer) => layer ?? []);
  return { layers: ordered(filled, before, after, next), before, after, chains, nodes: count };
}

/** The longest path to each node; a node that needs nothing stands directly before what needs it. */
function ranksOf(count: number, edges: readonly Edge[]): readonly number[] {
  const after: number[][] = Array.from({ length: count }, () => []);
  const open = new Array<number>(count).fill(0);
  for (const { from, to } of edges) {
    after[from]?.push(to);
    open[to] = (open[to] ?? 0) + 1;
  }
  const isSource = open.map((needs) => needs === 0);
  const ranks = new Array<number>(count).fill(0);
  const ready = open.flatMap((needs, node) => (needs === 0 ? [node] : []));
  for (let index = 0; index < ready.length; index++) {
    const node = ready[index] ?? 0;
    for (const other of after[node] ?? []) {
      ranks[other] = Math.max(ranks[other] ?? 0, (ranks[node] ?? 0) + 1);
      open[other] = (open[other] ?? 0) - 1;
      if (open[other] === 0) ready.push(other);
    }
  }
  return ranks.map((rank, node) => {
    const needed = (after[node] ?? []).map((other) => ranks[other] ?? 0);
    return isSource[node] && needed.length > 0 ? Math.min(...needed) - 1 : rank;
  });
}

function ordered(layers: readonly number[][], before: readonly number[][], after: readonly number[][], count: number): readonly (readonly number[])[] {
  const place = new Float64Array(count);
  const medians = new Float64Array(count);
  const settle = (layer: readonly number[]): void => layer.forEach((node, index) => void (place[node] = index));
  layers.forEach(settle);
  let best = layers.map((layer) => [...layer]);
  let fewest = crossings(layers, after, place);
  for (let sweep = 0; sweep < SWEEPS && fewest > 0; sweep++) {
    const isForward = sweep % 2 === 0;
    const order = isForward ? layers : [...layers].reverse();
    for (const layer of order) {
      // What has no neighbours on that side stays near where it was.
      for (const node of layer) medians[node] = medianOf((isForward ? before : after)[node] ?? [], place, place[node] ?? 0);
      layer.sort((a, b) => (medians[a] ?? 0) - (medians[b] ?? 0) || (place[a] ?? 0) - (place[b] ?? 0));
      settle(layer);
    }
    const found = crossings(layers, after, place);
    if (found < fewest) {
      fewest = found;
      best = layers.map((layer) => [...layer]);
    }
  }
  return best;
}

function medianOf(neighbours: readonly number[], place: Float64Array, otherwise: number): number {
  const [one, other] = neighbours;
  if (one === undefined) return otherwise;
  // Most nodes have one or two neighbours.
  if (other === undefined) return place[one] ?? 0;
  if (neighbours.length === 2) return ((place[one] ?? 0) + (place[other] ?? 0)) / 2;
  const places = neighbours.map((node) => place[node] ?? 0).sort((a, b) => a - b);
  const middle = places.length >> 1;
  return places.length % 2 === 1 ? (places[middle] ?? 0) : ((places[middle - 1] ?? 0) + (places[middle] ?? 0)) / 2;
}

/** How many pairs of edges cross, counted with a tree of sums: O(edges × log layer). */
function crossings(layers: readonly (readonly number[])[], after: readonly (readonly number[])[], place: Float64Array): number {
  let total = 0;
  layers.forEach((layer, index) => {
    const size = layers[index + 1]?.length ?? 0;
    if (size === 0) return;
    const sums = new Int32Array(size + 1);
    let seen = 0;
    for (const node of layer) {
      const targets = after[node] ?? [];
      // First all are compared with the edges of the nodes above, then all are added.
      for (const other of targets) {
        for (let at = (place[other] ?? 0) + 1; at > 0; at -= at & -at) total -= sums[at] ?? 0;
      }
      total += seen * targets.length;
      for (const other of targets) {
        for (let at = (place[other] ?? 0) + 1; at <= size; at += at & -at) sums[at] = (sums[at] ?? 0) + 1;
      }
      seen += targets.length;
    }
  });
  return total;
}
