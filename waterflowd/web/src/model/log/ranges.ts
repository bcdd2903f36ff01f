// Lines in an address: `#L12`, `#L12-30`; and the address of an output.

export interface LineRange {
  readonly first: number;
  readonly last: number;
}

export interface OutputAddress {
  readonly run: string;
  readonly job: string;
  readonly step: string;
  readonly attempt: number;
}

/** The lines that a fragment names; null for any other fragment. */
export function rangeOf(fragment: string): LineRange | null {
  const match = /^#?L(\d{1,12})(?:-L?(\d{1,12}))?$/.exec(fragment);
  if (!match) return null;
  const one = Number(match[1]);
  const other = Number(match[2] ?? match[1]);
  return one < 1 || other < 1 ? null : { first: Math.min(one, other), last: Math.max(one, other) };
}

export function fragmentOf({ first, last }: LineRange): string {
  return first === last ? `#L${first}` : `#L${first}-${last}`;
}

/** The range from the first line that was chosen to another one. */
export function extended(range: LineRange | null, line: number): LineRange {
  if (range === null) return { first: line, last: line };
  return line < range.first ? { first: line, last: range.last } : { first: range.first, last: line };
}

/** The page of an output; without a step, that of everything below the job. */
export function pathOf(address: { readonly run: string; readonly job: string; readonly step?: string; readonly attempt?: number }): string {
  const parts = [address.job, address.step, address.attempt?.toString()].filter((part): part is string => part !== undefined);
  return `/runs/${encodeURIComponent(address.run)}/log/${parts.map(encodeURIComponent).join("/")}`;
}

/** What `pathOf` named; null for any other path. */
export function addressOf(path: string): { readonly run: string; readonly job: string; readonly step: string | null; readonly attempt: number | null } | null {
  const match = /^\/runs\/([^/]+)\/log\/([^/]+)(?:\/([^/]+)(?:\/(\d{1,6}))?)?$/.exec(path);
  if (!match) return null;
  try {
    const [, run, job, step, attempt] = match.map((part) => (part === undefined ? undefined : decodeURIComponent(part)));
    return { run: run ?? "", job: job ?? "", step: step ?? null, attempt: attempt === undefined ? null : Number(attempt) };
  } catch {
    return null;
  }
}
