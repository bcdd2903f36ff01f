// The artifacts of a run as the API lists them, and where to download them.

export interface Artifact {
  readonly name: string;
  readonly files: number;
  readonly bytes: number;
  readonly job: string;
  readonly step: string;
  readonly created_at: string;
  readonly expires_at: string | null;
  readonly kept_from: string | null;
  /** What became of it; null as long as it can be downloaded. */
  readonly removal: { readonly at: string; readonly reason: "expired" | "deleted"; readonly by: string | null } | null;
}

export interface ArtifactFile {
  readonly path: string;
  readonly bytes: number;
}

export interface ArtifactFiles {
  readonly files: readonly ArtifactFile[];
  readonly next: number | null;
}

export const artifactsAddress = (run: string): string => `/v1/runs/${encodeURIComponent(run)}/artifacts`;
export const artifactAddress = (run: string, name: string): string => `${artifactsAddress(run)}/${encodeURIComponent(name)}`;

/** The address of all files as a tar archive, or of one file. */
export function contentAddress(run: string, name: string, path?: string): string {
  const query = path === undefined ? "" : `?path=${encodeURIComponent(path)}`;
  return `${artifactAddress(run, name)}/content${query}`;
}
