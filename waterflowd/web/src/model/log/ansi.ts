// A line of output as it is shown: the last state of a progress line, with its colours and styles as data.
//
// - Each line begins without a style, so it looks the same wherever reading began.
// - Only colours and styles (`m`) are understood. Erasing to the end of the line (`K`) has nothing to erase here and is left out.
//   Every other escape stays visible as text: titles, links, moves of the cursor.
// - Very long lines are cut, with the number of characters that are not shown.

import { visible } from "../lines";

/** 0 to 15 are the theme's colours, 16 to 255 fixed ones; from `RGB` on, a colour by its red, green and blue. */
export type Colour = number;
export const RGB = 0x1000000;

export interface Style {
  readonly foreground: Colour | null;
  readonly background: Colour | null;
  readonly isBold: boolean;
  readonly isDim: boolean;
  readonly isItalic: boolean;
  readonly isUnderlined: boolean;
  readonly isInverse: boolean;
  readonly isStruck: boolean;
}

export interface Piece {
  readonly text: string;
  readonly style: Style;
  /** Where a click leads; null for text that is no link. */
  readonly href: string | null;
}

export interface ShownLine {
  readonly pieces: readonly Piece[];
  /** How often a progress line has replaced its text; 1 for any other. */
  readonly states: number;
  /** Characters at the end of the line that are not shown. */
  readonly cut: number;
}

export const PLAIN: Style = {
  foreground: null, background: null, isBold: false, isDim: false, isItalic: false, isUnderlined: false, isInverse: false, isStruck: false,
};

/** More than anybody reads in one line, and little enough to lay out at once. */
export const SHOWN_CHARACTERS = 4_000;
/** Beyond this the rest of a line has no colours. */
const PIECES_MAX = 100;

const ESCAPES = /\u001b\[(?:([0-9;:]*)m|[0-2]?K)/gu;
const LINKS = /https:\/\/[!#-&(-;=?-_a-z~]+/gu;

export function shownLine(raw: string): ShownLine {
  const end = endOf(raw);
  const start = raw.lastIndexOf("\r", end - 1) + 1;
  const shown = raw.slice(start, Math.min(end, start + SHOWN_CHARACTERS));
  return { pieces: pieces(shown, start === 0 ? PLAIN : styleAfter(raw.slice(0, start))), states: start === 0 ? 1 : states(raw.slice(0, end)), cut: Math.max(0, end - start - SHOWN_CHARACTERS) };
}

/** The text of a line without its escapes, as it is searched and copied. */
export function plainText(raw: string): string {
  const end = endOf(raw);
  return raw.slice(raw.lastIndexOf("\r", end - 1) + 1, end).replace(ESCAPES, "");
}

function endOf(raw: string): number {
  let end = raw.length;
  while (end > 0 && raw[end - 1] === "\r") end -= 1;
  return end;
}

function states(text: string): number {
  let count = 1;
  for (let at = text.indexOf("\r"); at >= 0; at = text.indexOf("\r", at + 1)) count += 1;
  return count;
}

/** The style that earlier states of the line leave behind; only the last few escapes can matter. */
function styleAfter(text: string): Style {
  let style = PLAIN;
  for (const found of text.slice(-SHOWN_CHARACTERS).matchAll(ESCAPES)) style = changed(style, found[1]);
  return style;
}

function pieces(text: string, first: Style): readonly Piece[] {
  const found: Piece[] = [];
  let style = first;
  let at = 0;
  for (const escape of text.matchAll(ESCAPES)) {
    if (found.length >= PIECES_MAX) break;
    add(found, text.slice(at, escape.index), style);
    style = changed(style, escape[1]);
    at = escape.index + escape[0].length;
  }
  add(found, found.length >= PIECES_MAX ? text.slice(at).replace(ESCAPES, "") : text.slice(at), style);
  return found;
}

/** The text with its links apart. A link consists of plain characters only, so it leads where it seems to lead. */
function add(found: Piece[], text: string, style: Style): void {
  let at = 0;
  for (const link of text.matchAll(LINKS)) {
    const href = link[0].replace(/[.,;:!?)\]]+$/u, "");
    if (link.index > at) found.push({ text: visible(text.slice(at, link.index)), style, href: null });
    found.push({ text: href, style, href });
    at = link.index + href.length;
  }
  if (at < text.length) found.push({ text: visible(text.slice(at)), style, href: null });
}

/** The style after an escape with these parameters; undefined ones belong to an escape without a style. */
function changed(style: Style, parameters: string | undefined): Style {
  if (parameters === undefined) return style;
  const numbers = parameters.split(";");
  let now = style;
  for (let index = 0; index < numbers.length; index++) {
    const [code, ...inner] = (numbers[index] ?? "").split(":").map((digits) => Number(digits || 0));
    if (code === 38 || code === 48) {
      const rest = inner.length > 0 ? inner : numbers.slice(index + 1).map(Number);
      const [colour, used] = extended(rest, inner.length > 0);
      if (inner.length === 0) index += used;
      if (colour !== null) now = code === 38 ? { ...now, foreground: colour } : { ...now, background: colour };
    } else {
      now = simple(now, code ?? 0);
    }
  }
  return now;
}

/** `5;N` or `2;R;G;B`, and how many numbers that took; with colons an empty colour space may follow the 2. */
function extended(numbers: readonly number[], hasColons: boolean): readonly [Colour | null, number] {
  if (numbers[0] === 5) return [byte(numbers[1]), 2];
  if (numbers[0] !== 2) return [null, 0];
  const [red, green, blue] = (hasColons && numbers.length > 4 ? numbers.slice(2) : numbers.slice(1)).map(byte);
  return red == null || green == null || blue == null ? [null, 4] : [RGB + red * 65536 + green * 256 + blue, 4];
}

function byte(number: number | undefined): number | null {
  return number !== undefined && number >= 0 && number <= 255 ? number : null;
}

const SIMPLE: Readonly<Record<number, Partial<Style>>> = {
  1: { isBold: true }, 2: { isDim: true }, 3: { isItalic: true }, 4: { isUnderlined: true }, 7: { isInverse: true }, 9: { isStruck: true },
  22: { isBold: false, isDim: false }, 23: { isItalic: false }, 24: { isUnderlined: false }, 27: { isInverse: false }, 29: { isStruck: false },
  39: { foreground: null }, 49: { background: null },
};

function simple(style: Style, code: number): Style {
  if (code === 0) return PLAIN;
  if (code >= 30 && code <= 37) return { ...style, foreground: code - 30 };
  if (code >= 40 && code <= 47) return { ...style, background: code - 40 };
  if (code >= 90 && code <= 97) return { ...style, foreground: code - 82 };
  if (code >= 100 && code <= 107) return { ...style, background: code - 92 };
  const change = SIMPLE[code];
  return change ? { ...style, ...change } : style;
}
