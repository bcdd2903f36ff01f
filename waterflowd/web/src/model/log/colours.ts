// Colours of output in both themes. Whatever a program chooses, text keeps a contrast of 4.5:1 to what is behind it.

import { RGB, type Colour, type Style } from "./ansi";

export type Theme = "light" | "dark";
type Rgb = readonly [number, number, number];

/** The ground of a log, its text, and the sixteen colours that programs name, in each theme. */
export const GROUNDS: Readonly<Record<Theme, string>> = { light: "#fbfcfd", dark: "#12161b" };
const TEXTS: Readonly<Record<Theme, string>> = { light: "#17202a", dark: "#e6ebf0" };
export const PALETTES: Readonly<Record<Theme, readonly string[]>> = {
  light: [
    "#17202a", "#b3122f", "#0f7a4f", "#8a5800", "#0b55b0", "#7a2f93", "#0b6b78", "#5b6470",
    "#626d7a", "#c8102e", "#1a7f37", "#8f5f00", "#1668d6", "#9a3ab5", "#00758a", "#3d4854",
  ],
  dark: [
    "#8792a0", "#ff6f61", "#6fd39b", "#e2b340", "#6cb0ff", "#d79bf0", "#56c8d8", "#c9d1d9",
    "#98a3b0", "#ff8f84", "#7ee2a8", "#f2c14e", "#8fc6ff", "#ffb3f0", "#7fdbe8", "#f3f6f9",
  ],
};
/** Black is a colour that texts must not have on a dark ground, but grounds may. */
const BLACK_GROUND = "#2d3742";
export const CONTRAST_MIN = 4.5;

/** Colours in each theme; null where the theme's own apply. */
export interface Colours {
  readonly text: Readonly<Record<Theme, string>>;
  readonly ground: Readonly<Record<Theme, string>> | null;
}

const known = new Map<string, Colours | null>();
/** Programs that use more different colours than this begin a new table. */
const KNOWN_MAX = 2_000;

/** The colours of a style; null for the theme's own. */
export function coloursOf(style: Style): Colours | null {
  if (style.foreground === null && style.background === null && !style.isDim && !style.isInverse) return null;
  const key = `${style.foreground},${style.background},${style.isDim},${style.isInverse}`;
  const before = known.get(key);
  if (before !== undefined) return before;
  if (known.size >= KNOWN_MAX) known.clear();
  const light = inTheme(style, "light");
  const dark = inTheme(style, "dark");
  const hasGround = style.background !== null || style.isInverse;
  const found = {
    text: { light: light.text, dark: dark.text },
    ground: hasGround ? { light: light.ground, dark: dark.ground } : null,
  };
  known.set(key, found);
  return found;
}

function inTheme(style: Style, theme: Theme): { readonly text: string; readonly ground: string } {
  const back = style.background === null ? parse(GROUNDS[theme]) : style.background === 0 && theme === "dark" ? parse(BLACK_GROUND) : rgbOf(style.background, theme);
  const front = style.foreground !== null ? rgbOf(style.foreground, theme) : style.background === null ? parse(TEXTS[theme]) : furthest(back);
  const [text, ground] = style.isInverse ? [back, front] : [front, back];
  const wanted = style.isDim ? mixed(text, ground, 0.35) : text;
  return { text: hex(readable(wanted, ground)), ground: hex(ground) };
}

/** The text of either theme that is read best on this ground. */
function furthest(ground: Rgb): Rgb {
  const [dark, light] = [parse(TEXTS.light), parse(TEXTS.dark)];
  return contrast(dark, ground) > contrast(light, ground) ? dark : light;
}

/** The nearest colour towards black or white that can be read on this ground. */
function readable(text: Rgb, ground: Rgb): Rgb {
  const end: Rgb = contrast([255, 255, 255], ground) >= contrast([0, 0, 0], ground) ? [255, 255, 255] : [0, 0, 0];
  for (let share = 0; share < 1; share += 0.1) {
    const found = mixed(text, end, share);
    if (contrast(found, ground) >= CONTRAST_MIN) return found;
  }
  return end;
}

function rgbOf(colour: Colour, theme: Theme): Rgb {
  if (colour >= RGB) return [(colour >> 16) & 255, (colour >> 8) & 255, colour & 255];
  if (colour < 16) return parse(PALETTES[theme][colour] ?? TEXTS[theme]);
  if (colour >= 232) {
    const grey = 8 + (colour - 232) * 10;
    return [grey, grey, grey];
  }
  const level = (value: number): number => (value === 0 ? 0 : 55 + value * 40);
  const cube = colour - 16;
  return [level(Math.floor(cube / 36)), level(Math.floor(cube / 6) % 6), level(cube % 6)];
}

/** The ratio of WCAG: from 1 for equal colours to 21. */
export function contrast(one: Rgb, other: Rgb): number {
  const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a) as [number, number];
  return (high + 0.05) / (low + 0.05);
}

export function parse(text: string): Rgb {
  const value = parseInt(text.slice(1), 16);
  return [(value >> 16) & 255, (value >> 8) & 255, value & 255];
}

function luminance([red, green, blue]: Rgb): number {
  const linear = (value: number): number => (value <= 10 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
}

function mixed(one: Rgb, other: Rgb, share: number): Rgb {
  return [0, 1, 2].map((index) => Math.round((one[index] ?? 0) * (1 - share) + (other[index] ?? 0) * share)) as unknown as Rgb;
}

function hex(rgb: Rgb): string {
  return `#${rgb.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}
