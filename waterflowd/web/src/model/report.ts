// A report: a table with a row for each instance of a job, sorted and filtered as the reader chose.

import type { Conclusion, Reason, Status } from "./shapes";
import { stateOf } from "./states";

export type Cell = string | number | boolean;

export interface ReportRow {
  readonly job: string;
  readonly name: string;
  readonly status: Status;
  readonly conclusion: Conclusion | null;
  readonly reason: Reason;
  /** By column; null until the job has ended, and if none of its steps ran. */
  readonly values: Readonly<Record<string, Cell>> | null;
  readonly note: string;
}

export interface Report {
  readonly job: string;
  readonly title: string;
  readonly columns: readonly string[];
  readonly rows_of: "server" | "instance";
  readonly rows_total: number;
  readonly rows: readonly ReportRow[];
  readonly next: string | null;
}

/** The index of a column: 0 is the name, 1 the result, then the columns of the report, then the note. */
export interface Order {
  readonly column: number;
  readonly isDescending: boolean;
}

/** `3` and `-3` in the address; null for the order of the instances, and for columns that do not exist. */
export function orderOf(text: string | null, columns: number): Order | null {
  const found = /^(-?)(\d{1,2})$/.exec(text ?? "");
  const column = Number(found?.[2] ?? -1);
  return found === null || column >= columns ? null : { column, isDescending: found[1] === "-" };
}

/** What a click on a heading asks for: ascending, descending, the order of the instances. */
export function nextOrder(order: Order | null, column: number): string | null {
  if (order?.column !== column) return String(column);
  return order.isDescending ? null : `-${column}`;
}

export function textOf(cell: Cell | undefined): string {
  return cell === undefined ? "" : String(cell);
}

/** The texts of a row, in the order of the headings. */
export function cellsOf(row: ReportRow, columns: readonly string[]): readonly string[] {
  return [row.name, stateOf(row), ...columns.map((name) => textOf(row.values?.[name])), row.note];
}

const collator = new Intl.Collator("en", { numeric: true });
const NUMBER = /^[+-]?\d+(\.\d+)?/;

/** Numbers by their value, also with a unit behind them; other texts with the numbers in them by value. */
export function compared(a: string, b: string): number {
  const [left, right] = [NUMBER.exec(a), NUMBER.exec(b)];
  const byValue = left !== null && right !== null ? Number(left[0]) - Number(right[0]) : 0;
  return byValue !== 0 ? byValue : collator.compare(a, b);
}

/** The rows to show: those that contain the text, or only those that did not succeed; what is missing comes last. */
export function chosenRows(report: Report, order: Order | null, text: string, onlyBad: boolean): readonly ReportRow[] {
  const wanted = text.toLowerCase();
  const found = report.rows.filter((row) => (!onlyBad || isNotable(row)) && (wanted === "" || cellsOf(row, report.columns).some((cell) => cell.toLowerCase().includes(wanted))));
  if (order === null) return found;
  const keyed = found.map((row) => [cellsOf(row, report.columns)[order.column] ?? "", row] as const);
  const sign = order.isDescending ? -1 : 1;
  keyed.sort(([a], [b]) => (a === "" || b === "" ? Number(a === "") - Number(b === "") : sign * compared(a, b)));
  return keyed.map(([, row]) => row);
}

/** Whether the row has failed, was left out, or lacks values. */
export function isNotable(row: ReportRow): boolean {
  return row.note !== "" && row.status === "completed";
}
