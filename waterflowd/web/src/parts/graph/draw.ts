// Draws a graph on a canvas: only what is in view, and only signs where nothing can be read.

import { visible } from "../../model/lines";
import { CELL, HEAD, type Box, type Graph, type Line } from "../../model/graph/boxes";
import { SIGNS_BELOW, type Camera } from "../../model/graph/camera";
import type { Size } from "../../model/graph/layout";
import { isBad, type State } from "../../model/states";
import { sign } from "./signs";

export interface Look {
  readonly text: string;
  readonly soft: string;
  readonly border: string;
  readonly surface: string;
  readonly ground: string;
  readonly accent: string;
  readonly chosen: string;
  readonly cut: string;
  readonly states: Readonly<Record<State, string>>;
  readonly font: string;
}

export interface Scene {
  readonly graph: Graph;
  readonly camera: Camera;
  readonly view: Size;
  readonly selected: string;
  /** What the selection needs, directly or not. */
  readonly needed: ReadonlySet<string>;
  /** Those of them that are still to end: their frame pulses. */
  readonly awaited: ReadonlySet<string>;
  /** Places that a search has found; null without a search. */
  readonly found: ReadonlySet<string> | null;
  readonly look: Look;
  /** 0 to 1, for what pulses. */
  readonly pulse: number;
}

const DIMMED = 0.25;
const CORNER = 6;
const BAR = 5;
/** Signs smaller than this cannot be told apart. */
const TINY_PX = 6;
const DOT_PX = 5;

export function draw(context: CanvasRenderingContext2D, scene: Scene, pixels: number): void {
  const { graph, camera, view, look } = scene;
  context.setTransform(pixels, 0, 0, pixels, 0, 0);
  context.clearRect(0, 0, view.width, view.height);
  context.setTransform(pixels * camera.scale, 0, 0, pixels * camera.scale, pixels * camera.x, pixels * camera.y);
  const left = -camera.x / camera.scale;
  const top = -camera.y / camera.scale;
  const right = left + view.width / camera.scale;
  const bottom = top + view.height / camera.scale;
  const boxes = graph.boxes.filter((box) => box.x < right && box.x + box.width > left && box.y < bottom && box.y + box.height > top);
  // Frames are the ground of what is in them, and of the lines there.
  for (const box of boxes) if (box.shape === "frame") drawFrame(context, box, scene);
  const inView = graph.lines.filter((line) => isInView(line, left, top, right, bottom));
  for (const isMarked of [false, true]) drawLines(context, inView, scene, isMarked);
  context.textBaseline = "middle";
  for (const box of boxes) {
    context.globalAlpha = scene.found === null || isFound(box, scene.found) ? 1 : DIMMED;
    if (camera.scale < SIGNS_BELOW) drawSign(context, box, scene);
    else drawBox(context, box, look, scene);
    drawMarks(context, box, scene);
    context.globalAlpha = 1;
  }
}

const isFound = (box: Box, found: ReadonlySet<string>): boolean => found.has(box.place) || box.cells.some((cell) => cell.place !== null && found.has(cell.place));

function isInView({ points }: Line, left: number, top: number, right: number, bottom: number): boolean {
  let [low, high, first, last] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const { x, y } of points) {
    if (y < low) low = y;
    if (y > high) high = y;
    if (x < first) first = x;
    if (x > last) last = x;
  }
  return first < right && last > left && low < bottom && high > top;
}

function drawLines(context: CanvasRenderingContext2D, lines: readonly Line[], { camera, selected, needed, look, found }: Scene, isMarked: boolean): void {
  context.beginPath();
  for (const { from, to, points } of lines) {
    const isNeed = to.some((place) => place === selected || needed.has(place)) && from.some((place) => needed.has(place));
    if (isNeed !== isMarked) continue;
    points.forEach(({ x, y }, index) => {
      const before = points[index - 1];
      if (before === undefined) return context.moveTo(x, y);
      if (before.y === y || before.x === x) return context.lineTo(x, y);
      const middle = (before.x + x) / 2;
      context.bezierCurveTo(middle, before.y, middle, y, x, y);
    });
  }
  // From far away there are more lines than room: they stay behind the boxes.
  const isFar = camera.scale < SIGNS_BELOW;
  context.globalAlpha = isMarked ? 1 : found === null ? (isFar ? 0.45 : 1) : DIMMED;
  context.strokeStyle = isMarked ? look.accent : look.border;
  context.lineWidth = Math.max(isMarked ? 2 : 1, (isMarked ? 1.6 : isFar ? 0.4 : 0.8) / camera.scale);
  context.stroke();
  context.globalAlpha = 1;
}

function drawFrame(context: CanvasRenderingContext2D, box: Box, { look, camera, selected }: Scene): void {
  context.beginPath();
  context.roundRect(box.x, box.y, box.width, box.height, CORNER);
  context.fillStyle = look.ground;
  context.fill();
  context.strokeStyle = box.place === selected ? look.accent : look.soft;
  context.lineWidth = Math.max(1, 0.7 / camera.scale);
  context.setLineDash([6, 4]);
  context.stroke();
  context.setLineDash([]);
}

function drawBox(context: CanvasRenderingContext2D, box: Box, look: Look, { selected, camera }: Scene): void {
  const { x, y, width, height, state } = box;
  if (box.shape !== "frame") {
    context.beginPath();
    context.roundRect(x, y, width, height, CORNER);
    context.fillStyle = box.place === selected ? look.chosen : look.surface;
    context.fill();
    context.strokeStyle = look.border;
    context.lineWidth = Math.max(1, 0.7 / camera.scale);
    context.stroke();
  }
  const middle = y + (box.shape === "job" ? (box.counts.length > 0 ? 13 : 15) : HEAD / 2);
  sign(context, state, x + 16, middle + (box.shape === "job" && box.detail === "" ? 7 : 0), 16, look.states[state], look.cut);
  const room = width - 34 - (box.canOpen ? 22 : 8);
  context.fillStyle = look.text;
  context.font = `600 13px ${look.font}`;
  const name = shortened(context, visible(box.name), room);
  context.fillText(name, x + 30, middle + (box.shape === "job" && box.detail === "" ? 7 : 0));
  if (box.canOpen) {
    context.fillStyle = look.soft;
    context.font = `12px ${look.font}`;
    context.fillText(box.shape === "job" ? "▸" : "▾", x + width - 18, middle);
  }
  if (box.shape === "job" && box.detail !== "") {
    context.fillStyle = look.soft;
    context.font = `12px ${look.font}`;
    context.fillText(shortened(context, visible(box.detail), width - 40), x + 30, y + (box.counts.length > 0 ? 27 : 31));
  }
  if (box.counts.length > 0 && box.shape === "job") drawCounts(context, box, look);
  for (const cell of box.cells) sign(context, cell.state, cell.x + CELL / 2, cell.y + CELL / 2, CELL - 5, look.states[cell.state], look.cut);
}

/** How many instances are in which state: by length, colour and height, so that failures are seen without colour. */
function drawCounts(context: CanvasRenderingContext2D, box: Box, look: Look): void {
  const all = box.counts.reduce((sum, [, count]) => sum + count, 0);
  const width = box.width - 2;
  let x = box.x + 1;
  for (const [state, count] of box.counts) {
    const long = Math.max(3, (count / Math.max(1, all)) * width);
    const high = isBad(state) ? BAR + 3 : state === "success" ? BAR - 2 : BAR;
    context.fillStyle = look.states[state];
    context.fillRect(x, box.y + box.height - 1 - high, Math.min(long, box.x + box.width - 1 - x), high);
    x += long;
  }
}

function drawSign(context: CanvasRenderingContext2D, box: Box, { look, camera }: Scene): void {
  if (box.shape === "frame") return;
  const size = Math.min(box.height - 4, Math.max(30, 9 / camera.scale));
  const isTiny = size * camera.scale < TINY_PX;
  context.beginPath();
  context.roundRect(box.x, box.y, box.width, box.height, CORNER);
  context.fillStyle = isTiny ? look.states[box.state] : look.surface;
  context.fill();
  if (isTiny) {
    if (isBad(box.state)) drawDot(context, box, look, camera);
    return;
  }
  context.strokeStyle = look.states[box.state];
  context.lineWidth = Math.max(1, 0.8 / camera.scale);
  context.stroke();
  sign(context, box.state, box.x + box.width / 2, box.y + Math.min(box.height, 44) / 2, size, look.states[box.state], look.cut);
}

/** What needs a look is seen from any distance. */
function drawDot(context: CanvasRenderingContext2D, box: Box, look: Look, camera: Camera): void {
  const size = DOT_PX / camera.scale;
  context.fillRect(box.x + box.width / 2 - size / 2, box.y + box.height / 2 - size / 2, size, size);
  context.strokeStyle = look.surface;
  context.lineWidth = 1 / camera.scale;
  context.strokeRect(box.x + box.width / 2 - size / 2, box.y + box.height / 2 - size / 2, size, size);
}

function drawMarks(context: CanvasRenderingContext2D, box: Box, { selected, needed, awaited, look, camera, pulse }: Scene): void {
  const cell = box.cells.find((found) => found.place === selected);
  const isSelected = box.place === selected;
  if (!isSelected && !needed.has(box.place) && cell === undefined) return;
  context.beginPath();
  if (cell) context.roundRect(cell.x, cell.y, CELL, CELL, 4);
  else context.roundRect(box.x - 1, box.y - 1, box.width + 2, box.height + 2, CORNER + 1);
  context.strokeStyle = look.accent;
  context.lineWidth = Math.max(isSelected || cell ? 2.5 : 1.5, (isSelected || cell ? 2 : 1.2) / camera.scale);
  const before = context.globalAlpha;
  if (awaited.has(box.place)) context.globalAlpha = before * (0.35 + 0.65 * pulse);
  context.stroke();
  context.globalAlpha = before;
}

const lengths = new Map<string, string>();
const LENGTHS_MAX = 5_000;
const END_CHARACTERS = 5;

/** The text with an ellipsis in the middle, since names differ at their ends; measured once. */
function shortened(context: CanvasRenderingContext2D, text: string, room: number): string {
  const key = `${context.font}\n${room}\n${text}`;
  const known = lengths.get(key);
  if (known !== undefined) return known;
  let found = text;
  if (context.measureText(text).width > room) {
    let low = 0;
    const end = text.length > 2 * END_CHARACTERS ? text.slice(-END_CHARACTERS) : "";
    let high = Math.min(text.length, 200);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (context.measureText(`${text.slice(0, middle)}…${end}`).width <= room) low = middle;
      else high = middle - 1;
    }
    found = `${text.slice(0, low)}…${end}`;
  }
  if (lengths.size >= LENGTHS_MAX) lengths.clear();
  lengths.set(key, found);
  return found;
}
