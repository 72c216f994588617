// The operator commands themselves on the recording plugins: a copy of the project with a stack of its own, a `docker`
// that answers for machines as the record says, and no `aws`.

import { spawn } from "node:child_process";
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse, stringify } from "yaml";
import { installRecorders } from "../../offline/recorder/install.ts";
import { type Entry, folderVariable, instanceType, readRecord, World } from "../../offline/recorder/world.ts";
import { type RecordedResource } from "./harness.ts";

const root = join(import.meta.dirname, "../..");
/** The virtual IP may be that of a stack on this machine. */
const nobody = "data:text/javascript,globalThis.fetch=()=>Promise.reject(new Error('no platform'))";
/** A script of the tests that may use the commands' modules. */
export const driver = "replace.ts";
const copied = ["components", "images", "offline", "ops", "services", "index.ts", "Pulumi.yaml"].concat(
  "package.json",
  "package-lock.json",
);

export interface Ended {
  readonly status: number | null;
  readonly said: string;
  /** What the recorders did meanwhile. */
  readonly record: readonly Entry[];
}

export class CommandedStack {
  readonly folder = mkdtempSync(join(tmpdir(), "siem-ha-commands-"));
  readonly name = "dev";
  readonly #project = join(this.folder, "project");
  #config: Record<string, unknown>;

  constructor() {
    installRecorders(join(this.folder, "home"));
    for (const name of copied) {
      cpSync(join(root, name), join(this.#project, name), { recursive: true, preserveTimestamps: true });
    }
    cpSync(join(root, "test/engine", driver), join(this.#project, driver));
    symlinkSync(join(root, "node_modules"), join(this.#project, "node_modules"));
    const file = readFileSync(join(root, `Pulumi.${this.name}.yaml`), "utf8");
    const { config } = parse(file) as { config: Record<string, unknown> };
    this.#config = {
      ...config,
      "siem-ha:aws": {
        ...(config["siem-ha:aws"] as object),
        admin: { sshPublicKeys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOperatorOfTheTests operator"] },
      },
    };
    this.set({});
    mkdirSync(join(this.folder, "bin"));
    // What happened last to the machine says whether it answers; nothing else is answered.
    const docker = `#!/bin/sh
id=\${2##*@}
last=$(grep "\\"id\\":\\"$id\\"" "${this.folder}/record.jsonl" | grep -oE '"op":"(create|lose|silence|wake|delete)"' | tail -n 1)
case "$last" in
  *lose* | *silence* | *delete* | "") echo "ssh: connect to host $id port 22: Connection timed out" >&2; exit 255 ;;
esac
[ "$3" = version ]
`;
    const path = join(this.folder, "bin/docker");
    writeFileSync(path, docker);
    chmodSync(path, 0o755);
  }

  /** Changes the stack's file. */
  set(values: Readonly<Record<string, unknown>>): void {
    this.#config = { ...this.#config, ...values };
    writeFileSync(join(this.#project, `Pulumi.${this.name}.yaml`), stringify({ config: this.#config }));
  }

  /** Runs a command to its end, with nobody at a terminal. */
  async run(script: string, ...args: string[]): Promise<Ended> {
    const before = readRecord(this.folder).length;
    const child = spawn(process.execPath, ["--import", nobody, "ops/run.mjs", script, ...args], {
      cwd: this.#project,
      env: {
        ...process.env,
        PATH: `${join(this.folder, "bin")}:${process.env["PATH"] ?? ""}`,
        PULUMI_HOME: join(this.folder, "home"),
        PULUMI_SKIP_CHECKPOINTS: "true",
        SIEM_HA_STATE: join(this.folder, "state"),
        [folderVariable]: this.folder,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let said = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const status = await new Promise<number | null>((resolve) => child.once("close", resolve));
    return { status, said, record: readRecord(this.folder).slice(before) };
  }

  resources(): RecordedResource[] {
    const file = join(this.folder, "state/.pulumi/stacks/siem-ha", `${this.name}.json`);
    const { checkpoint } = JSON.parse(readFileSync(file, "utf8")) as {
      checkpoint: { latest?: { resources?: RecordedResource[] } };
    };
    return checkpoint.latest?.resources ?? [];
  }

  /** What happens to a machine without Pulumi: it is gone, it answers nobody, or it does again. */
  happens(op: "lose" | "silence" | "wake", machine: string): void {
    const found = new World(this.folder)
      .things()
      .find(({ type, name }) => type === instanceType && name === machine);
    if (found === undefined) throw new Error(`there is no machine ${machine}`);
    const { type, name, urn, id } = found;
    new World(this.folder).note({ plugin: "aws", op, type, name, urn, id, inputs: {} });
  }

  /** The ids of the machines that there are, by name. */
  machines(): Record<string, string> {
    const things = new World(this.folder).things().filter(({ type }) => type === instanceType);
    return Object.fromEntries(things.map(({ name, id }) => [name, id]));
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
