// Requests to the API. Every request of the pages passes here.

import { effect, signal } from "@preact/signals";
import type { Problem, Role, Session } from "../model/shapes";
import { texts } from "../texts";

/** Who is signed in; null before that is known, "none" when nobody is. */
export const session = signal<Session | "none" | null>(null);
/** Whether a session ended while a page was open. */
export const hasEnded = signal(false);

effect(() => {
  if (session.value !== "none" && session.value !== null) hasEnded.value = false;
});

export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

export interface Options {
  readonly body?: unknown;
  readonly signal?: AbortSignal;
  readonly headers?: Readonly<Record<string, string>>;
}

/** The answer as it comes; an `ApiError` for anything but success. */
export async function send(method: string, path: string, options: Options = {}): Promise<Response> {
  const headers: Record<string, string> = { Accept: "application/json", ...options.headers };
  // Pages of other origins cannot send this header without being asked first.
  if (method !== "GET") headers["X-Waterflow"] = "1";
  if (options.body !== undefined) headers["Content-Type"] = "application/json";
  let answer: Response;
  try {
    answer = await fetch(path, {
      method,
      headers,
      credentials: "same-origin",
      ...(options.body === undefined ? {} : { body: JSON.stringify(options.body) }),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError({ status: 0, title: texts.unreachable, detail: texts.unreachable, code: "" });
  }
  if (answer.ok) return answer;
  const problem = await problemOf(answer);
  if (answer.status === 401 && path !== "/v1/session") {
    if (session.peek() !== null && session.peek() !== "none") hasEnded.value = true;
    session.value = "none";
  }
  throw new ApiError(problem);
}

export async function request<T>(method: string, path: string, options: Options = {}): Promise<T> {
  const answer = await send(method, path, options);
  return (answer.status === 204 ? null : await answer.json()) as T;
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> =>
  request<T>("GET", path, signal === undefined ? {} : { signal });

async function problemOf(answer: Response): Promise<Problem> {
  try {
    const found = (await answer.json()) as Partial<Problem>;
    return {
      status: answer.status,
      title: found.title ?? answer.statusText,
      detail: found.detail ?? answer.statusText,
      code: found.code ?? "",
    };
  } catch {
    return { status: answer.status, title: answer.statusText, detail: `${answer.status} ${answer.statusText}`, code: "" };
  }
}

/** Asks who is signed in. */
export async function learn(): Promise<void> {
  try {
    session.value = await get<Session>("/v1/session");
  } catch (error) {
    if (!(error instanceof ApiError) || error.problem.status !== 401) throw error;
    session.value = "none";
  }
}

export async function signIn(with_: { readonly token: string } | { readonly code: string }): Promise<void> {
  await request("POST", "/v1/session", { body: with_ });
  await learn();
}

export async function signOut(): Promise<void> {
  await send("DELETE", "/v1/session");
  session.value = "none";
  hasEnded.value = false;
}

/** The role of who is signed in; the lowest one as long as nobody is. */
export function role(): Role {
  const now = session.value;
  return now === null || now === "none" ? "viewer" : now.role;
}
