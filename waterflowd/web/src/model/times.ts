// Times and durations as text. Every function takes the present as an argument.

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** Milliseconds since 1970 of a time of the API; null without one. */
export function instant(text: string | null): number | null {
  if (text === null) return null;
  const found = Date.parse(text);
  return Number.isNaN(found) ? null : found;
}

/** `850ms`, `9.7s`, `3m12s`, `2h05m`, `4d3h`: at most two units. */
export function duration(ms: number): string {
  const left = Math.max(0, ms);
  if (left < SECOND) return `${Math.round(left)}ms`;
  if (left < 59_950) return left < 9_950 ? `${(left / SECOND).toFixed(1)}s` : `${Math.round(left / SECOND)}s`;
  const seconds = Math.round(left / SECOND);
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`;
  const minutes = Math.round(left / MINUTE);
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)}h${two(minutes % 60)}m`;
  return `${Math.floor(left / DAY)}d${Math.floor((left % DAY) / HOUR)}h`;
}

/** A duration on an axis, where whole units are usual: `5m`, `1h30m`. */
export function mark(ms: number): string {
  return duration(ms).replace(/(m|h)00[sm]$/, "$1").replace(/\.0s$/, "s");
}

/** How long ago, or how far ahead: `now`, `12 s ago`, `in 5 min`, `3 d ago`. */
export function relative(at: number, now: number): string {
  const ms = now - at;
  const size = Math.abs(ms);
  if (size < 2 * SECOND) return "now";
  const text =
    size < MINUTE ? `${Math.floor(size / SECOND)} s`
    : size < HOUR ? `${Math.floor(size / MINUTE)} min`
    : size < DAY ? `${Math.floor(size / HOUR)} h`
    : `${Math.floor(size / DAY)} d`;
  return ms >= 0 ? `${text} ago` : `in ${text}`;
}

/** The time with date and zone, in the zone of the browser: `2026-03-01 14:08:20 +01:00`. */
export function absolute(at: number): string {
  const date = new Date(at);
  const minutes = -date.getTimezoneOffset();
  const zone = `${minutes < 0 ? "-" : "+"}${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
  return `${day(date)} ${clock(at)} ${zone}`;
}

/** `14:08:20`. */
export function clock(at: number): string {
  const date = new Date(at);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** A short absolute time: the clock for today, the date for any other day. */
export function short(at: number, now: number): string {
  const date = new Date(at);
  return day(date) === day(new Date(now)) ? clock(at) : `${day(date)} ${clock(at).slice(0, 5)}`;
}

/** How long something has taken so far, or took; null before it began. */
export function elapsed(from: string | null, to: string | null, now: number): number | null {
  const began = instant(from);
  return began === null ? null : Math.max(0, (instant(to) ?? now) - began);
}

/** Marks for an axis of so many milliseconds: at most `most` of them, at round intervals from its start. */
export function ticks(spanMs: number, most: number): readonly number[] {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500].concat(
    [1, 2, 5, 10, 15, 30].map((s) => s * SECOND),
    [1, 2, 5, 10, 15, 30].map((m) => m * MINUTE),
    [1, 2, 3, 6, 12].map((h) => h * HOUR),
    [1, 2, 7, 14, 30, 90, 365].map((d) => d * DAY),
  );
  const step = steps.find((size) => spanMs / size <= most) ?? spanMs;
  if (!(step > 0)) return [0];
  return Array.from({ length: Math.floor(spanMs / step) + 1 }, (_, index) => index * step);
}

function day(date: Date): string {
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

function two(value: number): string {
  return String(value).padStart(2, "0");
}
