// The report of a job as a table: sorted by clicking headings, filtered, and saved as Markdown or CSV.

import type { JSX } from "preact";
import { send } from "../live/api";
import { density } from "../live/choices";
import { ROWS_KEPT, textAddress, useReport } from "../live/report";
import { place, view } from "../live/router";
import { visible } from "../model/lines";
import { cellsOf, chosenRows, isNotable, nextOrder, orderOf, type Order, type ReportRow } from "../model/report";
import type { Run } from "../model/shapes";
import { stateOf } from "../model/states";
import { copy } from "../parts/copy";
import { Glyph } from "../parts/glyph";
import { Empty, ProblemNote, Waiting } from "../parts/problem";
import { say } from "../parts/status_line";
import { VirtualRows } from "../parts/virtual";
import { texts } from "../texts";

const words = texts.report;
const ROW_PX = { compact: 28, comfortable: 36 } as const;

interface Properties {
  readonly run: Run;
  /** Position of the newest event, and of the past one that is shown. */
  readonly seq: number;
  readonly at: number | null;
}

export function ReportView({ run, seq, at }: Properties): JSX.Element {
  const { query } = place.value;
  const wanted = query.get("report");
  const job = run.reports.find((name) => name === wanted) ?? run.reports[0] ?? "";
  const { report, problem, again } = useReport(run.id, job, at, seq);
  if (report === null || report.job !== job) return problem === null ? <Waiting rows={8} /> : <ProblemNote problem={problem} again={again} />;
  const headings = [words.subjects[report.rows_of], words.result, ...report.columns, words.note];
  const order = orderOf(query.get("sort"), headings.length);
  const onlyBad = query.has("notable");
  const rows = chosenRows(report, order, query.get("find") ?? "", onlyBad);
  const bad = report.rows.filter(isNotable).length;
  return (
    <section class="report panel" aria-label={visible(report.title)}>
      <header>
        {run.reports.length > 1 ? (
          <label class="choice"><span>{words.job}</span><select value={job} onChange={(event) => view({ report: event.currentTarget.value, sort: null })}>{run.reports.map((name) => <option key={name} value={name}>{visible(name)}</option>)}</select></label>
        ) : <b>{visible(report.title)}</b>}
        <input type="text" aria-label={words.find} placeholder={words.find} value={query.get("find") ?? ""} spellcheck={false} onInput={(event) => view({ find: event.currentTarget.value })} />
        <button type="button" class="small" aria-pressed={onlyBad} onClick={() => view({ notable: onlyBad ? null : "1" })}>{words.notable} <span class="num">{bad}</span></button>
        <span class="report-files">
          <button type="button" class="small" onClick={() => void copyMarkdown(textAddress(run.id, job, at, "markdown"))}>{words.copy}</button>
          <a href={textAddress(run.id, job, at, "markdown")} download>{words.markdown}</a>
          <a href={textAddress(run.id, job, at, "csv")} download>{words.csv}</a>
        </span>
      </header>
      {problem && <ProblemNote problem={problem} again={again} />}
      {report.rows.length === 0 ? <Empty><p>{words.none}</p></Empty> : rows.length === 0 && <p class="quiet-line">{words.noneChosen}</p>}
      <VirtualRows
        total={rows.length} rowPx={ROW_PX[density.value]} focused={-1}
        attributes={{ role: "grid", "aria-label": visible(report.title), "aria-rowcount": rows.length + 1, "aria-colcount": headings.length, class: "report-rows", tabIndex: 0, style: { "--columns": String(report.columns.length) } }}
        head={<>{headings.map((name, index) => <Heading key={name} name={name} column={index} order={order} />)}</>}
        render={(index) => {
          const row = rows[index];
          return row ? <Row key={row.job} row={row} index={index} columns={report.columns} /> : <div key={index} />;
        }}
      />
      {report.next !== null && <p class="quiet-line">{words.cut(ROWS_KEPT, report.rows_total)}</p>}
    </section>
  );
}

function Heading({ name, column, order }: { readonly name: string; readonly column: number; readonly order: Order | null }): JSX.Element {
  const isSorted = order?.column === column;
  return (
    <span role="columnheader" aria-sort={isSorted ? (order.isDescending ? "descending" : "ascending") : "none"}>
      <button type="button" onClick={() => view({ sort: nextOrder(order, column) })}>{visible(name)}{isSorted && <i aria-hidden="true">{order.isDescending ? " ↓" : " ↑"}</i>}</button>
    </span>
  );
}

function Row({ row, index, columns }: { readonly row: ReportRow; readonly index: number; readonly columns: readonly string[] }): JSX.Element {
  const [name = "", , ...cells] = cellsOf(row, columns);
  const state = stateOf(row);
  return (
    <div role="row" aria-rowindex={index + 2} class="row">
      <span role="rowheader"><a href={`?place=${encodeURIComponent(row.job)}`} onClick={(event) => { event.preventDefault(); view({ place: row.job, view: null }, "push"); }}>{visible(name)}</a></span>
      <span role="gridcell" class={`word-${state}`}><Glyph state={state} isSilent /> {texts.states[state]}</span>
      {cells.map((cell, column) => <span key={column} role="gridcell" title={visible(cell)}>{cell === "" && column < columns.length ? <span class="missing">–</span> : visible(cell)}</span>)}
    </div>
  );
}

async function copyMarkdown(address: string): Promise<void> {
  const answer = await send("GET", address);
  if (await copy(await answer.text())) say(texts.copied);
}
