// A stack of its own on the recording plugins: runs the engine, reads what was recorded and what the state holds.

import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { installRecorders } from "../../offline/recorder/install.ts";
import { type Entry, instanceType, readRecord, World } from "../../offline/recorder/world.ts";
import { type Request, type Result } from "./run.ts";

const run = promisify(execFile);
const minutes = 60_000;

/** One run's result, and what the recorders did in it. */
export interface Run extends Result {
  readonly record: readonly Entry[];
}

export interface RecordedResource {
  readonly urn: string;
  readonly type: string;
  readonly id?: string;
  readonly provider?: string;
  readonly protect?: boolean;
  readonly retainOnDelete?: boolean;
  readonly inputs?: Record<string, unknown>;
  readonly outputs?: Record<string, unknown>;
}

export type Operation = "up" | "preview" | "refresh" | "destroy";

export class RecordedStack {
  readonly folder = mkdtempSync(join(tmpdir(), "siem-ha-engine-"));

  constructor(private readonly request: Omit<Request, "folder" | "replace" | "refresh">) {
    installRecorders(join(this.folder, "home"));
  }

  async run(operation: Operation, more: Partial<Request> = {}): Promise<Run> {
    const before = this.record().length;
    const stdout = await this.#engine(operation, { folder: this.folder, ...this.request, ...more });
    // Whatever the program prints comes before the one line with the result.
    const result = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Result;
    return { ...result, record: this.record().slice(before) };
  }

  /** Runs test/engine/run.ts; a process that hangs before it runs a line (offline/recorder/install.ts) is begun anew. */
  async #engine(operation: Operation, request: Request, attempts = 3): Promise<string> {
    const child = run(process.execPath, ["--import", "tsx", join(import.meta.dirname, "run.ts"), operation], {
      cwd: join(import.meta.dirname, "../.."),
      maxBuffer: 256 * 1024 * 1024,
      timeout: 8 * minutes,
    });
    let begun = false;
    child.child.stderr?.on("data", () => (begun = true));
    const watch = setTimeout(() => {
      if (!begun) child.child.kill("SIGKILL");
    }, minutes);
    child.child.stdin?.on("error", () => undefined);
    child.child.stdin?.end(JSON.stringify(request));
    try {
      return (await child).stdout;
    } catch (error) {
      if (begun || attempts === 1) throw error;
      return await this.#engine(operation, request, attempts - 1);
    } finally {
      clearTimeout(watch);
    }
  }

  record(): Entry[] {
    return readRecord(this.folder);
  }

  /** The state file as it lies on disk, secrets encrypted. */
  state(): string {
    return readFileSync(this.#stateFile(), "utf8");
  }

  #stateFile(): string {
    const { project, stack } = this.request;
    return join(this.folder, ".pulumi", "stacks", project, `${stack}.json`);
  }

  resources(): RecordedResource[] {
    const { checkpoint } = JSON.parse(this.state()) as {
      checkpoint: { latest?: { resources?: RecordedResource[] } };
    };
    return checkpoint.latest?.resources ?? [];
  }

  /** Changes the state file as `pulumi stack export` and `import` would. */
  edit(change: (resource: RecordedResource) => RecordedResource): void {
    const whole = JSON.parse(this.state()) as { checkpoint: { latest: { resources: RecordedResource[] } } };
    whole.checkpoint.latest.resources = whole.checkpoint.latest.resources.map(change);
    writeFileSync(this.#stateFile(), JSON.stringify(whole));
  }

  /** Ends a machine as a power cut would: nobody told Pulumi. */
  lose(machine: string): void {
    const urn = this.urn(instanceType, machine);
    const id = this.resources().find((resource) => resource.urn === urn)?.id ?? "";
    new World(this.folder).note({
      plugin: "aws",
      op: "lose",
      type: instanceType,
      name: machine,
      urn,
      id,
      inputs: {},
    });
  }

  /** The URN of the one resource of this type and name. */
  urn(type: string, name: string): string {
    const found = this.resources().filter(
      (resource) => resource.type === type && resource.urn.split("::").at(-1) === name,
    );
    const [only] = found;
    if (only === undefined || found.length > 1) {
      throw new Error(`${found.length} resources of type ${type} are named ${name}; one was expected`);
    }
    return only.urn;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
