// What differs from the last good run of the workflow, or from another one.

import type { ComponentChildren, JSX } from "preact";
import { useQuery } from "../live/query";
import { place, view } from "../live/router";
import { visible } from "../model/lines";
import { bytesText } from "../model/log/sizes";
import type { Conclusion, RunList, RunSummary } from "../model/shapes";
import { duration } from "../model/times";
import { Empty, ProblemNote, Waiting } from "../parts/problem";
import { RunName, shortRevision } from "../parts/run_line";
import { Time } from "../parts/time";
import { texts } from "../texts";

const words = texts.compare;

interface Value {
  readonly name: string;
  readonly before: unknown;
  readonly after: unknown;
}

interface Names {
  readonly added: readonly string[];
  readonly gone: readonly string[];
}

interface ChangedReport {
  readonly job: string;
  readonly columns: Names;
  readonly rows: Names;
  readonly cells: readonly { readonly row: string; readonly column: string; readonly before: unknown; readonly after: unknown }[];
  readonly cells_total: number;
}

interface ArtifactState {
  readonly files: number;
  readonly bytes: number;
  readonly digest: string;
  readonly is_removed: boolean;
}

interface ChangedArtifact {
  readonly name: string;
  readonly before: ArtifactState | null;
  readonly after: ArtifactState | null;
  readonly files: readonly { readonly path: string; readonly before: number | null; readonly after: number | null }[] | null;
  readonly files_total: number;
}

interface Diff {
  readonly against: RunSummary;
  readonly commits: readonly { readonly id: string; readonly author: string; readonly subject: string }[] | null;
  readonly more_commits: boolean;
  readonly file: string | null;
  readonly inputs: readonly Value[] | null;
  readonly vars: readonly Value[] | null;
  readonly servers: Names | null;
  readonly steps: readonly { readonly place: string; readonly before_ms: number | null; readonly after_ms: number | null; readonly before: Conclusion | null; readonly after: Conclusion | null }[] | null;
  readonly reports: readonly ChangedReport[] | null;
  readonly artifacts: readonly ChangedArtifact[] | null;
  readonly log: { readonly place: string; readonly line: number; readonly before: string | null; readonly after: string | null } | null;
  readonly unknown: Readonly<Record<string, string>>;
}

/** Other runs of the workflow that can be chosen. */
const OTHERS = 20;

export function Compare({ run }: { readonly run: RunSummary }): JSX.Element {
  const against = place.value.query.get("against");
  return <><OtherRun run={run} chosen={against} /><Differences run={run.id} against={against ?? "good"} /></>;
}

function OtherRun({ run, chosen }: { readonly run: RunSummary; readonly chosen: string | null }): JSX.Element {
  const repository = run.repository === null ? "" : `&repository=${encodeURIComponent(run.repository)}`;
  const found = useQuery<RunList>(`/v1/runs?limit=${OTHERS + 1}&name=${encodeURIComponent(run.name)}${repository}`).value.value;
  const others = (found?.runs ?? []).filter((other) => other.id !== run.id && other.path === run.path).slice(0, OTHERS);
  return (
    <form class="filters" onSubmit={(submitted) => submitted.preventDefault()}>
      <label class={`choice ${chosen === null ? "" : "chosen"}`}>
        <span>{words.with}</span>
        <select value={chosen ?? ""} onChange={(changed) => view({ against: changed.currentTarget.value }, "push")}>
          <option value="">{words.lastGood}</option>
          {chosen !== null && !others.some((other) => other.id === chosen) && <option value={chosen}>{chosen}</option>}
          {others.map((other) => <option key={other.id} value={other.id}>#{other.number}, {other.conclusion ?? other.status}</option>)}
        </select>
      </label>
    </form>
  );
}

function Differences({ run, against }: { readonly run: string; readonly against: string }): JSX.Element {
  const query = useQuery<Diff>(`/v1/runs/${run}/diff?against=${encodeURIComponent(against)}`);
  const diff = query.value.value;
  const problem = query.problem.value;
  if (problem !== null) return problem.status === 404 ? <Empty><p>{visible(problem.detail)}</p></Empty> : <ProblemNote problem={problem} again={query.again} />;
  if (diff === null) return <Waiting rows={6} />;
  const values = (list: readonly Value[] | null): ComponentChildren =>
    list?.map((value) => <li key={value.name}><b>{visible(value.name)}</b> <Changed before={textOf(value.before)} after={textOf(value.after)} /></li>);
  const servers = diff.servers === null ? null : signed(diff.servers);
  const parts: readonly (readonly [name: string, key: string, count: number | null, content: ComponentChildren])[] = [
    [words.commits, "commits", diff.commits?.length ?? null, diff.commits?.map((commit) => <li key={commit.id}><span class="mono">{shortRevision(commit.id)}</span> {visible(commit.subject)} <small>{visible(commit.author)}</small></li>)],
    [words.inputs, "inputs", diff.inputs?.length ?? null, values(diff.inputs)],
    [words.vars, "vars", diff.vars?.length ?? null, values(diff.vars)],
    [words.servers, "servers", servers?.length ?? null, servers?.map(({ name, sign }) => <li key={`${sign} ${name}`}>{sign}: <b>{visible(name)}</b></li>)],
    [words.steps, "steps", diff.steps?.length ?? null, diff.steps?.map((step) => (
      <li key={step.place}><a class="mono" href={`?place=${encodeURIComponent(step.place)}`} onClick={(event) => { event.preventDefault(); view({ place: step.place, view: null }); }}>{visible(step.place)}</a> <Changed before={resultOf(step.before, step.before_ms)} after={resultOf(step.after, step.after_ms)} /></li>
    ))],
    [words.reports, "reports", diff.reports?.length ?? null, diff.reports?.map((report) => <ReportChange key={report.job} report={report} />)],
    [words.artifacts, "artifacts", diff.artifacts?.length ?? null, diff.artifacts?.map((artifact) => <ArtifactChange key={artifact.name} artifact={artifact} />)],
  ];
  const same = parts.filter(([, key, count]) => count === 0 && diff.unknown[key] === undefined).map(([name]) => name).concat(diff.file === "" ? [words.file] : []);
  return (
    <section class="compare" aria-label={words.title}>
      <p>{words.against} <RunName run={diff.against} /> · <Time at={diff.against.created_at} /></p>
      {diff.log !== null && (
        <section class="panel" aria-label={words.log}>
          <h2>{words.log} <span class="mono">{visible(diff.log.place)}</span> {words.line(diff.log.line)}</h2>
          <pre class="mono diff"><del>- {visible(diff.log.before ?? "")}</del>{"\n"}<ins>+ {visible(diff.log.after ?? "")}</ins></pre>
        </section>
      )}
      {parts.map(([name, key, count, content]) => count !== null && count > 0 && (
        <section key={key} class="panel" aria-label={name}><h2>{name}<span class="count">{count}{key === "commits" && diff.more_commits && "+"}</span></h2><ul class="items">{content}</ul></section>
      ))}
      {diff.file && <section class="panel" aria-label={words.file}><h2>{words.file}</h2><pre class="mono diff">{diff.file.split("\n").map((line, index) => <DiffLine key={index} line={line} />)}</pre></section>}
      {same.length > 0 && <p class="quiet-line">{words.same(same.join(", "))}</p>}
      {Object.entries(diff.unknown).map(([name, text]) => <p key={name} class="hint">{visible(text)}</p>)}
    </section>
  );
}

function ReportChange({ report }: { readonly report: ChangedReport }): JSX.Element {
  const more = report.cells_total - report.cells.length;
  const names = [...signed(report.columns).map((name) => ({ ...name, what: words.column })), ...signed(report.rows).map((name) => ({ ...name, what: words.row }))];
  return (
    <li>
      <b class="mono">{visible(report.job)}</b>
      <ul class="items">
        {names.map(({ what, name, sign }) => <li key={`${what} ${sign} ${name}`}>{what} {sign}: <b>{visible(name)}</b></li>)}
        {report.cells.map((cell) => <li key={`${cell.row} ${cell.column}`}>{visible(cell.row)}, <b>{visible(cell.column)}</b> <Changed before={textOf(cell.before)} after={textOf(cell.after)} /></li>)}
        {more > 0 && <li>{words.moreValues(more)}</li>}
      </ul>
    </li>
  );
}

function ArtifactChange({ artifact }: { readonly artifact: ChangedArtifact }): JSX.Element {
  const { before, after, files } = artifact;
  const more = artifact.files_total - (files?.length ?? 0);
  return (
    <li>
      <b>{visible(artifact.name)}</b> <Changed before={stateOf(before)} after={stateOf(after)} />
      {before !== null && after !== null && (
        <ul class="items">
          {files?.map((file) => <li key={file.path}><span class="mono">{visible(file.path)}</span> <Changed before={sizeOf(file.before)} after={sizeOf(file.after)} /></li>)}
          {files === null && <li>{words.notCompared}</li>}
          {files !== null && artifact.files_total === 0 && <li>{words.sameFiles}</li>}
          {more > 0 && <li>{words.moreFiles(more)}</li>}
        </ul>
      )}
    </li>
  );
}

function Changed({ before, after }: { readonly before: string; readonly after: string }): JSX.Element {
  return <span class="changed"><del>{visible(before)}</del> → <ins>{visible(after)}</ins></span>;
}

function DiffLine({ line }: { readonly line: string }): JSX.Element {
  const text = `${visible(line)}\n`;
  return line.startsWith("+") ? <ins>{text}</ins> : line.startsWith("-") ? <del>{text}</del> : <span>{text}</span>;
}

const textOf = (value: unknown): string => (value === null || value === undefined ? words.nothing : typeof value === "string" ? value : JSON.stringify(value));

const signed = (names: Names): { readonly name: string; readonly sign: string }[] => [...names.added.map((name) => ({ name, sign: words.added })), ...names.gone.map((name) => ({ name, sign: words.gone }))];

const sizeOf = (bytes: number | null): string => (bytes === null ? words.nothing : bytesText(bytes));

function stateOf(state: ArtifactState | null): string {
  if (state === null) return words.nothing;
  return [texts.artifacts.files(state.files), bytesText(state.bytes), state.digest.slice("sha256:".length, "sha256:".length + 12), state.is_removed ? words.removed : ""].filter(Boolean).join(", ");
}

function resultOf(conclusion: Conclusion | null, ms: number | null): string {
  return [conclusion === null ? words.notRun : texts.states[conclusion], ms === null ? "" : duration(ms)].filter(Boolean).join(", ");
}
