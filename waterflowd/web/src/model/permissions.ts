// What a role may do, and which of the actions on a run make sense now. The server decides; this only says so beforehand.

import type { Role, RunSummary } from "./shapes";
import { isBad, stateOf } from "./states";

const INCLUDES: Readonly<Record<Role, readonly Role[]>> = {
  viewer: ["viewer"],
  runner: ["viewer", "runner"],
  approver: ["viewer", "runner", "approver"],
  operator: ["viewer", "operator"],
  admin: ["viewer", "runner", "approver", "operator", "admin"],
};

export function may(role: Role, needed: Role): boolean {
  return INCLUDES[role].includes(needed);
}

export type Action = "cancel" | "rerun" | "rerun-failed" | "approve" | "reject";

export const NEEDS: Readonly<Record<Action, Role>> = {
  cancel: "runner",
  rerun: "runner",
  "rerun-failed": "runner",
  approve: "approver",
  reject: "approver",
};

/** Whether the action fits the state of the run. */
export function fits(action: Action, run: RunSummary): boolean {
  const isCompleted = run.status === "completed";
  if (action === "cancel") return !isCompleted;
  if (action === "rerun") return isCompleted;
  if (action === "rerun-failed") return isCompleted && (isBad(stateOf(run)) || stateOf(run) === "cancelled");
  return !isCompleted;
}
