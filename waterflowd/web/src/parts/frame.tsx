// What is around every page: rail, top bar, connection sign, and the dialogue of a session that has ended.

import { signal } from "@preact/signals";
import type { ComponentChildren, JSX } from "preact";
import { hasEnded, session, signOut } from "../live/api";
import { theme, type Theme } from "../live/choices";
import { place } from "../live/router";
import { connection } from "../live/stream";
import { visible } from "../model/lines";
import { clock } from "../model/times";
import { SignInForm } from "../pages/signin";
import { texts } from "../texts";
import { Dialog } from "./dialog";
import { FindBox } from "./find_box";
import { useKeys } from "./keys";
import { Logo } from "./logo";
import { StatusLine } from "./status_line";

const showsKeys = signal(false);
const THEMES: readonly Theme[] = ["system", "light", "dark"];
const THEME_ICONS: Readonly<Record<Theme, string>> = { system: "◐", light: "☀", dark: "☾" };

const ICONS: Readonly<Record<string, () => JSX.Element>> = {
  overview: () => <path d="M2 9h4l2-6 3 11 2-5h2" />,
  runs: () => <path d="M3 3.500h2M3 8h2M3 12.500h2M7.500 3.500H14M7.500 8H14M7.500 12.500H14" />,
  settings: () => <><circle cx="8" cy="8" r="2.200" /><path d="M8 1.500v2.300M8 12.200v2.300M1.500 8h2.300M12.200 8h2.300M3.400 3.400L5 5M11 11l1.600 1.600M12.600 3.400L11 5M5 11l-1.600 1.600" /></>,
};

export function Frame({ children }: { readonly children: ComponentChildren }): JSX.Element {
  useKeys({ "?": () => (showsKeys.value = true), t: nextTheme });
  return (
    <>
      <a class="skip" href="#content">{texts.skip}</a>
      <header class="top">
        <a class="brand" href="/" aria-label={texts.product}><Logo /><b>{texts.product}</b></a>
        <FindBox />
        <ConnectionSign />
        <button type="button" class="quiet icon" title={texts.settingsPage.theme} aria-label={`${texts.settingsPage.theme}: ${texts.settingsPage.themes[theme.value]}`} onClick={nextTheme}>
          {THEME_ICONS[theme.value]}
        </button>
        <Me />
      </header>
      <nav class="rail" aria-label={texts.pages}>
        <RailLink href="/" icon="overview" text={texts.overview} />
        <RailLink href="/runs" icon="runs" text={texts.runs} />
        <RailLink href="/settings" icon="settings" text={texts.settings} />
      </nav>
      <main id="content" tabIndex={-1} class={connection.value.state === "lost" ? "stale" : ""}>
        {session.value !== null && session.value !== "none" && session.value.way === "open" && <p class="banner">{texts.open}</p>}
        {connection.value.state === "lost" && <p class="banner" role="status">{texts.connection.lostHelp}</p>}
        {children}
      </main>
      <StatusLine />
      {showsKeys.value && <Keys />}
      {hasEnded.value && <Dialog title={texts.signIn.title} isModalOnly onClose={() => undefined}><p>{texts.signIn.ended}</p><SignInForm /></Dialog>}
    </>
  );
}

function nextTheme(): void {
  theme.value = THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length] ?? "system";
}

function RailLink({ href, icon, text }: { readonly href: string; readonly icon: string; readonly text: string }): JSX.Element {
  const { path } = place.value;
  const isHere = href === "/" ? path === "/" : path.startsWith(href);
  return (
    <a href={href} {...(isHere ? { "aria-current": "page" } : {})}>
      <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" class="line-icon">{ICONS[icon]?.()}</svg>
      <span>{text}</span>
    </a>
  );
}

function ConnectionSign(): JSX.Element {
  const now = connection.value;
  const text = now.state === "lost" ? texts.connection.lost(clock(now.since)) : texts.connection[now.state];
  return (
    <span class={`connection c-${now.state}`} role="status" title={now.state === "lost" ? texts.connection.lostHelp : undefined}>
      <i aria-hidden="true">{now.state === "live" ? "●" : now.state === "lost" ? "✗" : "◌"}</i><span>{text}</span>
    </span>
  );
}

function Me(): JSX.Element | null {
  const who = session.value;
  if (who === null || who === "none") return null;
  return (
    <span class="me">
      <span class="name" title={`${who.by} · ${who.role}`}>{visible(who.by)} <small>{who.role}</small></span>
      {who.way === "session" && <button type="button" class="small" onClick={() => void signOut()}>{texts.signIn.out}</button>}
    </span>
  );
}

function Keys(): JSX.Element {
  return (
    <Dialog title={texts.keys.title} onClose={() => (showsKeys.value = false)}>
      <dl class="keys">
        {texts.keys.list.map(([key, what]) => (
          <div key={key}><dt>{key.split(" ").map((one) => <kbd key={one}>{one}</kbd>)}</dt><dd>{what}</dd></div>
        ))}
      </dl>
    </Dialog>
  );
}
