// Reports as the API has them, with all their rows.

import { useEffect, useState } from "preact/hooks";
import type { Report, ReportRow } from "../model/report";
import type { Problem } from "../model/shapes";
import { ApiError, get } from "./api";

/** Further rows are left out, and the table says so. */
export const ROWS_KEPT = 5_000;
/** A report of a run at work is read again so long after it was read. */
const EVERY_MS = 2_000;

interface Found {
  readonly report: Report | null;
  readonly problem: Problem | null;
}

/** The report of a job; `at` is an event of the past, or null for now. `version` changes when the report may have. */
export function useReport(run: string, job: string, at: number | null, version: number): Found & { readonly again: () => void } {
  const [found, setFound] = useState<Found>({ report: null, problem: null });
  const [tries, setTries] = useState(0);
  // The first answer is wanted at once, later ones only now and then.
  const isFirst = found.report?.job !== job || at !== null;
  useEffect(() => {
    const controller = new AbortController();
    const read = (): void => void whole(run, job, at, controller.signal).then(
      (report) => setFound({ report, problem: null }),
      (error: unknown) => {
        if (error instanceof ApiError && !controller.signal.aborted) setFound((old) => ({ ...old, problem: error.problem }));
      },
    );
    const timer = setTimeout(read, isFirst ? 0 : EVERY_MS);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [run, job, at, version, tries]);
  return { ...found, again: () => setTries(tries + 1) };
}

async function whole(run: string, job: string, at: number | null, signal: AbortSignal): Promise<Report> {
  const rows: ReportRow[] = [];
  for (let cursor: string | null = null; ; ) {
    const query = new URLSearchParams({ job, ...(at === null ? {} : { at: String(at) }), ...(cursor === null ? {} : { cursor }) });
    const page: Report = await get<Report>(`/v1/runs/${run}/report?${query.toString()}`, signal);
    rows.push(...page.rows);
    if (page.next === null || rows.length >= ROWS_KEPT) return { ...page, rows };
    cursor = page.next;
  }
}

/** Where the report is as text, as a file. */
export function textAddress(run: string, job: string, at: number | null, format: "markdown" | "csv"): string {
  const query = new URLSearchParams({ format, job, ...(at === null ? {} : { at: String(at) }) });
  return `/v1/runs/${run}/report/text?${query.toString()}`;
}
