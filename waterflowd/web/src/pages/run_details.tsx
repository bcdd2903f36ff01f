// The details of what is selected: why it is so, where, its attempts, values and output.

import { useEffect, useState } from "preact/hooks";
import type { ComponentChildren, JSX } from "preact";
import { useQuery } from "../live/query";
import { view } from "../live/router";
import { visible } from "../model/lines";
import { markedLine } from "../model/log/marks";
import { pathOf } from "../model/log/ranges";
import { stepOf, type Part } from "../model/parts";
import type { Approval, Attempt, Run, Step } from "../model/shapes";
import { isActive, stateOfAttempt } from "../model/states";
import { ActionButton, DecisionDialog, obstacle, RerunDialog } from "../parts/actions";
import { copy } from "../parts/copy";
import { Glyph } from "../parts/glyph";
import { ProblemNote } from "../parts/problem";
import { say } from "../parts/status_line";
import { Time, Took } from "../parts/time";
import { texts } from "../texts";
import { AttemptLog } from "./log";
import { nameOf } from "./run_tree";
import { Values } from "./run_views";
import { Why } from "./run_why";

const words = texts.run;

interface Properties {
  readonly run: Run;
  readonly part: Part;
  /** The event up to which the part was seen to change. */
  readonly version: number;
  /** The event after which the part is shown; null for now. */
  readonly at: number | null;
  readonly isPast: boolean;
  /** The newest event of the run. */
  readonly seq: number;
}

export function Details({ run, part, version, at, isPast, seq }: Properties): JSX.Element {
  const query = useQuery<Run>(part.node === null ? null : `/v1/runs/${run.id}?part=${encodeURIComponent(part.place)}${at === null ? "" : `&at=${at}`}`);
  const found = query.value.value;
  useEffect(() => {
    if (found !== null && at === null && version > found.seq) query.again();
  }, [version, found?.seq]);
  // What belongs to another instant is not shown while the slider moves.
  const job = isPast && found?.seq !== at ? null : (found?.jobs[0] ?? null);
  const step = job?.steps[0] ?? null;
  const approval = (part.kind === "step" ? step?.approval : job?.approval) ?? null;
  const reason = (part.kind === "step" ? step?.reason : part.kind === "job" ? job?.reason : null) ?? part.reason;
  const needs = part.kind === "job" ? (part.node?.needs ?? []) : [];
  return (
    <aside class="details panel" aria-label={words.details}>
      <header>
        <h2><Glyph state={part.state} isSilent /> {visible(nameOf(part))} <span class={`word-${part.state}`}>{texts.states[part.state]}</span></h2>
        <p class="mono place">{visible(part.place)}</p>
      </header>
      {query.problem.value && (isPast && query.problem.value.status === 404 ? <p class="quiet-line">{texts.slider.notYet}</p> : <ProblemNote problem={query.problem.value} again={query.again} />)}
      <dl class="facts">
        {reason && <Fact name={words.why}>{visible(reason.text)}</Fact>}
        {job && <Fact name={words.where}>{visible(job.agent ?? `${job.group} · ${words.noServer}`)}</Fact>}
        {part.from !== null && <Fact name={words.took}><Took from={new Date(part.from).toISOString()} to={part.to === null ? null : new Date(part.to).toISOString()} /> <small><Time at={new Date(part.from).toISOString()} /></small></Fact>}
        {part.node?.node && <Fact name={words.node}><code>{visible(part.node.node)}</code></Fact>}
        {step?.exit_code !== null && step?.exit_code !== undefined && <Fact name={words.exitCode}><span class="num">{step.exit_code}</span></Fact>}
        {needs.length > 0 && <Fact name={words.needs}>{needs.map((need) => <a key={need} class="mono" href={`?place=${encodeURIComponent(need)}`} onClick={(event) => { event.preventDefault(); view({ place: need }); }}>{visible(need)}</a>)}</Fact>}
        {approval && <ApprovalFact approval={approval} />}
      </dl>
      {!isPast && part.node !== null && isActive(part.state) && <Why run={run.id} place={part.place} seq={seq} />}
      <PartActions run={run} part={part} after={at} isPast={isPast} />
      {step && step.attempts.length > 0 && <Attempts attempts={step.attempts} />}
      {part.kind === "step" && step && <MarkedLines lines={step.attempts.at(-1)?.annotations ?? []} />}
      {part.kind === "step" && step && <StepSummary text={step.attempts.at(-1)?.summary ?? ""} />}
      {!isPast && part.kind === "step" && job !== null && step !== null && <StepOutput run={run.id} job={job.id} step={step} />}
      {part.kind === "job" && part.from !== null && <p><a href={pathOf({ run: run.id, job: part.place })}>{words.jobOutput}</a></p>}
      <PartValues title={words.outputs} values={(part.kind === "step" ? step?.outputs : job?.outputs) ?? {}} />
    </aside>
  );
}

function Fact({ name, children }: { readonly name: string; readonly children: ComponentChildren }): JSX.Element {
  return <><dt>{name}</dt><dd>{children}</dd></>;
}

function ApprovalFact({ approval }: { readonly approval: Approval }): JSX.Element {
  const names = approval.approvers.length > 0 ? approval.approvers.map(visible).join(", ") : words.everyone;
  return (
    <Fact name={words.approval}>
      {approval.environment && <b>{visible(approval.environment)}: </b>}{words.approvers(names, approval.minimum)}
      {approval.approved_by.length > 0 && <>; {words.approvedBy(approval.approved_by.map(visible).join(", "))}</>}
      {approval.due_at !== null && <> · <Time at={approval.due_at} />{approval.default && words.dueThen(approval.default)}</>}
    </Fact>
  );
}

interface ActionProperties {
  readonly run: Run;
  readonly part: Part;
  /** The event that is shown; null for now. */
  readonly after: number | null;
  readonly isPast: boolean;
}

function PartActions({ run, part, after, isPast }: ActionProperties): JSX.Element | null {
  const [asked, setAsked] = useState<"approve" | "reject" | "rerun" | null>(null);
  const pending = isPast ? undefined : run.approvals.find((found) => found.job === part.job && (part.kind === "step" ? found.step === stepOf(part) : part.kind === "job" && found.step === null));
  const from = part.kind === "step" || (part.kind === "job" && part.node?.parent === undefined) ? part.place : null;
  const close = (): void => setAsked(null);
  return (
    <div class="part-actions">
      {pending && <ActionButton action="approve" isPrimary obstacle={obstacle("approve", run, 1)} onPress={() => setAsked("approve")} />}
      {pending && <ActionButton action="reject" obstacle={obstacle("reject", run, 1)} onPress={() => setAsked("reject")} />}
      {(from !== null || isPast) && run.status === "completed" && (
        <button type="button" class="small" aria-disabled={obstacle("rerun", run, 0) !== null} title={obstacle("rerun", run, 0) ?? undefined} onClick={() => obstacle("rerun", run, 0) === null && setAsked("rerun")}>{words.rerunFrom}</button>
      )}
      <button type="button" class="small" onClick={() => void copy(location.href).then((isCopied) => isCopied && say(texts.copied))}>{words.copyLink}</button>
      {pending && (asked === "approve" || asked === "reject") && <DecisionDialog pending={pending} action={asked} onClose={close} />}
      {asked === "rerun" && <RerunDialog run={run} body={after === null ? { from } : { after }} onClose={close} />}
    </div>
  );
}

function Attempts({ attempts }: { readonly attempts: readonly Attempt[] }): JSX.Element {
  return (
    <section class="attempts">
      <h3>{words.attempts}</h3>
      <ol>
        {attempts.map((attempt) => (
          <li key={attempt.attempt}>
            <Glyph state={stateOfAttempt(attempt)} />
            <span class="num">{attempt.attempt}</span>
            <span>{visible(attempt.reason.text)}{attempt.agent && <small> · {visible(attempt.agent)}</small>}</span>
            {attempt.child_run && <a href={`/runs/${attempt.child_run}`}>{words.childRun}</a>}
            <Took from={attempt.started_at} to={attempt.finished_at ?? (attempt.status === "finished" ? attempt.started_at : null)} />
          </li>
        ))}
      </ol>
    </section>
  );
}

function PartValues({ title, values }: { readonly title: string; readonly values: Readonly<Record<string, unknown>> }): JSX.Element | null {
  if (Object.keys(values).length === 0) return null;
  return <section class="values"><h3>{title}</h3><Values values={values} /></section>;
}

/** Errors, warnings and notices that the newest attempt has marked in its output. */
function MarkedLines({ lines }: { readonly lines: readonly string[] }): JSX.Element | null {
  if (lines.length === 0) return null;
  return (
    <section class="marked">
      <h3>{words.marked}</h3>
      <ul>{lines.map(markedLine).map(({ mark, text }) => <li class={`m-${mark ?? ""}`}>{mark !== null && <b>{texts.log.marks[mark]}</b>}{visible(text)}</li>)}</ul>
    </section>
  );
}

/** What the newest attempt says about itself: Markdown, as text. */
function StepSummary({ text }: { readonly text: string }): JSX.Element | null {
  if (text === "") return null;
  return (
    <section class="summary">
      <h3>{words.summary}</h3>
      <pre tabIndex={0} aria-label={words.summary}>{text.split("\n").map(visible).join("\n")}</pre>
    </section>
  );
}

/** The output of the newest attempt; the others have it on their own pages. */
function StepOutput({ run, job, step }: { readonly run: string; readonly job: string; readonly step: Step }): JSX.Element | null {
  const attempt = step.attempts.at(-1);
  if (attempt === undefined || attempt.child_run !== null) return null;
  const address = { run, job, step: step.id, attempt: attempt.attempt };
  return (
    <section class="output">
      <h3>{words.output} <a class="log-open" href={pathOf(address)}>{texts.log.open}</a></h3>
      <AttemptLog key={attempt.attempt} address={address} attempt={attempt} isPage={false} />
    </section>
  );
}
