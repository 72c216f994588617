// Breaks things in Docker as a scenario says, and takes every fault back when its time is over, or on a Ctrl-C.

import { setTimeout as sleep } from "node:timers/promises";
import { names, type Topology } from "../../components/topology.ts";
import { usualSocket } from "../docker-engine.ts";
import { noDisk, SmallDisk } from "./disk.ts";
import { daemonBehind } from "./docker-daemon.ts";
import { withHold } from "../hold.ts";
import { type Card, cut, linkDown, linkUp, mend, refused } from "./network.ts";
import { cutting, listing, unsyncedSeconds } from "./power.ts";
import { type Fault, type Parts, placesOf, type Victim } from "./scenarios.ts";
import { besideVolumes, inNetwork, keepBusy, type Tools } from "./tools.ts";

/** It can't be done on this machine; nothing stays broken. */
export class CannotBreak extends Error {}

/** What a service has to stop, seconds: Docker's own default, as a person's `docker stop` has it. */
const graceSeconds = 10;
const anchorGraceSeconds = 1;
const reloadPauseMs = 500;
/** What is still being broken is waited for so long before it is taken back: a stop takes its whole grace. */
const makingMs = 60_000;

export interface FaultsOptions {
  readonly tools: Tools;
  readonly topology: Topology;
  readonly log: (line: string) => void;
  /** Is told since when a node is off the network for good; its containers ended later, one by one. */
  readonly lost: (node: string, at: number) => void;
}

/** How something is broken and taken back. */
interface Breaking {
  readonly start: () => Promise<void>;
  /** Succeeds also where only a part was broken, and where nothing is broken any more. */
  readonly undo: () => Promise<void>;
  /** What a person does where it can't be taken back. */
  readonly byHand: () => string;
}

/** Something that is broken now, or is just being broken. */
interface Broken {
  /** Takes it back, once, whoever asks. After a failure it may be asked again. */
  readonly takeBack: () => Promise<void>;
  readonly byHand: () => string;
}

export class Faults {
  readonly #options: FaultsOptions;
  readonly #broken = new Set<Broken>();
  #over = false;

  constructor(options: FaultsOptions) {
    this.#options = options;
  }

  /** What a person has to do to take back what is broken at this moment. */
  get byHand(): string[] {
    return [...this.#broken].map(({ byHand }) => byHand());
  }

  /** Takes back all that is broken now. @returns what could not be taken back: why, and what to do by hand */
  async takeBack(): Promise<string[]> {
    const failures = [...this.#broken].map(({ takeBack, byHand }) =>
      takeBack()
        // A Ctrl-C reaches the programs that take it back too, and ends them.
        .catch(() => takeBack())
        .then(
          () => [],
          (error: unknown) => [`${(error as Error).message}; by hand: ${byHand()}`],
        ),
    );
    return (await Promise.all(failures)).flat();
  }

  /** The same; from now on nothing is broken any more. */
  undoAll(): Promise<string[]> {
    this.#over = true;
    return this.takeBack();
  }

  /**
   * What a person has to do where the stack does not get well: start what nobody has started, thaw what nobody has thawed,
   * and where that is nothing, find out.
   * @param unhealthy the checks that fail
   */
  async leftToPeople(unhealthy: readonly string[]): Promise<string[]> {
    const { docker, label } = this.#options.tools;
    const lookAt = unhealthy.map((check) => `find out about ${check}`);
    const all = await docker
      .listContainers({ all: true, filters: { label: [`${names.label}=${label}`] } })
      .catch(() => undefined);
    if (all === undefined) return [`${this.#docker("ps", [])}: it does not answer`, ...lookAt];
    const verbs: Readonly<Record<string, string>> = {
      exited: "start",
      created: "start",
      dead: "start",
      paused: "unpause",
    };
    const down = all.flatMap(({ Id, Names, State }) => {
      const verb = verbs[State];
      return verb === undefined ? [] : [this.#docker(verb, [Names[0]?.slice(1) ?? Id])];
    });
    return down.length > 0 ? down : lookAt;
  }

  /** Whether something is broken that has to be taken back. */
  get pending(): boolean {
    return this.#broken.size > 0;
  }

  /**
   * Breaks it, waits as long as it lasts, and takes it back.
   * @returns when it began to count, milliseconds since 1970.
   * @throws CannotBreak where this machine can't do it.
   */
  async apply(fault: Fault, parts: Parts): Promise<number> {
    this.#goOn();
    switch (fault.do) {
      case "kill": {
        const containers = await this.#containersOf(fault.victims, parts);
        const nodes = this.#anchorsOf(fault.victims, parts);
        return nodes.length === 0 ? this.#kill(containers) : this.#killNodes(nodes, containers);
      }
      case "stop": {
        const containers = await this.#containersOf(fault.victims, parts);
        return this.#while(fault.seconds, {
          start: async () => {
            await every(containers, (name) => this.#get(name).stop({ t: graceSeconds }));
            this.#say("stopped", containers);
          },
          undo: () => this.#start(containers),
          byHand: () => this.#docker("start", containers),
        });
      }
      case "pause": {
        const containers = await this.#containersOf(fault.victims, parts);
        return this.#while(fault.seconds, {
          start: async () => {
            await every(containers, (name) => freeze(() => this.#get(name).pause()));
            this.#say("paused", containers);
          },
          undo: async () => {
            await every(containers, (name) =>
              this.#get(name)
                .unpause()
                // It is not paused, or gone.
                .catch(unless(409, 500)),
            );
            this.#say("thawed", containers);
          },
          byHand: () => this.#docker("unpause", containers),
        });
      }
      case "restart":
        return this.#restart(fault.victims, parts);
      case "reload": {
        const containers = await this.#containersOf(fault.victims, parts);
        const at = Date.now();
        for (let count = 0; count < fault.times; count++) {
          this.#goOn();
          await every(containers, (name) => this.#get(name).kill({ signal: "SIGUSR2" }));
          await sleep(reloadPauseMs);
        }
        this.#say(`reloaded ${fault.times} times`, containers);
        return at;
      }
      case "cut":
        return this.#cut(fault, parts);
      case "take the link down":
        return this.#takeDown(fault, parts);
      case "fill":
        return this.#fill(fault, parts);
      case "cut the power":
        return this.#cutPower(fault, parts);
      case "keep busy":
        return this.#keepBusy(fault);
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

  /** As a person types it. */
  #docker(verb: string, containers: readonly string[]): string {
    const { dockerHost } = this.#options.tools;
    return [
      "docker",
      ...(dockerHost === usualSocket ? [] : ["-H", dockerHost]),
      ...[verb, ...containers],
    ].join(" ");
  }

  /** @throws once everything is to be taken back. */
  #goOn(): void {
    if (this.#over) throw new Error("interrupted");
  }

  /**
   * Breaks something for a time. Whatever happens, it is taken back: by then, or sooner if that is asked for, but never
   * before it is made, because the one who makes it would come after the one who takes it back.
   * @param seconds undefined for what needs taking back only where it failed or was interrupted half-way
   */
  async #while(seconds: number | undefined, { start, undo, byHand }: Breaking): Promise<number> {
    this.#goOn();
    const at = Date.now();
    const early = new AbortController();
    const making = start();
    let undone: Promise<void> | undefined;
    const takeBack = async () => {
      const made = await within(making, makingMs);
      await undo();
      if (!made) throw new Error(`it was still being broken after ${makingMs / 1000} s, and may be so yet`);
      this.#broken.delete(broken);
    };
    const broken: Broken = {
      byHand,
      takeBack: () => {
        early.abort();
        undone ??= takeBack().catch((error: unknown) => {
          undone = undefined;
          throw error;
        });
        return undone;
      },
    };
    this.#broken.add(broken);
    try {
      await making;
    } catch (error) {
      await broken.takeBack().catch((other: unknown) => {
        throw new Error(
          `${(error as Error).message}; and what was broken is not taken back: ${(other as Error).message}`,
          {
            cause: other,
          },
        );
      });
      throw error;
    }
    if (seconds !== undefined) {
      // It ends sooner where it is taken back sooner.
      await sleep(seconds * 1000, undefined, { signal: early.signal }).catch(() => undefined);
    } else if (!early.signal.aborted) {
      this.#broken.delete(broken);
      return at;
    }
    await broken.takeBack();
    return at;
  }

  async #start(containers: readonly string[]): Promise<void> {
    // What runs already, somebody else has started.
    await every(containers, (name) => this.#get(name).start().catch(unless(304)));
    this.#say("started", containers);
  }

  async #kill(containers: readonly string[]): Promise<number> {
    this.#goOn();
    const at = Date.now();
    this.#say("killed", containers);
    await every(containers, (name) => this.#get(name).kill());
    return at;
  }

  /** A machine that is lost says no goodbye, whichever of its parts Docker ends first: it is cut off before. */
  async #killNodes(nodes: readonly string[], containers: readonly string[]): Promise<number> {
    const rules = cut(await this.#cardsOf(nodes));
    let at = Date.now();
    // What is dead has lost the rules with its network, and the supervisor starts it; what still lives is to be reached.
    await this.#while(undefined, {
      start: async () => {
        at = await this.#drop(rules);
        await this.#kill(containers);
      },
      undo: () => this.#mend(nodes),
      byHand: () => this.#docker("restart", nodes),
    });
    for (const node of nodes) this.#options.lost(node, at);
    return at;
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
    if (anchors.length === 0) {
      // A restart that was interrupted may have come as far as the stop.
      return this.#while(undefined, {
        start: async () => {
          await every(containers, (name) =>
            this.#get(name).restart({ t: isNode(name) ? anchorGraceSeconds : graceSeconds }),
          );
          this.#say("restarted", containers);
        },
        undo: () => this.#start(containers),
        byHand: () => this.#docker("start", containers),
      });
    }
    const guests = containers.filter((name) => !anchors.includes(name));
    return this.#while(0, {
      start: async () => {
        await every(guests, (name) => this.#get(name).stop({ t: graceSeconds }));
        await every(anchors, (name) => this.#get(name).restart({ t: anchorGraceSeconds }));
      },
      undo: async () => {
        await this.#start(anchors);
        await this.#start(guests);
      },
      byHand: () => this.#docker("start", [...anchors, ...guests]),
    });
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

  /** @returns when the last rule was in place. @throws CannotBreak where nftables itself refuses. */
  async #drop(rules: ReadonlyMap<string, string>): Promise<number> {
    const times: number[] = [];
    await every([...rules], async ([node, line]) => {
      const text = await inNetwork(this.#options.tools, node, line).catch((error: unknown) => {
        const { message, cause } = error as Error;
        if ((cause as { code?: unknown } | undefined)?.code !== refused) throw error;
        throw new CannotBreak(
          `${message} (frames are dropped by nftables; outgoing ones need Linux 5.16 or newer)`,
        );
      });
      times.push(Number(text.trim()) * 1000);
    });
    return Math.max(...times);
  }

  /** Takes the rules off, or whatever else the line takes back. */
  async #mend(nodes: readonly string[], line = mend): Promise<void> {
    await every(nodes, async (node) => {
      for (let attempt = 1; ; attempt++) {
        try {
          await inNetwork(this.#options.tools, node, line);
          return;
        } catch (error) {
          // A node that is down has lost them with its network.
          const { State } = await this.#get(node).inspect();
          if (!State.Running) return;
          if (attempt === 3) throw error;
        }
      }
    });
  }

  async #cut(fault: Extract<Fault, { do: "cut" }>, parts: Parts): Promise<number> {
    const rules = cut(
      await this.#cards(fault.side, parts),
      fault.from === undefined ? undefined : await this.#cards(fault.from, parts),
    );
    const nodes = [...rules.keys()];
    let at = Date.now();
    await this.#while(fault.seconds, {
      start: async () => {
        at = await this.#drop(rules);
        this.#say("cut off", nodes);
      },
      undo: async () => {
        await this.#mend(nodes);
        this.#say("mended the cut of", nodes);
      },
      // A new network has no rules.
      byHand: () => this.#docker("restart", nodes),
    });
    return at;
  }

  async #takeDown(
    { victims, seconds }: Extract<Fault, { do: "take the link down" }>,
    parts: Parts,
  ): Promise<number> {
    const nodes = this.#anchorsOf(victims, parts);
    let at = Date.now();
    await this.#while(seconds, {
      start: async () => {
        at = await this.#drop(new Map(nodes.map((node) => [node, linkDown])));
        this.#say("took down the link of", nodes);
      },
      undo: async () => {
        await this.#mend(nodes, linkUp);
        this.#say("took up the link of", nodes);
      },
      byHand: () => this.#docker("restart", nodes),
    });
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
    const { Mountpoint } = await docker.getVolume(volume).inspect();
    let disk: SmallDisk | undefined;
    const stop = () => this.#get(name).stop({ t: graceSeconds }).catch(unless(304));
    let at = Date.now();
    await this.#while(fault.seconds, {
      start: async () => {
        await stop();
        this.#goOn();
        disk = await SmallDisk.over(Mountpoint);
        this.#goOn();
        await this.#get(name).start();
        await sleep(2000);
        this.#goOn();
        await disk.fill();
        at = Date.now();
        this.#say("filled the disk of", [name]);
      },
      undo: async () => {
        try {
          if (disk !== undefined) {
            disk.free();
            // It is to see the space itself before its data goes back to the real disk.
            await sleep(3000);
            await stop();
            await disk.remove();
          }
        } finally {
          await this.#start([name]);
        }
      },
      byHand: () =>
        [
          ...(disk === undefined ? [] : [this.#docker("stop", [name]), ...disk.byHand]),
          this.#docker("start", [name]),
        ].join(" && "),
    });
    return at;
  }

  async #cutPower(fault: Extract<Fault, { do: "cut the power" }>, parts: Parts): Promise<number> {
    const { topology, tools, lost } = this.#options;
    const anchors = this.#anchorsOf(fault.victims, parts);
    const containers = await this.#containersOf(fault.victims, parts);
    const guests = containers.filter((name) => !anchors.includes(name));
    const stateful = (["clickhouse", "kafka", "zookeeper"] as const).flatMap((service) =>
      topology[service].flatMap(({ name }) => (containers.includes(name) ? [{ service, name }] : [])),
    );
    const disks = new Map<string, string>();
    await every(stateful, async ({ service, name }) => {
      disks.set(name, await besideVolumes(tools, name, listing(service)));
    });
    await sleep(unsyncedSeconds * 1000);
    const rules = cut(await this.#cardsOf(anchors));
    let at = Date.now();
    // Nobody starts a machine that has no power.
    await withHold(tools.docker, tools.label, () =>
      this.#while(fault.seconds, {
        start: async () => {
          if (anchors.length > 0) at = await this.#drop(rules);
          const killed = await this.#kill(containers);
          if (anchors.length === 0) at = killed;
          await every(stateful, async ({ service, name }) => {
            const files = await besideVolumes(tools, name, cutting(service), disks.get(name));
            this.#options.log(`${name}: ${files.trim()} files lost what was not synced`);
          });
          for (const node of anchors) lost(node, at);
        },
        undo: async () => {
          if (anchors.length > 0) await this.#start(anchors);
          await this.#start(guests);
          // An anchor that was never killed still has the rules.
          await this.#mend(anchors);
        },
        byHand: () => this.#docker("start", [...anchors, ...guests]),
      }),
    );
    return at;
  }

  async #keepBusy({ containers, seconds }: Extract<Fault, { do: "keep busy" }>): Promise<number> {
    const { docker } = this.#options.tools;
    let names: readonly string[] = [];
    return this.#while(seconds, {
      start: async () => {
        // They are made one after the other; whatever happens, they end by themselves.
        names = await keepBusy(this.#options.tools, "busy", containers, seconds + 60);
        this.#options.log(`${containers} containers are busy`);
      },
      undo: async () => {
        await every(names, (name) =>
          docker.getContainer(name).remove({ force: true }).catch(unless(404, 409)),
        );
        this.#options.log("the busy containers are removed");
      },
      byHand: () => this.#docker("rm", ["--force", ...names]),
    });
  }

  async #restartDaemon(): Promise<number> {
    const daemon = await daemonBehind(this.#options.tools.dockerHost);
    if ("refusal" in daemon) throw new CannotBreak(daemon.refusal);
    return this.#while(0, {
      start: async () => {
        await daemon.stop();
        this.#options.log("stopped the Docker daemon");
      },
      undo: async () => {
        await daemon.start();
        this.#options.log("started the Docker daemon");
      },
      byHand: () => daemon.startLine,
    });
  }
}

/** Does it for each, all at once, and waits for every one. @throws the first that failed, after the last has ended. */
async function every<T>(things: readonly T[], work: (thing: T) => Promise<unknown>): Promise<void> {
  const ends = await Promise.allSettled(things.map(work));
  const failed = ends.flatMap((end) => (end.status === "rejected" ? [end.reason as Error] : []));
  const worst = failed.find((error) => !(error instanceof CannotBreak)) ?? failed[0];
  if (worst !== undefined) throw worst;
}

/** Pauses; runc gives up on a container whose threads come and go faster than it freezes them, and may be asked again. */
async function freeze(pause: () => Promise<unknown>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await pause();
      return;
    } catch (error) {
      if (attempt === 5 || !(error as Error).message.includes("unable to freeze")) throw error;
      await sleep(300);
    }
  }
}

/** Waits for its end, whatever that is. @returns whether it came in time */
async function within(work: Promise<unknown>, ms: number): Promise<boolean> {
  const over = new AbortController();
  const ended = work.then(
    () => true,
    () => true,
  );
  const late = sleep(ms, false, { signal: over.signal }).catch(() => false);
  return Promise.race([ended, late]).finally(() => over.abort());
}

/** Lets these answers of Docker's pass. */
function unless(...codes: readonly number[]): (error: unknown) => void {
  return (error) => {
    if (!codes.includes((error as { statusCode?: number }).statusCode ?? 0)) throw error;
  };
}
