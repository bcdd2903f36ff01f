// Runs and their outlines for the tests.

import type { Change, OutlineAnswer, OutlineNode } from "../model/outline";
import type { Reason, Run } from "../model/shapes";

export const REASON: Reason = { code: "x", text: "because" };
export const at = (seconds: number): string => new Date(seconds * 1000).toISOString();

export function run(fields: Partial<Run> = {}): Run {
  return {
    id: "01J", number: 1, name: "deploy", path: "workflows/deploy.yml", repository: "ops", revision: "8440f31", rerun_of: null,
    trigger: { kind: "push", by: "Ada", principal: null, ref: "refs/heads/main", git: {} },
    status: "completed", conclusion: "success", reason: REASON, created_at: at(0), started_at: at(0), completed_at: at(100), seq: 1,
    progress: { done: 1, total: 1, failed: 0 }, first_failure: null,
    parent_run: null, deadline_at: null, inputs: {}, outputs: {}, vars: {}, approvals: [], reports: [], jobs: [], ...fields,
  };
}

/** An answer with these nodes, of the run's first 100 events and seconds. */
export function answer(nodes: readonly OutlineNode[], fields: Partial<OutlineAnswer> = {}): OutlineAnswer {
  return {
    seq: 100, created_at: at(0), started_at: at(0), ended_at: at(100), status: "completed", conclusion: "success", reasons_from: 0,
    reasons: [["x", "because"], ["retry", "next attempt in 5 s"], ["waiting-approval", "waiting for an approver"]],
    nodes, nodes_total: nodes.length, marks: [], marks_left_out: 0, next: null, ...fields,
  };
}

export const change = (seq: number, seconds: number, code: string, reason = 0): Change => [seq, seconds * 1000, code, reason];

/** A job that ran on web-1 from 10 s to 20 s. */
export function job(place: string, fields: Partial<OutlineNode> = {}): OutlineNode {
  const conclusion = fields.conclusion ?? "success";
  const isEnded = fields.status === undefined;
  return {
    place, name: place, kind: "steps", group: "web", agent: "web-1",
    changes: [change(2, 10, "running"), ...(isEnded ? [change(9, 20, conclusion)] : [])], ...(isEnded ? { conclusion } : {}), ...fields,
  };
}

/** A step that ran once, from 13 s to 20 s. */
export function step(place: string, parent: string, fields: Partial<OutlineNode> = {}): OutlineNode {
  const conclusion = fields.conclusion ?? "success";
  const isEnded = fields.status === undefined;
  const changes = [change(3, 10, "queued"), change(4, 12, "sent"), change(5, 13, "started"), ...(isEnded ? [change(8, 20, conclusion)] : [])];
  return { place, parent, name: place, kind: "step", node: "shell", changes, ...(isEnded ? { conclusion } : {}), ...fields };
}
