// The answers of the API, as far as the pages read them. Field names are the API's own.

export type Status = "queued" | "waiting" | "running" | "completed";
export type Conclusion = "success" | "failure" | "cancelled" | "timed-out" | "skipped" | "lost";
export type Role = "viewer" | "runner" | "approver" | "operator" | "admin";

export interface Reason {
  readonly code: string;
  readonly text: string;
}

export interface Trigger {
  readonly kind: string;
  readonly by: string;
  readonly principal: string | null;
  readonly ref: string | null;
  readonly git: Readonly<Record<string, unknown>>;
}

export interface RunSummary {
  readonly id: string;
  readonly number: number;
  readonly name: string;
  readonly path: string;
  readonly repository: string | null;
  readonly revision: string | null;
  readonly trigger: Trigger;
  readonly rerun_of: string | null;
  readonly status: Status;
  readonly conclusion: Conclusion | null;
  readonly reason: Reason;
  readonly created_at: string | null;
  readonly started_at: string | null;
  readonly completed_at: string | null;
  /** Jobs, without those that became others. */
  readonly progress: { readonly done: number; readonly total: number; readonly failed: number };
  readonly first_failure: { readonly place: string; readonly agent: string | null; readonly reason: Reason } | null;
  readonly seq: number;
}

export interface Approval {
  readonly environment: string | null;
  readonly approvers: readonly string[];
  readonly minimum: number;
  readonly approved_by: readonly string[];
  readonly rejected_by: string | null;
  readonly due_at: string | null;
  readonly default: "approve" | "reject" | null;
}

export interface PendingApproval extends Approval {
  readonly run: string;
  readonly name: string;
  readonly job: string;
  readonly step: string | null;
  readonly reason: Reason;
}

export interface Attempt {
  readonly attempt: number;
  readonly status: "pending" | "dispatched" | "started" | "finished";
  readonly outcome: string | null;
  readonly reason: Reason;
  readonly exit_code: number | null;
  readonly agent: string | null;
  readonly child_run: string | null;
  readonly queued_at: string | null;
  readonly dispatched_at: string | null;
  readonly started_at: string | null;
  readonly finished_at: string | null;
  readonly output_bytes: number;
  readonly output_dropped: number;
  /** Markdown that the step wrote about itself; null if it did not fit into the answer. */
  readonly summary: string | null;
  /** Lines of the output that the step has marked as error, warning or notice, each with its mark. */
  readonly annotations?: readonly string[] | null;
}

export interface Step {
  readonly id: string;
  readonly name: string;
  readonly node: string;
  readonly status: Status;
  readonly conclusion: Conclusion | null;
  readonly reason: Reason;
  readonly exit_code: number | null;
  readonly outputs: Readonly<Record<string, unknown>> | null;
  readonly approval: Approval | null;
  readonly retry_at: string | null;
  readonly started_at: string | null;
  readonly completed_at: string | null;
  readonly attempts: readonly Attempt[];
  readonly counts: Readonly<Record<string, number>>;
  readonly blocks_total: number;
}

export interface Job {
  readonly id: string;
  readonly name: string;
  readonly parent: string | null;
  readonly status: Status;
  readonly conclusion: Conclusion | null;
  readonly reason: Reason;
  readonly group: string;
  readonly agent: string | null;
  readonly server: string | null;
  readonly key: string | null;
  readonly kind: "steps" | "matrix" | "each" | "call";
  readonly tries: number;
  readonly needs: readonly string[];
  readonly outputs: Readonly<Record<string, unknown>> | null;
  readonly approval: Approval | null;
  readonly batch: { readonly number: number; readonly of: number } | null;
  readonly started_at: string | null;
  readonly completed_at: string | null;
  readonly steps_total: number;
  readonly steps: readonly Step[];
  readonly counts: Readonly<Record<string, number>>;
  readonly jobs_total: number;
}

export interface Run extends RunSummary {
  readonly parent_run: { readonly run: string; readonly job: string; readonly step: string } | null;
  readonly deadline_at: string | null;
  readonly inputs: Readonly<Record<string, unknown>>;
  readonly outputs: Readonly<Record<string, unknown>>;
  readonly vars: Readonly<Record<string, unknown>>;
  readonly approvals: readonly PendingApproval[];
  /** The ids of the jobs that have a report. */
  readonly reports: readonly string[];
  readonly jobs: readonly Job[];
}

export interface Agent {
  readonly fingerprint: string;
  readonly name: string;
  readonly status: "connected" | "disconnected";
  readonly text: string;
  readonly slots: number;
  readonly slots_busy: number;
  /** Null if the agent has not said; `problem` is empty if jobs can have containers there. */
  readonly docker: { readonly version: string; readonly problem: string } | null;
  readonly alarm: string;
}

export interface Repository {
  readonly name: string;
  readonly status: "ready" | "degraded";
  readonly text: string;
  readonly fetched_at: string | null;
  readonly revision_applied: string | null;
}

export interface Schedule {
  readonly path: string;
  readonly name: string;
  readonly cron: string;
  readonly next: readonly string[];
}

export interface RunPart {
  readonly run: string;
  readonly name: string;
  readonly job: string | null;
  readonly step: string | null;
  readonly reason: Reason;
}

export interface SystemStatus {
  readonly status: "healthy" | "degraded";
  readonly problems: readonly string[];
  readonly daemon: { readonly version: string; readonly started_at: string; readonly now: string; readonly log_seq: number };
  readonly repositories: readonly Repository[];
  readonly agents: readonly Agent[];
  readonly agents_total: number;
  readonly pending: readonly { readonly fingerprint: string; readonly name: string; readonly text: string }[];
  readonly open_runs: number;
  readonly running: readonly RunSummary[];
  readonly waiting: readonly RunPart[];
  readonly approvals: readonly PendingApproval[];
  readonly failed: readonly RunSummary[];
  readonly schedules: readonly Schedule[];
}

export interface AttentionItem {
  readonly kind: "approval" | "lost" | "held" | "failed" | "stalled" | "agent" | "key" | "repository" | "file" | "disk";
  readonly since: string | null;
  readonly due_at: string | null;
  readonly run: RunSummary | null;
  readonly place: string | null;
  readonly name: string | null;
  readonly reason: string;
  readonly streak: number;
}

export interface Attention {
  readonly items: readonly AttentionItem[];
  readonly counts: Readonly<Record<string, number>>;
}

export interface RunList {
  readonly runs: readonly RunSummary[];
  readonly next: string | null;
}

export interface Rerun {
  readonly id: string | null;
  readonly number: number | null;
  readonly reused: readonly string[];
  readonly reused_total: number;
  readonly will_run: readonly string[];
  readonly will_run_total: number;
}

export interface Problem {
  readonly status: number;
  readonly title: string;
  readonly detail: string;
  readonly code: string;
}

export interface Session {
  readonly by: string;
  readonly role: Role;
  readonly groups: readonly string[];
  readonly way: "session" | "open" | "token";
  readonly expires_at: string | null;
}

export interface OutputLine {
  readonly job: string;
  readonly step: string;
  readonly attempt: number;
  readonly stream: string;
  readonly text: string;
  readonly cursor: string;
}

/** A range of bytes of an output, as text: it may begin inside of a line that the block before it began. */
export interface OutputBlock {
  /** The number of the first line, from 1. */
  readonly line: number;
  readonly offset: number;
  readonly bytes: number;
  readonly text: string;
  /** Lines whose time differs from that of the line before, in milliseconds since 1970. */
  readonly at: readonly (readonly [number, number])[];
  /** Stretches of lines on standard error: the first one, and how many. */
  readonly stderr: readonly (readonly [number, number])[];
}

export interface OutputPage {
  readonly lines: number;
  readonly bytes: number;
  readonly is_complete: boolean;
  readonly left_out: readonly { readonly line: number; readonly bytes: number }[];
  readonly blocks: readonly OutputBlock[];
}

export interface OutputHit {
  readonly line: number;
  readonly column: number;
  readonly text: string;
}
