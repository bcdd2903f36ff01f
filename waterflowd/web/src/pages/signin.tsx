// Sign-in: by a token, or by the one-time address of `waterflowctl web`, whose code is in the fragment.

import { useEffect, useState } from "preact/hooks";
import type { JSX } from "preact";
import { ApiError, signIn } from "../live/api";
import { forgetHash, open, place } from "../live/router";
import type { Problem } from "../model/shapes";
import { Command } from "../parts/copy";
import { Logo } from "../parts/logo";
import { ProblemNote } from "../parts/problem";
import { texts } from "../texts";

const words = texts.signIn;
const LOCAL = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

export function SignIn(): JSX.Element {
  const [problem, setProblem] = useState<Problem | null>(null);
  const [isWorking, setWorking] = useState(false);
  const code = place.value.path === "/signin" ? place.value.hash.slice(1) : "";
  useEffect(() => void (document.title = `${words.title} · ${texts.product}`), []);
  // Also when the address gets a code while this page is open: the browser does not load it again for a fragment.
  useEffect(() => {
    if (code === "") return;
    // The code works once, so it need not stay in the history of the browser.
    forgetHash();
    setWorking(true);
    signIn({ code })
      .then(() => open("/"), (error: unknown) => setProblem(error instanceof ApiError ? error.problem : null))
      .finally(() => setWorking(false));
  }, [code]);
  return (
    <main class="signin" id="content">
      <section class="card">
        <h1><Logo /> {texts.product}</h1>
        {isWorking && <p role="status">{words.link}</p>}
        {problem && <ProblemNote problem={problem} />}
        <SignInForm />
        <p>{words.where}</p>
        <Command text={words.command} />
        <p>{words.whereToken}</p>
        <Command text={words.tokenCommand} />
        {location.protocol !== "https:" && !LOCAL.test(location.hostname) && <p class="note warn">{words.insecure}</p>}
      </section>
    </main>
  );
}

export function SignInForm(): JSX.Element {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  const [isWorking, setWorking] = useState(false);
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    setWorking(true);
    setProblem(null);
    try {
      await signIn({ token: token.trim() });
      setToken("");
      if (place.peek().path === "/signin") open("/");
    } catch (error) {
      if (error instanceof ApiError) setProblem(error.problem);
    } finally {
      setWorking(false);
    }
  };
  return (
    <form class="signin-form" onSubmit={(event) => void submit(event)}>
      <label for="token">{words.token}</label>
      <input id="token" type="password" autocomplete="off" required placeholder={words.placeholder} value={token} onInput={(event) => setToken(event.currentTarget.value)} />
      <button type="submit" class="primary" disabled={isWorking}>{isWorking ? words.working : words.button}</button>
      {problem && <ProblemNote problem={problem} />}
    </form>
  );
}
