// What the recorders did, in order, as JSON lines in one file; what exists now follows from it. The plugins are many
// processes (one a provider), and this file is all they share.

import { appendFileSync, closeSync, existsSync, fstatSync, openSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import type { Props } from "../plugins/server.ts";

export const plugins = ["aws", "docker", "command"] as const;
export type PluginName = (typeof plugins)[number];

/** Environment variable that names the folder of the record. */
export const folderVariable = "SIEM_HA_RECORD";

/** One thing that a recorder was asked to do. Secrets stand here in plain text: the folder is a test's own. */
export interface Entry {
  /** Milliseconds since the epoch. */
  readonly at: number;
  readonly plugin: PluginName;
  /** The last three are what happens to a machine without Pulumi: it is gone; it answers nobody; it does again. */
  readonly op: "create" | "read" | "update" | "delete" | "invoke" | "lose" | "silence" | "wake";
  readonly type: string;
  /** The resource's own name; empty for an invoke. */
  readonly name: string;
  readonly urn: string;
  readonly id: string;
  /** The Docker daemon that was asked. */
  readonly host?: string;
  readonly inputs: Props;
  /** Outputs of a create or update. */
  readonly state?: Props;
  /** Why it was refused; nothing happened then. */
  readonly refused?: string;
}

/** A thing that exists. */
export interface Thing {
  readonly type: string;
  readonly name: string;
  readonly urn: string;
  readonly id: string;
  readonly host: string | undefined;
  readonly inputs: Props;
  readonly state: Props;
}

/** Everything recorded so far, in order. */
export function readRecord(folder: string): Entry[] {
  const file = recordFile(folder);
  if (!existsSync(file)) return [];
  return readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Entry);
}

function recordFile(folder: string): string {
  return join(folder, "record.jsonl");
}

/** The emulated account and its machines. */
export class World {
  readonly #file: string;
  readonly #things = new Map<string, Thing>();
  readonly #silent = new Set<string>();
  #offset = 0;

  constructor(folder: string) {
    this.#file = recordFile(folder);
  }

  /** Appends in one write, which the kernel doesn't mix with another process's. */
  note(entry: Omit<Entry, "at">): void {
    appendFileSync(this.#file, `${JSON.stringify({ at: Date.now(), ...entry })}\n`);
  }

  /** What exists now. Ids of containers are unique across daemons, as Docker's are. */
  things(): readonly Thing[] {
    this.#catchUp();
    return [...this.#things.values()];
  }

  find(type: string, id: string, host?: string): Thing | undefined {
    this.#catchUp();
    return this.#things.get(keyOf(type, id, host));
  }

  /** The thing with this id, whatever its type. */
  withId(id: string): Thing | undefined {
    return this.things().find((thing) => thing.id === id);
  }

  /** Whether this machine is there and answers. */
  answers(machine: string): boolean {
    return this.find(instanceType, machine) !== undefined && !this.#silent.has(machine);
  }

  #catchUp(): void {
    if (!existsSync(this.#file)) return;
    const file = openSync(this.#file, "r");
    const buffer = Buffer.alloc(fstatSync(file).size - this.#offset);
    readSync(file, buffer, 0, buffer.length, this.#offset);
    closeSync(file);
    // Another process may be in the middle of its line.
    const end = buffer.lastIndexOf(10) + 1;
    this.#offset += end;
    for (const line of buffer.toString("utf8", 0, end).split("\n")) {
      if (line !== "") this.#replay(JSON.parse(line) as Entry);
    }
  }

  #replay(entry: Entry): void {
    if (entry.refused !== undefined) return;
    const key = keyOf(entry.type, entry.id, entry.host);
    if (entry.op === "silence") this.#silent.add(entry.id);
    if (entry.op === "wake") this.#silent.delete(entry.id);
    if (entry.op === "create" || entry.op === "update") {
      const { type, name, urn, id, host, inputs, state } = entry;
      this.#things.set(key, { type, name, urn, id, host, inputs, state: state ?? {} });
    }
    if (entry.op === "delete" || entry.op === "lose") {
      this.#things.delete(key);
      // A machine takes its containers and images with it, and lets its data disk go; named volumes lie on that.
      if (entry.type !== instanceType) return;
      for (const [other, thing] of this.#things) {
        const on = machineOf(thing.host) === entry.id && thing.type !== dockerVolumeType;
        const attached = thing.type === attachmentType && thing.inputs["instanceId"] === entry.id;
        if (on || attached) this.#things.delete(other);
      }
    }
  }
}

export const instanceType = "aws:ec2/instance:Instance";
const attachmentType = "aws:ec2/volumeAttachment:VolumeAttachment";
export const dockerVolumeType = "docker:index/volume:Volume";

/** The instance id in the address of a machine's Docker daemon. */
export function machineOf(host: string | undefined): string | undefined {
  return /^ssh:\/\/[^@]*@(i-[0-9a-f]+)/.exec(host ?? "")?.[1];
}

/** Why a Docker daemon can't be reached; undefined if it can. */
export function unreachable(world: World, host: string): string | undefined {
  if (!host.startsWith("ssh://")) return undefined;
  const machine = machineOf(host);
  if (machine === undefined)
    return `Could not resolve hostname: ${host} names no instance (ssh://user@i-… is expected)`;
  return world.answers(machine)
    ? undefined
    : `error during connect: ssh: connect to host ${machine} port 22: Connection timed out`;
}

function keyOf(type: string, id: string, host: string | undefined): string {
  return `${type} ${host ?? ""} ${id}`;
}
