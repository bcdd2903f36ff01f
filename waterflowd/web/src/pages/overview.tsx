// Overview: what needs me now, what is at work, and whether servers and repositories are well.

import { useEffect, useState } from "preact/hooks";
import type { ComponentChildren, JSX } from "preact";
import { useQuery } from "../live/query";
import { visible } from "../model/lines";
import type { PendingApproval, RunList, RunPart, RunSummary, SystemStatus } from "../model/shapes";
import { stateOf } from "../model/states";
import { DecisionDialog, obstacle, RerunDialog, ActionButton } from "../parts/actions";
import { Command } from "../parts/copy";
import { Glyph } from "../parts/glyph";
import { Empty, ProblemNote, Waiting } from "../parts/problem";
import { RunName, shortRevision, starter } from "../parts/run_line";
import { Time, Took } from "../parts/time";
import { texts } from "../texts";

const words = texts.overviewPage;
const RECENT = 8;

export function Overview(): JSX.Element {
  const status = useQuery<SystemStatus>("/v1/status", () => true);
  const recent = useQuery<RunList>(`/v1/runs?limit=${RECENT}`, (event) => event.stream.startsWith("run/"));
  const found = status.value.value;
  const needs = found === null ? 0 : countOf(found);
  useEffect(() => void (document.title = `${needs > 0 ? `(${needs}) ` : ""}${texts.overview} · ${texts.product}`), [needs]);
  return (
    <>
      <header class="page-head"><h1>{texts.overview}</h1></header>
      {status.problem.value && <ProblemNote problem={status.problem.value} again={status.again} />}
      {found === null ? status.problem.value === null && <Waiting rows={8} /> : (
        <div class="overview">
          <div>
            <Needs status={found} />
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

function countOf(status: SystemStatus): number {
  return status.approvals.length + status.failed.length + status.problems.length + status.pending.length;
}

function Panel({ title, count, children }: { readonly title: string; readonly count?: number; readonly children: ComponentChildren }): JSX.Element {
  return (
    <section class="panel" aria-label={title}>
      <h2>{title}{count !== undefined && count > 0 && <span class="count">{count}</span>}</h2>
      {children}
    </section>
  );
}

function Needs({ status }: { readonly status: SystemStatus }): JSX.Element {
  const count = countOf(status);
  return (
    <Panel title={words.needs} count={count}>
      {count === 0 && <p class="quiet-line"><Glyph state="success" isSilent /> {words.nothing}</p>}
      <ul class="items">
        {status.approvals.map((pending) => <Approval key={`${pending.run}/${pending.job}/${pending.step ?? ""}`} pending={pending} status={status} />)}
        {status.failed.map((run) => <Failed key={run.id} run={run} />)}
        {status.problems.map((text) => <li key={text}><Glyph state="lost" /><span class="what">{visible(text)}</span></li>)}
        {status.pending.map((agent) => <li key={agent.fingerprint}><Glyph state="waiting" /><span class="what"><b>{visible(agent.name)}</b> {visible(agent.text)}</span></li>)}
      </ul>
    </Panel>
  );
}

function Approval({ pending, status }: { readonly pending: PendingApproval; readonly status: SystemStatus }): JSX.Element {
  const [asked, setAsked] = useState<"approve" | "reject" | null>(null);
  const run = status.running.find((row) => row.id === pending.run);
  const open: RunSummary | null = run ?? null;
  const place = pending.step === null ? pending.job : `${pending.job}/${pending.step}`;
  const why = (action: "approve" | "reject"): string | null => (open === null ? obstacleOf(action) : obstacle(action, open, 1));
  return (
    <li>
      <Glyph state="waiting" />
      <span class="what">
        <a href={`/runs/${pending.run}?place=${encodeURIComponent(place)}`}>{visible(pending.name)}{open && <span class="num"> #{open.number}</span>}</a> <span class="mono">{visible(place)}</span>
        <small>{visible(pending.reason.text)}{pending.due_at !== null && <> · <Time at={pending.due_at} /></>}</small>
      </span>
      <span class="item-actions">
        <ActionButton action="approve" isPrimary obstacle={why("approve")} onPress={() => setAsked("approve")} />
        <ActionButton action="reject" obstacle={why("reject")} onPress={() => setAsked("reject")} />
      </span>
      {asked && <DecisionDialog pending={pending} action={asked} onClose={() => setAsked(null)} />}
    </li>
  );
}

const OPEN_RUN = { status: "waiting", conclusion: null } as RunSummary;
const obstacleOf = (action: "approve" | "reject"): string | null => obstacle(action, OPEN_RUN, 1);

function Failed({ run }: { readonly run: RunSummary }): JSX.Element {
  const [isAsked, setAsked] = useState(false);
  return (
    <li>
      <Glyph state={stateOf(run)} />
      <span class="what"><RunName run={run} /><small>{visible(run.reason.text)} · <Time at={run.completed_at} /></small></span>
      <span class="item-actions"><ActionButton action="rerun-failed" obstacle={obstacle("rerun-failed", run, 0)} onPress={() => setAsked(true)} /></span>
      {isAsked && <RerunDialog run={run} body={{ failed: true }} onClose={() => setAsked(false)} />}
    </li>
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
  return (
    <li>
      <Glyph state={stateOf(run)} />
      <span class="what">
        <RunName run={run} />
        <small>{[shortRevision(run.revision), starter(run)].filter(Boolean).map(visible).join(" · ")}{note && <> · {visible(note.reason.text)}</>}</small>
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
        </>
      )}
    </Panel>
  );
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
