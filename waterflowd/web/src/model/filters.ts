// The filters of the list of runs: as an address, as a query of the API, and as words that somebody types.

export const KEYS = ["status", "name", "text", "repository", "by", "trigger", "revision", "group", "server", "since", "until"] as const;
export type Key = (typeof KEYS)[number];
export type Filters = Readonly<Partial<Record<Key, string>>>;

/** Periods for `since`, with their length in milliseconds. */
const PERIODS: Readonly<Record<string, number>> = { h: 3_600_000, d: 86_400_000, w: 7 * 86_400_000 };

/** The filters of an address; unknown parts of it are left alone. */
export function fromQuery(query: URLSearchParams): Filters {
  const found: Partial<Record<Key, string>> = {};
  for (const key of KEYS) {
    const value = query.get(key)?.trim();
    if (value) found[key] = value;
  }
  return found;
}

/** The filters as the query of an address, always in the same order. */
export function toQuery(filters: Filters): string {
  const query = new URLSearchParams();
  for (const key of KEYS) {
    const value = filters[key];
    if (value) query.set(key, value);
  }
  return query.toString();
}

/** The same for the API, where `since` is an instant. */
export function toRequest(filters: Filters, now: number): URLSearchParams {
  const query = new URLSearchParams(toQuery(filters));
  for (const key of ["since", "until"] as const) {
    const ago = period(filters[key] ?? "");
    if (ago !== null) query.set(key, String(now - ago));
  }
  return query;
}

/** Milliseconds of `24h`, `7d` or `2w`; null for anything else. */
export function period(text: string): number | null {
  const match = /^(\d{1,4})([hdw])$/.exec(text);
  if (!match) return null;
  return Number(match[1]) * (PERIODS[match[2] ?? ""] ?? 0);
}

/** Filters in typed text: `status:failure name:deploy`; words without a key are a part of a workflow's name or path. */
export function fromText(text: string): Filters {
  const found: Partial<Record<Key, string>> = {};
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const [key, ...rest] = word.split(":");
    const value = rest.join(":");
    if (isKey(key) && value) found[key] = value;
    else found.text = found.text === undefined ? word : `${found.text} ${word}`;
  }
  return found;
}

/** The filters as text that `fromText` reads. */
export function toText(filters: Filters): string {
  return KEYS.flatMap((key) => (filters[key] ? [key === "text" ? filters[key] : `${key}:${filters[key]}`] : [])).join(" ");
}

function isKey(word: string | undefined): word is Key {
  return (KEYS as readonly string[]).includes(word ?? "");
}
