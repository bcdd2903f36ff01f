// The actions on a run: what each will do is said before; where one is not possible, why. Nothing is shown as done before the
// daemon has said so.

import { useEffect, useState } from "preact/hooks";
import type { JSX } from "preact";
import { ApiError, request, role } from "../live/api";
import { open } from "../live/router";
import { fits, may, NEEDS, type Action } from "../model/permissions";
import { visible } from "../model/lines";
import type { PendingApproval, Problem, Rerun, RunSummary } from "../model/shapes";
import { texts } from "../texts";
import { Dialog } from "./dialog";
import { ProblemNote } from "./problem";
import { say } from "./status_line";

const words = texts.actions;

/** Why the action is not possible now; null when it is. */
export function obstacle(action: Action, run: RunSummary, approvals: number): string | null {
  if (!may(role(), NEEDS[action])) return words.needs(NEEDS[action]);
  const isDecision = action === "approve" || action === "reject";
  if (!fits(action, run) || (isDecision && approvals === 0)) return words.notNow[action];
  return null;
}

interface ButtonProperties {
  readonly action: Action;
  readonly obstacle: string | null;
  readonly onPress: () => void;
  readonly isPrimary?: boolean;
}

/** Stays focusable when it is not possible, so that the reason can be read with the keyboard too. */
export function ActionButton({ action, obstacle: why, onPress, isPrimary = false }: ButtonProperties): JSX.Element {
  const name = words.names[action];
  return (
    <button type="button" class={isPrimary ? "primary" : ""} aria-disabled={why !== null} title={why ?? undefined}
      aria-label={why === null ? undefined : `${name}: ${why}`} onClick={() => { if (why === null) onPress(); else say(`${name}: ${why}.`); }}>
      {name}
    </button>
  );
}

export function RunActions({ run, approvals }: { readonly run: RunSummary; readonly approvals: readonly PendingApproval[] }): JSX.Element {
  const [asked, setAsked] = useState<Action | null>(null);
  const shown: readonly Action[] = run.status === "completed" ? ["rerun-failed", "rerun", "cancel"] : approvals.length > 0 ? ["approve", "reject", "cancel"] : ["cancel", "rerun"];
  const visibleActions = shown.filter((action) => action !== "rerun-failed" || fits(action, run)).filter((action) => run.status !== "completed" || action !== "cancel");
  const close = (): void => setAsked(null);
  const first = approvals[0];
  return (
    <div class="actions">
      {visibleActions.map((action, index) => (
        <ActionButton key={action} action={action} obstacle={obstacle(action, run, approvals.length)} isPrimary={index === 0 && run.status === "completed" || action === "approve"} onPress={() => setAsked(action)} />
      ))}
      {asked === "cancel" && <CancelDialog run={run} onClose={close} />}
      {(asked === "rerun" || asked === "rerun-failed") && <RerunDialog run={run} body={asked === "rerun" ? {} : { failed: true }} onClose={close} />}
      {(asked === "approve" || asked === "reject") && first && <DecisionDialog pending={first} action={asked} onClose={close} />}
    </div>
  );
}

/** Sends one request and shows its problem in the dialogue. */
function useSending(onClose: () => void): { readonly problem: Problem | null; readonly isSending: boolean; readonly send: (work: () => Promise<void>) => void } {
  const [problem, setProblem] = useState<Problem | null>(null);
  const [isSending, setSending] = useState(false);
  const send = (work: () => Promise<void>): void => {
    setSending(true);
    setProblem(null);
    work().then(onClose, (error: unknown) => {
      if (error instanceof ApiError) setProblem(error.problem);
    }).finally(() => setSending(false));
  };
  return { problem, isSending, send };
}

function CancelDialog({ run, onClose }: { readonly run: RunSummary; readonly onClose: () => void }): JSX.Element {
  const [isForced, setForced] = useState(false);
  const { problem, isSending, send } = useSending(onClose);
  const cancel = (): void => send(async () => {
    await request("POST", `/v1/runs/${run.id}/cancel`, { body: { force: isForced } });
    say(words.done.cancel);
  });
  return (
    <Dialog title={`${words.cancelTitle} ${run.name} #${run.number}`} onClose={onClose}>
      <p>{words.cancelText}</p>
      <label class="check"><input type="checkbox" checked={isForced} onChange={(event) => setForced(event.currentTarget.checked)} /> {words.cancelForce}</label>
      {problem && <ProblemNote problem={problem} />}
      <footer>
        <button type="button" onClick={onClose}>{texts.close}</button>
        <button type="button" class="danger" disabled={isSending} onClick={cancel}>{words.names.cancel}</button>
      </footer>
    </Dialog>
  );
}

export function DecisionDialog({ pending, action, onClose }: { readonly pending: PendingApproval; readonly action: "approve" | "reject"; readonly onClose: () => void }): JSX.Element {
  const [comment, setComment] = useState("");
  const { problem, isSending, send } = useSending(onClose);
  const place = pending.step === null ? pending.job : `${pending.job}/${pending.step}`;
  const decide = (): void => send(async () => {
    await request("POST", `/v1/runs/${pending.run}/${action}`, { body: { job: pending.job, step: pending.step, comment } });
    say(words.done[action]);
  });
  return (
    <Dialog title={`${words.names[action]}: ${visible(pending.name)} · ${visible(place)}`} onClose={onClose}>
      <p>{visible(pending.reason.text)}</p>
      <label for="comment">{words.comment}</label>
      <textarea id="comment" rows={3} maxLength={1000} value={comment} onInput={(event) => setComment(event.currentTarget.value)} />
      {problem && <ProblemNote problem={problem} />}
      <footer>
        <button type="button" onClick={onClose}>{texts.close}</button>
        <button type="button" class={action === "approve" ? "primary" : "danger"} disabled={isSending} onClick={decide}>{words.names[action]}</button>
      </footer>
    </Dialog>
  );
}

interface RerunProperties {
  readonly run: RunSummary;
  /** What to run again: `{}` all, `{"failed": true}`, or `{"from": "JOB/STEP"}`. */
  readonly body: Readonly<Record<string, unknown>>;
  readonly onClose: () => void;
}

/** Shows what would run and what is reused, from a dry run, before anything starts. */
export function RerunDialog({ run, body, onClose }: RerunProperties): JSX.Element {
  const [preview, setPreview] = useState<Rerun | null>(null);
  const [failed, setFailed] = useState<Problem | null>(null);
  // The same key however often the button is pressed: one run starts.
  const [key] = useState(() => crypto.randomUUID());
  const { problem, isSending, send } = useSending(onClose);
  useEffect(() => {
    request<Rerun>("POST", `/v1/runs/${run.id}/rerun`, { body: { ...body, dry_run: true } }).then(setPreview, (error: unknown) => {
      if (error instanceof ApiError) setFailed(error.problem);
    });
  }, []);
  const start = (): void => send(async () => {
    const made = await request<Rerun>("POST", `/v1/runs/${run.id}/rerun`, { body, headers: { "Idempotency-Key": key } });
    say(words.started(made.number ?? 0));
    if (made.id !== null) open(`/runs/${made.id}`);
  });
  const shown = problem ?? failed;
  return (
    <Dialog title={`${words.rerunTitle} ${visible(run.name)} #${run.number}`} onClose={onClose}>
      {preview && <p>{words.rerunText(preview.will_run_total, preview.reused_total)}</p>}
      {preview && <Names title={words.willRun} names={preview.will_run} total={preview.will_run_total} />}
      {preview && <Names title={words.reused} names={preview.reused} total={preview.reused_total} />}
      {!preview && !shown && <p role="status">{texts.loading} …</p>}
      {shown && <ProblemNote problem={shown} />}
      <footer>
        <button type="button" onClick={onClose}>{texts.close}</button>
        <button type="button" class="primary" disabled={isSending || preview === null} onClick={start}>{words.rerunTitle}</button>
      </footer>
    </Dialog>
  );
}

const NAMES_SHOWN = 12;

function Names({ title, names, total }: { readonly title: string; readonly names: readonly string[]; readonly total: number }): JSX.Element | null {
  if (total === 0) return null;
  const more = total - Math.min(names.length, NAMES_SHOWN);
  return (
    <section class="names">
      <h3>{title}</h3>
      <ul>{names.slice(0, NAMES_SHOWN).map((name) => <li key={name} class="mono">{visible(name)}</li>)}{more > 0 && <li>{words.more(more)}</li>}</ul>
    </section>
  );
}
