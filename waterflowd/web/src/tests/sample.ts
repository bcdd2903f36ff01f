// Parts of runs for the tests.

import type { Attempt, Job, Reason, Run, Step } from "../model/shapes";

export const REASON: Reason = { code: "x", text: "because" };
export const at = (seconds: number): string => new Date(seconds * 1000).toISOString();

export function attempt(fields: Partial<Attempt> = {}): Attempt {
  return {
    attempt: 1, status: "finished", outcome: "success", reason: REASON, exit_code: 0, agent: "web-1", child_run: null,
    queued_at: at(10), dispatched_at: at(12), started_at: at(13), finished_at: at(20), output_bytes: 0, output_dropped: 0, ...fields,
  };
}

export function step(id: string, fields: Partial<Step> = {}): Step {
  return {
    id, name: id, node: "shell", status: "completed", conclusion: "success", reason: REASON, exit_code: 0, outputs: {}, approval: null,
    retry_at: null, started_at: at(13), completed_at: at(20), attempts: [attempt()], counts: {}, blocks_total: 0, blocks: [], ...fields,
  };
}

export function job(id: string, fields: Partial<Job> = {}): Job {
  return {
    id, name: id, parent: null, status: "completed", conclusion: "success", reason: REASON, group: "web", agent: "web-1", server: null,
    key: null, kind: "steps", tries: 1, needs: [], outputs: {}, approval: null, batch: null, started_at: at(10), completed_at: at(20),
    steps_total: fields.steps?.length ?? 0, steps: [], counts: {}, jobs_total: fields.jobs?.length ?? 0, jobs: [], ...fields,
  };
}

export function run(jobs: readonly Job[], fields: Partial<Run> = {}): Run {
  return {
    id: "01J", number: 1, name: "deploy", path: "workflows/deploy.yml", repository: "ops", revision: "8440f31", rerun_of: null,
    trigger: { kind: "push", by: "Ada", principal: null, ref: "refs/heads/main", git: {} },
    status: "completed", conclusion: "success", reason: REASON, created_at: at(0), started_at: at(0), completed_at: at(100), seq: 1,
    parent_run: null, deadline_at: null, inputs: {}, outputs: {}, vars: {}, approvals: [], jobs, ...fields,
  };
}
