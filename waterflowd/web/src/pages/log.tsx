// The output of one attempt on a page of its own; without a step, that of everything below a job.

import { useEffect } from "preact/hooks";
import type { JSX } from "preact";
import { useQuery } from "../live/query";
import { open } from "../live/router";
import { visible } from "../model/lines";
import { pathOf, type OutputAddress } from "../model/log/ranges";
import type { Agent, Attempt, Run, Step } from "../model/shapes";
import { stateOf, stateOfAttempt } from "../model/states";
import { Glyph } from "../parts/glyph";
import { LogViewer } from "../parts/log/viewer";
import { Empty, ProblemNote, Waiting } from "../parts/problem";
import { Took } from "../parts/time";
import { texts } from "../texts";
import { ManyLogs } from "./log_many";

const words = texts.log;

interface Properties {
  readonly run: string;
  readonly job: string;
  readonly step: string | null;
  readonly attempt: number | null;
}

export function LogPage({ run: id, job: jobId, step: stepId, attempt: number }: Properties): JSX.Element {
  const part = stepId === null ? jobId : `${jobId}/${stepId}`;
  const query = useQuery<Run>(`/v1/runs/${encodeURIComponent(id)}?${new URLSearchParams({ part }).toString()}`, ["runs"], (change) => change.kind === "row" && change.list === "runs" && change.key === id);
  const run = query.value.value;
  const problem = query.problem.value;
  const job = run?.jobs[0] ?? null;
  const step = stepId === null ? null : (job?.steps[0] ?? null);
  const attempt = step === null ? null : (step.attempts.find((found) => found.attempt === number) ?? (number === null ? step.attempts.at(-1) : undefined) ?? null);
  useEffect(() => {
    if (run) document.title = `${visible(part)} · ${run.name} #${run.number} · ${texts.product}`;
  }, [run, part]);
  if (run === null) return problem === null ? <Waiting rows={10} /> : problem.status === 404 ? <Missing detail={problem.detail} back="/runs" /> : <ProblemNote problem={problem} again={query.again} />;
  const back = `/runs/${run.id}?place=${encodeURIComponent(part)}`;
  if (job === null || (stepId !== null && (step === null || (attempt === null && step.attempts.length > 0)))) return <Missing detail={words.noStep} back={back} />;
  const address: OutputAddress | null = stepId === null || attempt === null ? null : { run: run.id, job: jobId, step: stepId, attempt: attempt.attempt };
  return (
    <div class="log-page">
      <header class="log-head">
        <h1>
          <Glyph state={attempt ? stateOfAttempt(attempt) : stateOf(step ?? job)} />
          <a href={back}>{visible(run.name)} <span class="num">#{run.number}</span></a> <span class="mono">{visible(part)}</span>
        </h1>
        <p class="facts-line">
          {step && <span>{visible(step.name)}</span>}
          {step && step.attempts.length > 1 && attempt && <Attempts run={run.id} job={jobId} step={step} attempt={attempt} />}
          {stepId !== null && <span>{visible(attempt?.agent ?? words.noServerYet)}</span>}
          {attempt && <Took from={attempt.started_at} to={attempt.finished_at} />}
          {attempt && attempt.status === "finished" && <span>{visible(attempt.reason.text)}</span>}
        </p>
      </header>
      {stepId === null && <ManyLogs run={run.id} job={jobId} isActive={job.status !== "completed"} />}
      {stepId !== null && address === null && step !== null && <Empty><p>{words.notStarted(visible(step.reason.text))}</p></Empty>}
      {address !== null && attempt !== null && <AttemptLog key={address.attempt} address={address} attempt={attempt} isPage />}
    </div>
  );
}

/** The log of an attempt with the sentence that explains what is not there. */
export function AttemptLog({ address, attempt, isPage }: { readonly address: OutputAddress; readonly attempt: Attempt; readonly isPage: boolean }): JSX.Element {
  const isRunning = attempt.status !== "finished";
  const agents = useQuery<{ readonly agents: readonly Agent[] }>(isRunning && attempt.agent !== null ? "/v1/agents" : null, ["agents"], (change) => change.kind === "row" && change.list === "agents");
  const agent = agents.value.value?.agents.find((found) => found.name === attempt.agent);
  const hint = isRunning && agent && agent.status !== "connected" ? words.unreachable(visible(agent.name), visible(agent.text)) : null;
  return <LogViewer address={address} isPage={isPage} hint={hint} emptyText={isRunning ? words.nothingYet : words.nothing} />;
}

function Attempts({ run, job, step, attempt }: { readonly run: string; readonly job: string; readonly step: Step; readonly attempt: Attempt }): JSX.Element {
  return (
    <label class="choice"><span>{words.attempt}</span>
      <select value={attempt.attempt} onChange={(event) => open(pathOf({ run, job, step: step.id, attempt: Number(event.currentTarget.value) }))}>
        {step.attempts.map((found) => <option key={found.attempt} value={found.attempt}>{found.attempt}</option>)}
      </select>
    </label>
  );
}

function Missing({ detail, back }: { readonly detail: string; readonly back: string }): JSX.Element {
  return <Empty><h1>{words.noStep}</h1>{detail !== words.noStep && <p>{visible(detail)}</p>}<p><a href={back}>{texts.run.back}</a></p></Empty>;
}
