// Breaks things in Docker as a scenario says, and takes every fault back when its time is over, or on a Ctrl-C.

import { readFileSync } from "node:fs";
import { exists, ensureDockerEngine } from "../docker-engine.ts";
import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { names, type Topology } from "../../components/topology.ts";
import { noDisk, SmallDisk } from "./disk.ts";
import { type Card, cut, mend } from "./network.ts";
import { type Fault, type Parts, placesOf, type Victim } from "./scenarios.ts";
import { inNetwork, type Tools } from "./tools.ts";

const run = promisify(execFile);

/** It can't be done on this machine; nothing was broken. */
export class CannotBreak extends Error {}

/** What a service has to stop, seconds: Docker's own default, as a person's `docker stop` has it. */
const graceSeconds = 10;
const anchorGraceSeconds = 1;
const reloadPauseMs = 500;

export interface FaultsOptions {
  readonly tools: Tools;
  readonly topology: Topology;
  readonly log: (line: string) => void;
  /** Is told when a node is off the network for good, before its containers end one by one. */
  readonly lost: (node: string, at: number) => void;
}

export class Faults {
  readonly #options: FaultsOptions;
  /** How to take back what is broken now. */
  readonly #undo = new Set<() => Promise<void>>();
  #over = false;

  constructor(options: FaultsOptions) {
    this.#options = options;
  }

  /** Takes back all that is broken now; from then on nothing is broken any more. */
  async undoAll(): Promise<void> {
    this.#over = true;
    await Promise.allSettled([...this.#undo].map((undo) => undo()));
  }

  /** Whether something is broken that has to be taken back. */
  get pending(): boolean {
    return this.#undo.size > 0;
  }

  /**
   * Breaks it, waits as long as it lasts, and takes it back.
   * @returns when it began to count, milliseconds since 1970.
   * @throws CannotBreak where this machine can't do it.
   */
  async apply(fault: Fault, parts: Parts): Promise<number> {
    if (this.#over) throw new Error("interrupted");
    switch (fault.do) {
      case "kill": {
        const containers = await this.#containersOf(fault.victims, parts);
        const nodes = this.#anchorsOf(fault.victims, parts);
        // A machine that is lost says no goodbye, whichever of its parts Docker ends first.
        const at = nodes.length === 0 ? Date.now() : await this.#cutOff(nodes);
        this.#say("killed", containers);
        await Promise.all(containers.map((name) => this.#get(name).kill()));
        return at;
      }
      case "kill, then start": {
        const containers = await this.#containersOf(fault.victims, parts);
        return this.#while(
          fault.seconds,
          async () => {
            this.#say("killed", containers);
            await Promise.all(containers.map((name) => this.#get(name).kill()));
          },
          () => this.#start(containers),
        );
      }
      case "stop": {
        const containers = await this.#containersOf(fault.victims, parts);
        return this.#while(
          fault.seconds,
          async () => {
            await Promise.all(containers.map((name) => this.#get(name).stop({ t: graceSeconds })));
            this.#say("stopped", containers);
          },
          () => this.#start(containers),
        );
      }
      case "pause": {
        const containers = await this.#containersOf(fault.victims, parts);
        return this.#while(
          fault.seconds,
          async () => {
            await Promise.all(containers.map((name) => this.#get(name).pause()));
            this.#say("paused", containers);
          },
          async () => {
            await Promise.all(
              containers.map((name) =>
                this.#get(name)
                  .unpause()
                  // It is not paused, or gone.
                  .catch(unless(409, 500)),
              ),
            );
            this.#say("thawed", containers);
          },
        );
      }
      case "restart":
        return this.#restart(fault.victims, parts);
      case "reload": {
        const containers = await this.#containersOf(fault.victims, parts);
        const at = Date.now();
        for (let count = 0; count < fault.times; count++) {
          await Promise.all(containers.map((name) => this.#get(name).kill({ signal: "SIGUSR2" })));
          await sleep(reloadPauseMs);
        }
        this.#say(`reloaded ${fault.times} times`, containers);
        return at;
      }
      case "cut":
        return this.#cut(fault, parts);
      case "fill":
        return this.#fill(fault, parts);
      case "restart the daemon":
        return this.#restartDaemon();
    }
  }

  #get(name: string) {
    return this.#options.tools.docker.getContainer(name);
  }

  #say(what: string, containers: readonly string[]): void {
    this.#options.log(`${what} ${containers.join(", ")}`);
  }

  /** Breaks something for a time. Whatever happens, it is taken back. */
  async #while(seconds: number, start: () => Promise<void>, undo: () => Promise<void>): Promise<number> {
    const at = Date.now();
    let undone: Promise<void> | undefined;
    // Once, whoever asks for it.
    const once = () => (undone ??= undo());
    this.#undo.add(once);
    try {
      await start();
      await sleep(seconds * 1000);
    } finally {
      await once();
      this.#undo.delete(once);
    }
    return at;
  }

  async #start(containers: readonly string[]): Promise<void> {
    // Started already, by whomever.
    await Promise.all(containers.map((name) => this.#get(name).start().catch(unless(304))));
    this.#say("started", containers);
  }

  #anchorsOf(victims: readonly Victim[], parts: Parts): string[] {
    return victims.flatMap((victim) => placesOf(victim, this.#options.topology, parts).anchors);
  }

  /** Everything that is hit; of a node, all that shares its anchor's network. */
  async #containersOf(victims: readonly Victim[], parts: Parts): Promise<string[]> {
    const named = victims.flatMap((victim) => placesOf(victim, this.#options.topology, parts).containers);
    const anchors = this.#anchorsOf(victims, parts);
    if (anchors.length === 0) return named;
    const { docker, label } = this.#options.tools;
    const all = (
      await docker.listContainers({ all: true, filters: { label: [`${names.label}=${label}`] } })
    ).map(({ Id, Names, HostConfig }) => ({
      id: Id,
      name: Names[0]?.slice(1) ?? Id,
      joins: HostConfig.NetworkMode.replace(/^container:/, ""),
    }));
    const own = all.filter(({ name }) => anchors.includes(name));
    const guests = all.filter(({ joins }) => own.some(({ id, name }) => joins === id || joins === name));
    return [...named, ...own.map(({ name }) => name), ...guests.map(({ name }) => name)];
  }

  async #restart(victims: readonly Victim[], parts: Parts): Promise<number> {
    const anchors = this.#anchorsOf(victims, parts);
    const containers = await this.#containersOf(victims, parts);
    const isNode = (name: string) => this.#options.topology.nodes.some((node) => node.name === name);
    const at = Date.now();
    if (anchors.length === 0) {
      await Promise.all(
        containers.map((name) =>
          this.#get(name).restart({ t: isNode(name) ? anchorGraceSeconds : graceSeconds }),
        ),
      );
      this.#say("restarted", containers);
      return at;
    }
    const guests = containers.filter((name) => !anchors.includes(name));
    return this.#while(
      0,
      async () => {
        await Promise.all(guests.map((name) => this.#get(name).stop({ t: graceSeconds })));
        await Promise.all(anchors.map((name) => this.#get(name).restart({ t: anchorGraceSeconds })));
      },
      () => this.#start([...anchors, ...guests]),
    );
  }

  async #cards(victims: readonly Victim[], parts: Parts): Promise<Card[]> {
    return this.#cardsOf(this.#anchorsOf(victims, parts));
  }

  async #cardsOf(anchors: readonly string[]): Promise<Card[]> {
    const { network } = this.#options.topology;
    return Promise.all(
      anchors.map(async (node) => {
        const found = (await this.#get(node).inspect()).NetworkSettings.Networks[network?.name ?? ""];
        if (found === undefined) throw new CannotBreak(`${node} is not on ${network?.name}`);
        return { node, mac: found.MacAddress, address: found.IPAddress };
      }),
    );
  }

  /** @returns when the last rule was in place. */
  async #drop(rules: ReadonlyMap<string, string>): Promise<number> {
    const times = await Promise.all(
      [...rules].map(([node, line]) =>
        inNetwork(this.#options.tools, node, line).catch((error: unknown) => {
          throw new CannotBreak(
            `${(error as Error).message} (frames are dropped by nftables; outgoing ones need Linux 5.16 or newer)`,
          );
        }),
      ),
    );
    return Math.max(...times.map((text) => Number(text.trim()) * 1000));
  }

  /** Takes nodes off the network for good: they are about to die. */
  async #cutOff(anchors: readonly string[]): Promise<number> {
    const at = await this.#drop(cut(await this.#cardsOf(anchors)));
    for (const node of anchors) this.#options.lost(node, at);
    return at;
  }

  async #cut(fault: Extract<Fault, { do: "cut" }>, parts: Parts): Promise<number> {
    const rules = cut(
      await this.#cards(fault.side, parts),
      fault.from === undefined ? undefined : await this.#cards(fault.from, parts),
    );
    let at = Date.now();
    await this.#while(
      fault.seconds,
      async () => {
        at = await this.#drop(rules);
        this.#say("cut off", [...rules.keys()]);
      },
      async () => {
        await Promise.all(
          [...rules.keys()].map(async (node) => {
            for (let attempt = 1; ; attempt++) {
              try {
                await inNetwork(this.#options.tools, node, mend);
                return;
              } catch (error) {
                // A node that is down has lost the rules with its network.
                const { State } = await this.#get(node).inspect();
                if (!State.Running) return;
                if (attempt === 3) throw error;
              }
            }
          }),
        );
        this.#say("mended the cut of", [...rules.keys()]);
      },
    );
    return at;
  }

  async #fill(fault: Extract<Fault, { do: "fill" }>, parts: Parts): Promise<number> {
    const { docker } = this.#options.tools;
    const containers = await this.#containersOf(fault.victims, parts);
    const [name] = containers;
    if (name === undefined || containers.length > 1) throw new Error("one disk at a time");
    const volume = `${name}-data`;
    const refusal = await noDisk(docker, volume);
    if (refusal !== undefined) throw new CannotBreak(refusal);
    let disk: SmallDisk | undefined;
    const stop = () => this.#get(name).stop({ t: graceSeconds }).catch(unless(304));
    let at = Date.now();
    await this.#while(
      fault.seconds,
      async () => {
        await stop();
        disk = await SmallDisk.over(docker, volume);
        await this.#get(name).start();
        await sleep(2000);
        await disk.fill();
        at = Date.now();
        this.#say("filled the disk of", [name]);
      },
      async () => {
        disk?.free();
        // It is to see the space itself before its data goes back to the real disk.
        await sleep(3000);
        await stop();
        await disk?.remove();
        await this.#start([name]);
      },
    );
    return at;
  }

  async #restartDaemon(): Promise<number> {
    const ensure = () => ensureDockerEngine(this.#options.log, this.#options.tools.dockerHost);
    return this.#while(
      0,
      async () => {
        if (await exists("/run/systemd/system")) {
          await run("systemctl", ["stop", "docker.socket", "docker.service"]);
        } else {
          const pid = Number(readFileSync("/var/run/docker.pid", "utf8"));
          process.kill(pid, "SIGTERM");
          while (await exists(`/proc/${pid}`)) await sleep(200);
        }
        this.#options.log("stopped the Docker daemon");
      },
      async () => {
        await ensure();
        this.#options.log("started the Docker daemon");
      },
    );
  }
}

/** Lets these answers of Docker's pass. */
function unless(...codes: readonly number[]): (error: unknown) => void {
  return (error) => {
    if (!codes.includes((error as { statusCode?: number }).statusCode ?? 0)) throw error;
  };
}
