// Overview: what needs me now, what is at work, and whether servers and repositories are well.

import { useEffect } from "preact/hooks";
import type { JSX } from "preact";
import { useQuery } from "../live/query";
import type { Change } from "../live/stream";
import { visible } from "../model/lines";
import type { Agent, Attention, RunList, RunPart, RunSummary, SystemStatus } from "../model/shapes";
import { stateOf } from "../model/states";
import { Command } from "../parts/copy";
import { Glyph } from "../parts/glyph";
import { Panel } from "../parts/panel";
import { Empty, ProblemNote, Waiting } from "../parts/problem";
import { noteOf, RunName, RunProgress, shortRevision, starter } from "../parts/run_line";
import { Time, Took } from "../parts/time";
import { texts } from "../texts";
import { countOf, Needs } from "./overview_needs";

const words = texts.overviewPage;
const RECENT = 8;
const TOPICS = ["overview", "runs", "agents", "repositories"];
const isAboutRuns = (change: Change): boolean => change.kind === "row" && change.list === "runs";

export function Overview(): JSX.Element {
  const status = useQuery<SystemStatus>("/v1/status", TOPICS);
  const recent = useQuery<RunList>(`/v1/runs?limit=${RECENT}`, TOPICS, isAboutRuns);
  const attention = useQuery<Attention>("/v1/attention", TOPICS);
  const found = status.value.value;
  const items = attention.value.value;
  const needs = items === null ? 0 : countOf(items);
  useEffect(() => void (document.title = `${needs > 0 ? `(${needs}) ` : ""}${texts.overview} · ${texts.product}`), [needs]);
  return (
    <>
      <header class="page-head"><h1>{texts.overview}</h1></header>
      {attention.problem.value && <ProblemNote problem={attention.problem.value} again={attention.again} />}
      {status.problem.value && <ProblemNote problem={status.problem.value} again={status.again} />}
      {found === null ? status.problem.value === null && <Waiting rows={8} /> : (
        <div class="overview">
          <div>
            {items === null ? <Waiting rows={3} /> : <Needs attention={items} approvals={found.approvals} />}
            <AtWork status={found} />
            <Recent runs={recent.value.value?.runs ?? []} status={found} />
          </div>
          <div class="side">
            <Servers status={found} />
            <Repositories status={found} />
            <Next status={found} />
          </div>
        </div>
      )}
    </>
  );
}

function AtWork({ status }: { readonly status: SystemStatus }): JSX.Element {
  const rows = status.running;
  const waiting = status.waiting.filter((part) => !rows.some((run) => run.id === part.run));
  return (
    <Panel title={words.atWork} count={status.open_runs}>
      {rows.length + waiting.length === 0 && <p class="quiet-line">{words.idle}</p>}
      <ul class="items">
        {rows.map((run) => <RunItem key={run.id} run={run} note={status.waiting.find((part) => part.run === run.id)} />)}
        {waiting.map((part) => (
          <li key={`${part.run}/${part.job ?? ""}/${part.step ?? ""}`}>
            <Glyph state="waiting" />
            <span class="what"><a href={`/runs/${part.run}`}>{visible(part.name)}</a><small>{visible(part.reason.text)}</small></span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function RunItem({ run, note }: { readonly run: RunSummary; readonly note?: RunPart | undefined }): JSX.Element {
  const text = note?.reason.text ?? (run.first_failure === null ? "" : noteOf(run));
  return (
    <li>
      <Glyph state={stateOf(run)} />
      <span class="what">
        <RunName run={run} />
        <small>{[shortRevision(run.revision), starter(run)].filter(Boolean).map(visible).join(" · ")}{text !== "" && <> · {visible(text)}</>}</small>
        <small><RunProgress run={run} /></small>
      </span>
      <span class="aside"><Took from={run.started_at} to={run.completed_at} />{run.completed_at !== null && <small><Time at={run.completed_at} /></small>}</span>
    </li>
  );
}

function Recent({ runs, status }: { readonly runs: readonly RunSummary[]; readonly status: SystemStatus }): JSX.Element {
  const ended = runs.filter((run) => run.status === "completed");
  if (ended.length === 0 && status.open_runs === 0) return <FirstSteps status={status} />;
  return (
    <Panel title={words.recent}>
      {ended.length === 0 && <p class="quiet-line">{words.noneCompleted}</p>}
      <ul class="items">{ended.map((run) => <RunItem key={run.id} run={run} />)}</ul>
    </Panel>
  );
}

function FirstSteps({ status }: { readonly status: SystemStatus }): JSX.Element {
  return (
    <Panel title={words.first}>
      <Empty>
        {status.agents_total === 0 && <p>{words.firstServer} <Command text="waterflowctl agents token --group web" /></p>}
        <p>{words.firstRun} <Command text="waterflowctl run WORKFLOW" /></p>
      </Empty>
    </Panel>
  );
}

function Servers({ status }: { readonly status: SystemStatus }): JSX.Element {
  const up = status.agents.filter((agent) => agent.status === "connected");
  const busy = up.reduce((sum, agent) => sum + agent.slots_busy, 0);
  const slots = up.reduce((sum, agent) => sum + agent.slots, 0);
  return (
    <Panel title={words.fleet}>
      {status.agents_total === 0 ? <p class="quiet-line">{words.noServers}</p> : (
        <>
          <p class="quiet-line">{words.connected(up.length, status.agents_total)}</p>
          <meter class="slots" min={0} max={Math.max(1, slots)} value={busy} aria-label={words.slots(busy, slots)} />
          <p class="quiet-line"><small>{words.slots(busy, slots)}</small></p>
          <ul class="items tight">
            {status.agents.filter((agent) => agent.status !== "connected" || agent.alarm !== "").map((agent) => (
              <li key={agent.fingerprint}><Glyph state="lost" /><span class="what"><b>{visible(agent.name)}</b><small>{visible(agent.alarm || agent.text)}</small></span></li>
            ))}
          </ul>
          {up.length > 0 && <DockerEngines agents={up} />}
        </>
      )}
    </Panel>
  );
}

/** Where jobs can have containers, and why not elsewhere: closed, because most groups of servers need no engine. */
function DockerEngines({ agents }: { readonly agents: readonly Agent[] }): JSX.Element {
  const usable = agents.filter((agent) => agent.docker?.problem === "");
  return (
    <details class="more">
      <summary title={words.dockerTitle}>{words.docker(usable.length, agents.length)}</summary>
      <ul class="items tight">
        {agents.map((agent) => <li key={agent.fingerprint}><span class="what"><b>{visible(agent.name)}</b><small>{engineText(agent)}</small></span></li>)}
      </ul>
    </details>
  );
}

function engineText({ docker }: Agent): string {
  if (docker === null) return words.engineNotKnown;
  return docker.problem === "" ? words.engine(visible(docker.version)) : words.noEngine(visible(docker.problem));
}

function Repositories({ status }: { readonly status: SystemStatus }): JSX.Element {
  return (
    <Panel title={words.repositories}>
      {status.repositories.length === 0 && <p class="quiet-line">{words.noRepositories}</p>}
      <ul class="items tight">
        {status.repositories.map((row) => (
          <li key={row.name}>
            <Glyph state={row.status === "ready" ? "success" : "failure"} />
            <span class="what"><b>{visible(row.name)}</b> <span class="mono">{shortRevision(row.revision_applied)}</span><small>{row.status === "ready" ? <Time at={row.fetched_at} /> : visible(row.text)}</small></span>
          </li>
        ))}
      </ul>
    </Panel>
  );
}

function Next({ status }: { readonly status: SystemStatus }): JSX.Element {
  const rows = status.schedules.slice(0, 5);
  return (
    <Panel title={words.next}>
      {rows.length === 0 && <p class="quiet-line">{words.noNext}</p>}
      <ul class="items tight">{rows.map((row) => <li key={`${row.path} ${row.cron}`}><span class="what">{visible(row.name)} <small><Time at={row.next[0] ?? null} /></small></span></li>)}</ul>
    </Panel>
  );
}
