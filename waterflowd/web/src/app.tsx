// The pages: which one an address shows, and what starts with them.

import { render } from "preact";
import { useEffect } from "preact/hooks";
import type { JSX } from "preact";
import { hasEnded, learn, session } from "./live/api";
import * as clock from "./live/clock";
import * as router from "./live/router";
import * as stream from "./live/stream";
import { Frame } from "./parts/frame";
import * as keys from "./parts/keys";
import { Empty } from "./parts/problem";
import { addressOf } from "./model/log/ranges";
import { Later } from "./pages/later";
import { Overview } from "./pages/overview";
import { Runs } from "./pages/runs";
import { Settings } from "./pages/settings";
import { SignIn } from "./pages/signin";
import { texts } from "./texts";

function App(): JSX.Element | null {
  const who = session.value;
  const { path } = router.place.value;
  const name = who === null ? null : who === "none" ? "" : who.by;
  useEffect(() => {
    if (name) stream.start();
    else stream.stop();
  }, [name]);
  if (who === null) return null;
  // A session that ends in the middle opens a dialogue over the page, which stays as it is.
  if ((who === "none" && !hasEnded.value) || (path === "/signin" && router.place.value.hash.length > 1)) return <SignIn />;
  return <Frame><Page path={path} /></Frame>;
}

function Page({ path }: { readonly path: string }): JSX.Element {
  const run = /^\/runs\/([^/]+)$/.exec(path)?.[1];
  const log = addressOf(path);
  if (path === "/" || path === "/signin") return <Overview />;
  if (path === "/runs") return <Runs />;
  if (run !== undefined) return <Later show={({ RunPage }) => <RunPage id={decodeURIComponent(run)} key={run} />} />;
  if (log !== null) return <Later show={({ LogPage }) => <LogPage {...log} key={path} />} />;
  if (path === "/settings") return <Settings />;
  return <Empty><h1>{texts.notFound}</h1><p><a href="/">{texts.overview}</a></p></Empty>;
}

router.start();
keys.start();
clock.start();
stream.watchTab();
void learn().catch(() => {
  session.value = "none";
}).finally(() => {
  const root = document.getElementById("app");
  if (root) render(<App />, root);
});
