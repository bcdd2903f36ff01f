// Numbers of bytes and times of lines, as people read them.

import { clock } from "../times";

const UNITS = ["bytes", "KiB", "MiB", "GiB"] as const;

/** `1 byte`, `812 bytes`, `18.2 MiB`. */
export function bytesText(bytes: number): string {
  if (bytes === 1) return "1 byte";
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

export type Times = "off" | "start" | "clock";
export const TIMES: readonly Times[] = ["off", "start", "clock"];

/** The time of a line in the column for it: since the start with tenths, or on the clock. */
export function lineTime(at: number | null, startedAt: number | null, times: Times): string {
  if (times === "off" || at === null) return "";
  if (times === "clock") return clock(at);
  return sinceStart(Math.max(0, at - (startedAt ?? at)));
}

/** `0.4s`, `12.3s`, `3:05.2`, `2:03:05`. */
function sinceStart(ms: number): string {
  const tenths = Math.floor(ms / 100);
  const seconds = Math.floor(tenths / 10);
  if (seconds < 60) return `${seconds}.${tenths % 10}s`;
  const two = (value: number): string => String(value).padStart(2, "0");
  if (seconds < 3600) return `${Math.floor(seconds / 60)}:${two(seconds % 60)}.${tenths % 10}`;
  return `${Math.floor(seconds / 3600)}:${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}
