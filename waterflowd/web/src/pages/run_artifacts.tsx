// The artifacts of a run: what each contains, who stored it, until when it is kept, and its files to download.

import { useEffect, useState } from "preact/hooks";
import type { JSX } from "preact";
import { useQuery } from "../live/query";
import { view } from "../live/router";
import { artifactAddress, artifactsAddress, contentAddress, type Artifact, type ArtifactFiles } from "../model/artifacts";
import { visible } from "../model/lines";
import { bytesText } from "../model/log/sizes";
import { Empty, ProblemNote, Waiting } from "../parts/problem";
import { Time } from "../parts/time";
import { texts } from "../texts";

const words = texts.artifacts;
/** Files that are listed; the archive has all of them. */
const FILES_SHOWN = 200;

/** `seq` is the newest event of the run: a step that ends may have stored something. */
export function Artifacts({ run, seq }: { readonly run: string; readonly seq: number }): JSX.Element {
  const query = useQuery<{ readonly artifacts: readonly Artifact[] }>(artifactsAddress(run));
  useEffect(() => query.again(), [seq]);
  const problem = query.problem.value;
  const found = query.value.value?.artifacts ?? null;
  if (problem !== null) return problem.status === 404 ? <Empty><p>{visible(problem.detail)}</p></Empty> : <ProblemNote problem={problem} again={query.again} />;
  if (found === null) return <Waiting rows={4} />;
  if (found.length === 0) return <Empty><p>{words.none}</p></Empty>;
  return (
    <section class="panel artifacts" aria-label={words.title}>
      <ul>{found.map((one) => <Row key={one.name} run={run} artifact={one} />)}</ul>
    </section>
  );
}

function Row({ run, artifact }: { readonly run: string; readonly artifact: Artifact }): JSX.Element {
  const [isOpen, setOpen] = useState(false);
  const { name, removal } = artifact;
  const from = `${artifact.job}/${artifact.step}`;
  return (
    <li class={removal === null ? "" : "removed"}>
      <div class="artifact">
        <b>{visible(name)}</b>
        <span class="num">{words.files(artifact.files)} · {bytesText(artifact.bytes)}</span>
        <span class="from">
          <a class="mono" href={`?place=${encodeURIComponent(from)}`} onClick={(event) => { event.preventDefault(); view({ view: null, place: from }); }}>{visible(from)}</a>
          {" · "}<Time at={artifact.created_at} />
          {artifact.kept_from !== null && <> · <a href={`/runs/${artifact.kept_from}`}>{words.keptFrom}</a></>}
        </span>
        <span class="kept">
          {removal !== null ? <>{words.removed(removal.reason, removal.by === null ? null : visible(removal.by))} <Time at={removal.at} /></>
            : artifact.expires_at === null ? words.keptWithRun : <>{words.expires} <Time at={artifact.expires_at} /></>}
        </span>
        {removal === null && (
          <span class="artifact-actions">
            <button type="button" class="small" aria-expanded={isOpen} aria-label={words.showFiles(visible(name))} onClick={() => setOpen(!isOpen)}>{words.list}</button>
            <a href={contentAddress(run, name)} download aria-label={words.downloadAll(visible(name))}>{words.tar}</a>
          </span>
        )}
      </div>
      {isOpen && removal === null && <Files run={run} name={name} total={artifact.files} />}
    </li>
  );
}

function Files({ run, name, total }: { readonly run: string; readonly name: string; readonly total: number }): JSX.Element {
  const query = useQuery<ArtifactFiles>(`${artifactAddress(run, name)}?limit=${FILES_SHOWN}`);
  const problem = query.problem.value;
  const found = query.value.value;
  if (problem !== null) return <ProblemNote problem={problem} again={query.again} />;
  if (found === null) return <Waiting rows={2} />;
  return (
    <>
      <ul class="artifact-files" aria-label={words.filesOf(visible(name))}>
        {found.files.map((file) => <li key={file.path}><a class="mono" href={contentAddress(run, name, file.path)} download>{visible(file.path)}</a> <span class="num">{bytesText(file.bytes)}</span></li>)}
      </ul>
      {found.next !== null && <p class="quiet-line">{words.cut(found.files.length, total)}</p>}
    </>
  );
}
