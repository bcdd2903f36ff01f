// What differs from the last good run of the workflow, or from another one.

import type { ComponentChildren, JSX } from "preact";
import { useQuery } from "../live/query";
import { place, view } from "../live/router";
import { visible } from "../model/lines";
import type { Conclusion, RunSummary } from "../model/shapes";
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

interface Diff {
  readonly against: RunSummary;
  readonly commits: readonly { readonly id: string; readonly author: string; readonly subject: string }[] | null;
  readonly more_commits: boolean;
  readonly file: string | null;
  readonly inputs: readonly Value[] | null;
  readonly vars: readonly Value[] | null;
  readonly servers: { readonly added: readonly string[]; readonly gone: readonly string[] } | null;
  readonly steps: readonly { readonly place: string; readonly before_ms: number | null; readonly after_ms: number | null; readonly before: Conclusion | null; readonly after: Conclusion | null }[] | null;
  readonly log: { readonly place: string; readonly line: number; readonly before: string | null; readonly after: string | null } | null;
  readonly unknown: Readonly<Record<string, string>>;
}

export function Compare({ run }: { readonly run: string }): JSX.Element {
  const against = place.value.query.get("against") ?? "good";
  const query = useQuery<Diff>(`/v1/runs/${run}/diff?against=${encodeURIComponent(against)}`);
  const diff = query.value.value;
  const problem = query.problem.value;
  if (problem !== null) return problem.status === 404 ? <Empty><p>{visible(problem.detail)}</p></Empty> : <ProblemNote problem={problem} again={query.again} />;
  if (diff === null) return <Waiting rows={6} />;
  const values = (list: readonly Value[] | null): ComponentChildren =>
    list?.map((value) => <li key={value.name}><b>{visible(value.name)}</b> <Changed before={textOf(value.before)} after={textOf(value.after)} /></li>);
  const servers = diff.servers === null ? null : [...diff.servers.added.map((name) => ({ name, sign: words.added })), ...diff.servers.gone.map((name) => ({ name, sign: words.gone }))];
  const parts: readonly (readonly [name: string, key: string, count: number | null, content: ComponentChildren])[] = [
    [words.commits, "commits", diff.commits?.length ?? null, diff.commits?.map((commit) => <li key={commit.id}><span class="mono">{shortRevision(commit.id)}</span> {visible(commit.subject)} <small>{visible(commit.author)}</small></li>)],
    [words.inputs, "inputs", diff.inputs?.length ?? null, values(diff.inputs)],
    [words.vars, "vars", diff.vars?.length ?? null, values(diff.vars)],
    [words.servers, "servers", servers?.length ?? null, servers?.map(({ name, sign }) => <li key={`${sign} ${name}`}>{sign}: <b>{visible(name)}</b></li>)],
    [words.steps, "steps", diff.steps?.length ?? null, diff.steps?.map((step) => (
      <li key={step.place}><a class="mono" href={`?place=${encodeURIComponent(step.place)}`} onClick={(event) => { event.preventDefault(); view({ place: step.place, view: null }); }}>{visible(step.place)}</a> <Changed before={resultOf(step.before, step.before_ms)} after={resultOf(step.after, step.after_ms)} /></li>
    ))],
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

function Changed({ before, after }: { readonly before: string; readonly after: string }): JSX.Element {
  return <span class="changed"><del>{visible(before)}</del> → <ins>{visible(after)}</ins></span>;
}

function DiffLine({ line }: { readonly line: string }): JSX.Element {
  const text = `${visible(line)}\n`;
  return line.startsWith("+") ? <ins>{text}</ins> : line.startsWith("-") ? <del>{text}</del> : <span>{text}</span>;
}

const textOf = (value: unknown): string => (value === null || value === undefined ? words.nothing : typeof value === "string" ? value : JSON.stringify(value));

function resultOf(conclusion: Conclusion | null, ms: number | null): string {
  return [conclusion === null ? words.notRun : texts.states[conclusion], ms === null ? "" : duration(ms)].filter(Boolean).join(", ");
}
