// The signs of states on a canvas; the same shapes as in `glyph.tsx`, in a square of 16.

import type { State } from "../../model/states";

type Draw = (context: CanvasRenderingContext2D, colour: string, cut: string) => void;

const stroke = (path: string, width = 2): Draw => {
  const shape = new Path2D(path);
  return (context, colour) => {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke(shape);
  };
};
const filled = (ground: string, mark: string): Draw => {
  const [back, front] = [new Path2D(ground), new Path2D(mark)];
  return (context, colour, cut) => {
    context.fillStyle = colour;
    context.fill(back);
    context.strokeStyle = cut;
    context.lineWidth = 1.8;
    context.stroke(front);
  };
};

const RING = "M8 2a6 6 0 1 1 0 12a6 6 0 1 1 0 -12z";
const SQUARE = "M3.5 1.5h9a2 2 0 0 1 2 2v9a2 2 0 0 1 -2 2h-9a2 2 0 0 1 -2 -2v-9a2 2 0 0 1 2 -2z";
const ring = stroke(RING);
const dot = new Path2D("M8 5.4a2.6 2.6 0 1 1 0 5.2a2.6 2.6 0 1 1 0 -5.2z");
const small = new Path2D("M8 5.8a2.2 2.2 0 1 1 0 4.4a2.2 2.2 0 1 1 0 -4.4z");

const SIGNS: Readonly<Record<State, Draw>> = {
  success: filled("M8 1a7 7 0 1 1 0 14a7 7 0 1 1 0 -14z", "M4.7 8.3l2.2 2.3 4.4-4.9"),
  failure: filled(SQUARE, "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6"),
  "timed-out": filled(SQUARE, "M8 4.6V8.3l2.6 1.7"),
  lost: filled("M8 .7L15.3 8 8 15.3.7 8z", "M6.2 6.5a1.8 1.8 0 1 1 2.5 1.7c-.5.2-.7.5-.7 1M8 11.2v.1"),
  running: (context, colour, cut) => {
    ring(context, colour, cut);
    context.fillStyle = colour;
    context.fill(dot);
  },
  waiting: (context, colour, cut) => {
    context.setLineDash([2.6, 3.68]);
    ring(context, colour, cut);
    context.setLineDash([]);
  },
  cancelled: stroke(`${RING}M3.8 12.2l8.4-8.4`),
  queued: (context, colour) => {
    context.fillStyle = colour;
    context.fill(small);
  },
  skipped: stroke("M3 8h10"),
};

/** Draws the sign of a state around a point. */
export function sign(context: CanvasRenderingContext2D, state: State, x: number, y: number, size: number, colour: string, cut: string): void {
  context.save();
  context.translate(x - size / 2, y - size / 2);
  context.scale(size / 16, size / 16);
  context.lineCap = "round";
  context.lineJoin = "round";
  SIGNS[state](context, colour, cut);
  context.restore();
}
