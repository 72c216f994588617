// Puts what a command measured into a document, in place of what it measured the last time.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, release, totalmem } from "node:os";
import { isAbsolute, join } from "node:path";
import { format, resolveConfig } from "prettier";
import { root } from "./workspace.ts";

/** The machine, for people who compare figures. */
export function machine(): string {
  const [cpu] = cpus();
  const server = execFileSync("docker", ["version", "--format", "{{.Server.Version}}"], { encoding: "utf8" });
  return `${cpus().length} × ${cpu?.model.trim() ?? "unknown processor"}, ${Math.round(totalmem() / 1024 ** 3)} GiB, Linux ${release()}, Docker ${server.trim()}, Node ${process.versions.node}`;
}

/** Where a section stands in a document; a document without it gets it at the end. */
export function withSection(document: string, name: string, text: string): string {
  const marker = (part: string) => `<!-- ${name} ${part} -->`;
  const section = `${marker("begin")}\n\n${text.trim()}\n\n${marker("end")}`;
  const from = document.indexOf(marker("begin"));
  const to = document.indexOf(marker("end"));
  return from === -1 || to === -1
    ? `${document.trimEnd()}\n\n${section}\n`
    : document.slice(0, from) + section + document.slice(to + marker("end").length);
}

/**
 * Writes a section into a document of the project.
 * @param file from the project's directory
 * @param beginning of the document, where there is none yet
 */
export async function putSection(file: string, name: string, text: string, beginning: string): Promise<void> {
  const path = isAbsolute(file) ? file : join(root, file);
  const before = existsSync(path) ? readFileSync(path, "utf8") : beginning;
  const after = withSection(before, name, text);
  writeFileSync(path, await format(after, { ...(await resolveConfig(path)), filepath: path }));
}
