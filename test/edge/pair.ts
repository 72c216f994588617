// The pair for real: anchors, HAProxy, Keepalived and the witness as the platform runs them, on a network of its own,
// and clients of the virtual IP that measure what they lose.

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { renderConfigWriter } from "../../components/edge/load-balancers.ts";
import { reachAt } from "../../components/host/host.ts";
import { baseImages, publicImages } from "../../components/images.ts";
import { ports } from "../../components/ports.ts";
import { renderHaproxy, renderStatsUsers } from "../../components/render/haproxy.ts";
import {
  keepalivedEnvironment,
  keeperFiles,
  pairDirectory,
  renderKeepalived,
  renderKeeperSettings,
} from "../../components/render/keepalived.ts";
import { pairEntry, renderPairEntry } from "../../components/render/pair-entry.ts";
import { cpuShares } from "../../components/services/cpu.ts";
import { names, type Replica, type Topology } from "../../components/topology.ts";
import { plan } from "../../components/topology.ts";
import { buildImage } from "../../images/build.ts";
import { ensureImages } from "../../offline/images/build.ts";
import {
  cleanUp,
  docker,
  inside,
  logs,
  network,
  stack,
  start,
  tryDocker,
  withoutRights,
} from "../offline-images/docker.ts";
import { addressLabel } from "../../services/supervisor/labels.ts";
import { seen, type Seen } from "../../ops/chaos/outage.ts";
import { type Change, overlapOf } from "../../ops/chaos/overlap.ts";
import { Probe } from "../../ops/chaos/probe.ts";

const net = "172.25.88";
const token = "witness-token-of-the-tests-0123456789abcdef";
const guestLimits = [...withoutRights, "--restart=always"];
const sharesOf = (service: keyof typeof cpuShares) => `--cpu-shares=${cpuShares[service]}`;

export type Side = 1 | 2;

/** How a client uses the address. */
export interface Use {
  /** @default a connection for each request, every ten milliseconds */
  readonly mode?: "new" | "keep-alive";
  /** How long it goes on afterwards, milliseconds. @default 1500 */
  readonly afterMs?: number;
  /** How long it waits for an answer, milliseconds. @default 900, so that a lost first packet is a loss */
  readonly limitMs?: number;
  /** Who answers: a replica behind HAProxy, or HAProxy itself. @default api */
  readonly ask?: "api" | "proxy";
}

/** A running pair; `stop` removes all of it. */
export class Pair {
  readonly topology: Topology = plan({ net, prefix: `${stack}-` });
  readonly #root = mkdtempSync(join(tmpdir(), `${stack}-pair-`));
  readonly #clients: ChildProcess[] = [];
  readonly #probes: Probe[] = [];

  /** Starts everything, and waits until the first of the pair has the address and answers. */
  async start(): Promise<void> {
    await ensureImages(
      [...Object.values(baseImages), publicImages.anchor, publicImages.haproxy],
      console.log,
    );
    const images = {
      keepalived: buildImage("keepalived", console.log),
      supervisor: buildImage("supervisor", console.log),
      witness: buildImage("witness", console.log),
    };
    chmodSync(this.#root, 0o755);
    const bridge = network(`--subnet=${net}.0/24`, `--ip-range=${net}.64/26`, `--aux-address=vip=${net}.222`);
    const { topology } = this;
    for (const node of topology.nodes.filter(({ role }) => role === "lb")) {
      start(
        node.alias,
        ...guestLimits,
        ...[`--hostname=${node.alias}`, "--memory=32m", `--network=${bridge}`, `--ip=${node.address}`],
        ...[publicImages.anchor, "tail", "-f", "/dev/null"],
      );
    }
    const www = this.#file("www/v1/health", "ok\n");
    for (const replica of topology.api) {
      start(
        replica.alias,
        ...[
          ...guestLimits,
          `--network=container:${replica.node.name}`,
          `--volume=${dirname(dirname(www))}:/www:ro`,
        ],
        ...[publicImages.anchor, "httpd", "-f", "-p", `${replica.port}`, "-h", "/www"],
      );
    }
    start(
      topology.witness.alias,
      ...[...guestLimits, sharesOf("witness"), "--memory=128m"],
      `--network=container:${topology.witness.node.name}`,
      ...[`--env=WITNESS_TOKEN=${token}`, images.witness],
    );
    start(
      "supervisor",
      ...[...guestLimits, sharesOf("supervisor"), "--memory=96m", "--network=none", "--read-only"],
      ...[
        "--volume=/var/run/docker.sock:/var/run/docker.sock",
        `--volume=${this.#volume("supervisor-state")}:/var/lib/siem-ha`,
      ],
      ...[`--env=STACK=${stack}`, images.supervisor],
    );
    for (const [index, proxy] of topology.haproxy.entries()) {
      const keeper = topology.keepalived[index];
      if (keeper === undefined) throw new Error("no Keepalived");
      this.#startHaproxy(proxy);
      this.#startKeepalived(keeper, images.keepalived);
      // The first of the pair is to have it, so that every test knows where it begins.
      if (index === 0) await this.eventually("nobody holds it", () => this.holders().join() === "1");
    }
    // A fresh witness grants nothing for a while.
    await this.eventually("not settled", () => this.lease() === "lb-node-1" && this.ready(2));
  }

  stop(): void {
    for (const client of this.#clients) client.kill("SIGKILL");
    for (const probe of this.#probes) probe.kill();
    // It would start again what is about to be removed.
    tryDocker("rm", "--force", this.supervisor);
    cleanUp();
    docker("volume", "prune", "--force", "--filter", `label=${names.label}=${stack}`);
    rmSync(this.#root, { recursive: true, force: true });
  }

  readonly supervisor = `${stack}-supervisor`;

  haproxy(side: Side): string {
    return this.#at(this.topology.haproxy, side).name;
  }
  keepalived(side: Side): string {
    return this.#at(this.topology.keepalived, side).name;
  }
  anchor(side: Side): string {
    return this.#at(this.topology.haproxy, side).node.name;
  }

  /** The nodes that have the address on a card. */
  holders(): Side[] {
    const { address } = this.topology.vip;
    return ([1, 2] as const).filter((side) =>
      this.inNamespace(side, "ip", "-4", "-o", "addr", "show", "dev", "eth0").stdout.includes(` ${address}/`),
    );
  }

  /** HAProxy answers on its node, and Keepalived there takes part in the election. */
  ready(side: Side): boolean {
    return inside(this.keepalived(side), "cat /run/vip/proxy-down /run/vip/let-go") === "0\n0";
  }

  /** Who has the witness's lease. */
  lease(): string {
    const { code, output } = tryDocker(
      ...["exec", this.topology.witness.name, "node", "-e"],
      `fetch("http://127.0.0.1:${ports.witness.number}/lease",{headers:{authorization:"Bearer ${token}"}}).then(r=>r.json()).then(l=>console.log(l.holder))`,
    );
    return code === 0 ? output : "";
  }

  /** Runs a command of this machine in a node's network, which has all of this machine's tools. */
  inNamespace(side: Side, ...command: string[]): { stdout: string; status: number | null } {
    const pid = docker("inspect", "-f", "{{.State.Pid}}", this.anchor(side));
    return spawnSync("nsenter", ["-t", pid, "-n", ...command], { encoding: "utf8" });
  }

  /** Drops every frame that the two nodes send each other, ARP included; the rest of the network is as before. */
  cut(): void {
    for (const [side, other] of [
      [1, 2],
      [2, 1],
    ] as const) {
      const card = this.#card(other);
      this.#drop(side, `ether saddr ${card} `);
    }
  }

  /** Drops every frame that comes to a node: it is cut off from the other, the witness and all clients. */
  isolate(side: Side): void {
    this.#drop(side, "");
  }

  rejoin(): void {
    for (const side of [1, 2] as const) this.inNamespace(side, "nft", "delete table netdev cut");
  }

  #card(side: Side): string {
    const card = /link\/ether (\S+)/.exec(
      this.inNamespace(side, "ip", "-o", "link", "show", "eth0").stdout,
    )?.[1];
    if (card === undefined) throw new Error(`node ${side} has no card`);
    return card;
  }

  #drop(side: Side, frames: string): void {
    const { status, stdout } = this.inNamespace(
      side,
      "nft",
      `add table netdev cut; add chain netdev cut in { type filter hook ingress device eth0 priority 0; }; add rule netdev cut in ${frames}drop`,
    );
    if (status !== 0) throw new Error(`nft failed on node ${side}: ${stdout}`);
  }

  /** Runs something, and says for how long both nodes had the address at once, milliseconds; the kernel's own times. */
  async overlap(what: () => Promise<void>): Promise<number> {
    const monitors = ([1, 2] as const).map((side) => {
      const pid = docker("inspect", "-f", "{{.State.Pid}}", this.anchor(side));
      const monitor = spawn(
        "nsenter",
        ["-t", pid, "-n", "ip", "-ts", "-o", "monitor", "address", "dev", "eth0"],
        {
          stdio: ["ignore", "pipe", "inherit"],
        },
      );
      this.#clients.push(monitor);
      let text = "";
      monitor.stdout.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      return { side, monitor, text: () => text };
    });
    await sleep(200);
    const before = this.holders();
    const began = Date.now();
    await what();
    const ended = Date.now();
    const changes: Change[] = before.map((side) => ({ at: 0, node: String(side), has: true }));
    for (const { side, monitor, text } of monitors) {
      monitor.kill("SIGTERM");
      for (const line of text()
        .split("\n")
        .filter((one) => one.includes(` ${this.topology.vip.address}/`))) {
        const at = Date.parse(`${/^\[([^\]]+)\]/.exec(line)?.[1] ?? ""}Z`);
        changes.push({ at, node: String(side), has: !line.includes("Deleted ") });
      }
    }
    return overlapOf(changes, began, ended).totalMs;
  }

  /** Starts the HAProxy that a test has stopped; what it killed is the supervisor's business. */
  revive(side: Side): void {
    // Refused where the whole node is still on its way.
    tryDocker("start", this.haproxy(side));
  }

  /** A node that is gone at once, as far as anybody can see. */
  async lose(side: Side): Promise<void> {
    this.isolate(side);
    const guests = [this.#at(this.topology.api, side).name, this.haproxy(side), this.keepalived(side)];
    await this.docker("kill", this.anchor(side), ...guests);
  }

  /** Waits until both are well and this one holds the address. */
  async settle(holder?: Side): Promise<Side> {
    await this.eventually(
      "not settled",
      () =>
        this.ready(1) && this.ready(2) && this.holders().length === 1 && /^lb-node-[12]$/.test(this.lease()),
      60,
    );
    const [held = 1] = this.holders();
    if (holder === undefined || held === holder) return held;
    docker("restart", this.haproxy(held));
    return this.settle(holder);
  }

  async eventually(what: string, check: () => boolean, seconds = 30): Promise<void> {
    const end = Date.now() + seconds * 1000;
    while (!check()) {
      if (Date.now() > end) {
        const said = [1, 2]
          .flatMap((side) => [this.haproxy(side as Side), this.keepalived(side as Side)])
          .concat(this.supervisor)
          .map((name) => `${name}:\n${logs(name).split("\n").slice(-20).join("\n")}`);
        throw new Error(
          `after ${seconds} s: ${what}; holders: ${this.holders().join()}\n${said.join("\n---\n")}`,
        );
      }
      await sleep(100);
    }
  }

  /** Runs something while a client uses the address, and returns what the client saw. */
  async during(what: () => Promise<void> | void, options: Use = {}): Promise<Seen> {
    const { mode = "new", afterMs = 1500, ask = "api", limitMs = 900 } = options;
    const target = { api: [ports.haproxyApi, "/v1/health"], proxy: [ports.haproxyStats, "/stats"] } as const;
    const [port, path] = target[ask];
    const client = new Probe({ mode, host: this.topology.vip.address, port: port.number, path, limitMs });
    this.#probes.push(client);
    await client.ready();
    await sleep(300);
    await what();
    await sleep(afterMs);
    return seen(await client.stop());
  }

  /** Runs a command of Docker's in the background: the client must not wait for it. */
  async docker(...args: string[]): Promise<void> {
    const child = spawn("docker", args, { stdio: "ignore" });
    const code = await new Promise((resolve) => child.once("close", resolve));
    if (code !== 0) throw new Error(`docker ${args.join(" ")} failed`);
  }

  #at(replicas: readonly Replica[], side: Side): Replica {
    const found = replicas[side - 1];
    if (found === undefined) throw new Error(`no replica ${side}`);
    return found;
  }

  #volume(name: string): string {
    const full = `${stack}-${name}`;
    docker("volume", "create", "--label", `${names.label}=${stack}`, full);
    return full;
  }

  #file(name: string, text: string): string {
    const path = join(this.#root, name);
    mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
    writeFileSync(path, text, { mode: 0o644 });
    return path;
  }

  #startHaproxy(proxy: Replica): void {
    const volumes = {
      config: this.#volume(`${proxy.alias}-config`),
      pair: this.#volume(`${proxy.alias}-pair`),
    };
    // The stand-ins of the API are the only servers.
    execFileSync("sh", ["-c", renderConfigWriter(proxy, volumes, stack)], {
      input: renderStatsUsers("stats-password-of-the-tests"),
      env: {
        ...process.env,
        ...reachAt([proxy.node], () => process.env["DOCKER_HOST"] ?? "unix:///var/run/docker.sock"),
        HAPROXY_CFG: renderHaproxy(this.topology),
      },
    });
    start(
      proxy.alias,
      ...[...guestLimits, sharesOf("haproxy"), "--memory=256m", `--network=container:${proxy.node.name}`],
      ...["--tmpfs=/var/run/haproxy:rw,mode=0770,uid=99,gid=99"],
      `--volume=${volumes.config}:/usr/local/etc/haproxy:ro`,
      `--volume=${volumes.pair}:${pairDirectory}`,
      `--volume=${this.#file("pair-entry.sh", renderPairEntry(this.topology))}:${pairEntry}:ro`,
      ...[
        publicImages.haproxy,
        "bash",
        pairEntry,
        "haproxy",
        "-W",
        "-db",
        "-f",
        "/usr/local/etc/haproxy/live",
      ],
    );
  }

  #startKeepalived(keeper: Replica, image: string): void {
    const { topology } = this;
    const { index, address } = keeper.node;
    const config = this.#file(`keepalived-${index}.conf`, renderKeepalived(topology, keeper, "eth0"));
    const settings = this.#file(
      `siem-ha-${index}/vip.conf`,
      renderKeeperSettings({
        node: keeper.node.alias,
        rank: index === 1 ? "first" : "later",
        address,
        vip: topology.vip.address,
        peers: topology.keepalived.filter((peer) => peer !== keeper).map((peer) => peer.node.address),
        port: ports.witness.number,
        witness: `http://${topology.witness.node.address}:${ports.witness.number}`,
      }),
    );
    this.#file(`siem-ha-${index}/witness-token`, token);
    start(
      keeper.alias,
      ...[
        ...guestLimits,
        sharesOf("keepalived"),
        "--memory=96m",
        `--network=container:${keeper.node.name}`,
        "--tmpfs=/run:rw,mode=0755",
      ],
      ...["NET_ADMIN", "NET_RAW", "SETGID", "SETUID"].map((right) => `--cap-add=${right}`),
      `--label=${addressLabel}=${topology.vip.address}/${topology.vip.prefix} eth0`,
      ...Object.entries(keepalivedEnvironment).map(([name, value]) => `--env=${name}=${value}`),
      `--volume=${topology.haproxy[index - 1]?.name}-pair:${pairDirectory}`,
      `--volume=${dirname(settings)}:${dirname(keeperFiles.settings)}:ro`,
      `--volume=${config}:/etc/keepalived/keepalived.conf:ro`,
      image,
    );
  }
}
