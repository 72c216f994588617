// Watches on which nodes the virtual IP stands, by the kernel's own messages inside each load balancer's network.

import { createInterface } from "node:readline";
import { type Readable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { type Topology } from "../../components/topology.ts";
import { type Change, holdersAfter } from "./overlap.ts";
import { besideIn, type Tools } from "./tools.ts";

/** A line of `ip -ts -o monitor address`, if it is about this address. */
export function changeOf(line: string, address: string, node: string): Change | undefined {
  const [, time] = /^\[([^\]]+)\]/.exec(line) ?? [];
  if (time === undefined || !line.includes(` ${address}/`)) return undefined;
  // A container without a time zone tells the time in UTC.
  return { at: Date.parse(`${time}Z`), node, has: !line.includes("Deleted ") };
}

export class Holders {
  readonly changes: Change[] = [];
  readonly #tools: Tools;
  readonly #topology: Topology;
  readonly #watches = new Map<string, () => void>();
  #events: Readable | undefined;
  #stopped = false;

  constructor(tools: Tools, topology: Topology) {
    this.#tools = tools;
    this.#topology = topology;
  }

  /** Begins, and waits until it knows who has the address now. */
  async start(): Promise<void> {
    const nodes = this.#topology.keepalived.map(({ node }) => node.name);
    void this.#follow(nodes);
    const known = nodes.map((name) => this.#watch(name));
    await Promise.all(known);
  }

  /** The nodes that have the address now, by container name. */
  get now(): string[] {
    return holdersAfter(this.changes);
  }

  stop(): void {
    this.#stopped = true;
    for (const end of this.#watches.values()) end();
    this.#events?.destroy();
  }

  /** Resolves once it has heard what stands there now. */
  #watch(node: string): Promise<void> {
    this.#watches.get(node)?.();
    const { address } = this.#topology.vip;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error(`nothing can be heard from inside ${node} after 30 s`)),
        30_000,
      );
      // First the watch, then what is there already: in between nothing gets lost.
      const line = `ip -ts -o monitor address dev eth0 & sleep 0.1; ip -o -4 address show dev eth0; echo ready; wait`;
      const end = besideIn(this.#tools, node, line, (said) => {
        const change = changeOf(said, address, node);
        if (change !== undefined) this.changes.push(change);
        else if (said === "ready") {
          clearTimeout(timer);
          resolve();
        } else if (said.includes(` ${address}/`)) this.changes.push({ at: Date.now(), node, has: true });
      });
      this.#watches.set(node, end);
    });
  }

  /** An anchor that starts has a new network, without the address. */
  async #follow(nodes: readonly string[]): Promise<void> {
    while (!this.#stopped) {
      try {
        const events = (await this.#tools.docker.getEvents({
          filters: { type: ["container"], event: ["start"], container: [...nodes] },
        })) as Readable;
        this.#events = events;
        for await (const line of createInterface({ input: events, crlfDelay: Infinity })) {
          if (line.trim() === "") continue;
          const { Actor, timeNano } = JSON.parse(line) as {
            Actor: { Attributes: { name: string } };
            timeNano: number;
          };
          const { name } = Actor.Attributes;
          if (!nodes.includes(name)) continue;
          // The watch of the last network has said so when it ended, unless it ended first.
          this.changes.push({ at: timeNano / 1e6, node: name, has: false });
          this.#watch(name).catch(() => undefined);
        }
      } catch {
        // The daemon went away: it is asked again until the run ends.
      }
      await sleep(250);
    }
  }
}
