// What could stop a local deploy half-way, looked at before anything is touched: names, ports, addresses, memory, disk
// space.

import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { connect as dial, createServer } from "node:net";
import { tmpdir } from "node:os";
import type Docker from "dockerode";
import { project, type SiemConfig } from "../components/config.ts";
import { leastMb, type MemoryLimit } from "../components/services/memory.ts";
import { names, type Topology } from "../components/topology.ts";
import { type recorded } from "./workspace.ts";

/** What the daemon has, as far as it can be in the way. */
export interface Daemon {
  readonly containers: readonly {
    readonly name: string;
    readonly image: string;
    readonly state: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly networkMode: string;
    /** Ports on the Docker host, with the address they are bound to. */
    readonly ports: readonly { readonly ip: string; readonly external: number; readonly protocol: string }[];
  }[];
  readonly volumes: readonly { readonly name: string; readonly labels: Readonly<Record<string, string>> }[];
  readonly networks: readonly {
    readonly name: string;
    readonly labels: Readonly<Record<string, string>>;
    readonly subnets: readonly string[];
  }[];
}

/** Asks the daemon for all it has. */
export async function survey(docker: Docker): Promise<Daemon> {
  const [containers, volumes, networks] = await Promise.all([
    docker.listContainers({ all: true }),
    docker.listVolumes(),
    docker.listNetworks(),
  ]);
  return {
    containers: containers.map((container) => ({
      name: container.Names[0]?.slice(1) ?? container.Id,
      image: container.Image,
      state: container.State,
      labels: container.Labels ?? {},
      networkMode: container.HostConfig.NetworkMode,
      ports: container.Ports.filter((port) => port.PublicPort !== undefined).map((port) => ({
        ip: port.IP ?? "",
        external: port.PublicPort,
        protocol: port.Type,
      })),
    })),
    volumes: volumes.Volumes.map((volume) => ({ name: volume.Name, labels: volume.Labels ?? {} })),
    networks: networks.map((network) => ({
      name: network.Name,
      labels: network.Labels ?? {},
      subnets: (network.IPAM?.Config ?? []).flatMap(({ Subnet }) => (Subnet === undefined ? [] : [Subnet])),
    })),
  };
}

/** The names that a stack on one daemon takes. */
export function namesOf(topology: Topology): { containers: string[]; volumes: string[]; network: string } {
  const { haproxy, keepalived, witness, api, ingestor, zookeeper, kafka, clickhouse, retention } = topology;
  const guests = [haproxy, keepalived, witness, api, ingestor, zookeeper, kafka, clickhouse, retention];
  const { supervisor, watchdog } = topology;
  return {
    // The last ones live for the second in which they write a proxy's configuration.
    containers: [
      ...[...topology.nodes, ...guests.flat(), supervisor, watchdog].map(({ name }) => name),
      ...haproxy.map(({ name }) => `${name}-config`),
    ],
    volumes: [
      ...dataVolumesOf(topology),
      ...haproxy.flatMap(({ name }) => [`${name}-config`, `${name}-pair`]),
      `${supervisor.name}-state`,
    ],
    network: topology.network?.name ?? "",
  };
}

/** Names of the volumes that hold data. */
export function dataVolumesOf({ zookeeper, kafka, clickhouse }: Topology): string[] {
  return [
    ...[...zookeeper, ...kafka, ...clickhouse].map(({ name }) => `${name}-data`),
    ...zookeeper.map(({ name }) => `${name}-log`),
  ];
}

/** Names that the stack needs and something else has: what is not labelled as this stack's belongs to somebody else. */
export function takenNames(daemon: Daemon, topology: Topology, label: string): string | undefined {
  const wanted = namesOf(topology);
  const foreign = ({ labels }: { labels: Readonly<Record<string, string>> }) => labels[names.label] !== label;
  const taken = [
    ...daemon.containers
      .filter((container) => wanted.containers.includes(container.name) && foreign(container))
      .map(
        ({ name, image, labels }) => `the container ${name} (image ${shortened(image)}${ownerOf(labels)})`,
      ),
    ...daemon.volumes
      .filter((volume) => wanted.volumes.includes(volume.name) && foreign(volume))
      .map(({ name, labels }) => `the volume ${name}${bracketed(ownerOf(labels))}`),
    ...daemon.networks
      .filter((network) => network.name === wanted.network && foreign(network))
      .map(({ name, labels }) => `the network ${name}${bracketed(ownerOf(labels))}`),
  ];
  if (taken.length === 0) return undefined;
  return `Docker has things of somebody else by names that this stack needs: ${taken.join(", ")}. Rename or remove them, or give the stack names of its own with siem-ha:local prefix, such as "siem-"`;
}

/**
 * Nodes that were born on their network, as the stand-in for Pulumi's Docker plugin once made them: the plugins of today
 * join it afterwards, and would have to replace what is protected.
 */
export function earlierNodes(
  daemon: Daemon,
  topology: Topology,
  label: string,
  stackName: string,
): string | undefined {
  const ours = new Set(topology.nodes.map(({ name }) => name));
  const earlier = daemon.containers.some(
    ({ name, labels, networkMode }) =>
      ours.has(name) && labels[names.label] === label && networkMode === topology.network?.name,
  );
  if (!earlier) return undefined;
  return `The stack's nodes were made by an earlier version of this project in a way that Pulumi can't go on from. Make them anew, which takes a minute and keeps the data: npm run down -- -s ${stackName} --keep-data, then npm run up -- -s ${stackName}`;
}

/** What tells whose data volumes are; asked only where it matters. */
export interface Evidence {
  readonly state: () => ReturnType<typeof recorded>;
  /** Bytes in each volume. */
  readonly sizes: () => Promise<ReadonlyMap<string, number>>;
}

/**
 * A part of an earlier stack's data, with which no ensemble would come up. What an interrupted `up` made is never taken
 * for that: its state knows of its volumes before they are made, and even one that has lost its state has left
 * containers, or volumes that no container has written to.
 */
export async function partOfData(
  daemon: Daemon,
  topology: Topology,
  label: string,
  { state, sizes }: Evidence,
): Promise<string | undefined> {
  const ours = ({ labels }: { labels: Readonly<Record<string, string>> }) => labels[names.label] === label;
  const wanted = dataVolumesOf(topology);
  const found = new Set(daemon.volumes.filter(ours).map(({ name }) => name));
  const there = wanted.filter((name) => found.has(name));
  const missing = wanted.filter((name) => !found.has(name));
  if (there.length === 0 || missing.length === 0 || daemon.containers.some(ours)) return undefined;
  const { resources, pending_operations } = await state();
  const known = new Set(
    [...resources, ...pending_operations.map(({ resource }) => resource)].map(({ inputs }) => inputs?.name),
  );
  if (wanted.some((name) => known.has(name))) return undefined;
  const size = await sizes();
  if (!there.some((name) => (size.get(name) ?? 0) > 0)) return undefined;
  return `Docker has only a part of this stack's data volumes, and its state knows none of them. There: ${there.join(", ")}. Missing: ${missing.join(", ")}. An earlier stack or another clone has left them, and ZooKeeper, Kafka and ClickHouse don't come up where some replicas have old data and others none. Use the clone that made them; or bring the missing ones back, each made with docker volume create --label ${names.label}=${label} NAME; or remove what is left, which deletes its data: docker volume rm ${there.join(" ")}`;
}

/** How many bytes are in each volume. */
export async function volumeSizes(docker: Docker): Promise<ReadonlyMap<string, number>> {
  const { Volumes } = (await docker.df()) as {
    Volumes: readonly { Name: string; UsageData?: { Size: number } | null }[] | null;
  };
  return new Map((Volumes ?? []).map(({ Name, UsageData }) => [Name, UsageData?.Size ?? 0]));
}

/** Who says that a thing is theirs, in the labels that are usual for that. */
function ownerOf(labels: Readonly<Record<string, string>>): string {
  const compose = labels["com.docker.compose.project"];
  if (compose !== undefined) return `, of the Compose project ${compose}`;
  const stack = labels[names.label];
  return stack === undefined ? "" : `, of the stack ${stack}`;
}

/** Docker names an image by its whole digest where a container was made from that. */
function shortened(image: string): string {
  return image.replace(/^sha256:([0-9a-f]{12})[0-9a-f]+$/, "$1");
}

function bracketed(owner: string): string {
  return owner === "" ? "" : ` (${owner.replace(/^, /, "")})`;
}

interface Range {
  readonly first: number;
  readonly last: number;
  readonly bits: number;
}

/** An IPv4 range; undefined for anything else, such as one of IPv6. */
function rangeOf(cidr: string): Range | undefined {
  const [, address, length = "32"] = /^(\d+\.\d+\.\d+\.\d+)(?:\/(\d+))?$/.exec(cidr) ?? [];
  if (address === undefined) return undefined;
  const bits = Number(length);
  const size = 2 ** (32 - bits);
  const number = address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
  const first = number - (number % size);
  return { first, last: first + size - 1, bits };
}

function overlaps(one: string, other: string): boolean {
  const [a, b] = [rangeOf(one), rangeOf(other)];
  return a !== undefined && b !== undefined && a.first <= b.last && b.first <= a.last;
}

/** One line of a machine's routing table. */
export interface Route {
  readonly device: string;
  readonly range: string;
}

/** Reads Linux's /proc/net/route; numbers there are hexadecimal, lowest octet first. */
export function parseRoutes(text: string): Route[] {
  return text
    .split("\n")
    .slice(1)
    .flatMap((line) => {
      const [device, destination, , flags, , , , mask] = line.trim().split(/\s+/);
      if (device === undefined || destination === undefined || mask === undefined) return [];
      // Bit 0: the route is up.
      if ((Number.parseInt(flags ?? "0", 16) & 1) === 0) return [];
      const octets = destination.match(/../g)?.map((octet) => Number.parseInt(octet, 16)) ?? [];
      const bits = Number.parseInt(mask, 16).toString(2).replaceAll("0", "").length;
      return [{ device, range: `${octets.reverse().join(".")}/${bits}` }];
    });
}

/** Routes of this shortest length belong to somebody; wider ones, such as a VPN's 10.0.0.0/8, cover all there is. */
const narrow = 16;

/** Who already has addresses of the stack's network; and a warning for a route so wide that nothing could avoid it. */
export function takenRange(
  daemon: Daemon,
  routes: readonly Route[],
  topology: Topology,
  label: string,
): { readonly problem?: string; readonly warning?: string } {
  const { network } = topology;
  if (network === undefined) return {};
  const own = daemon.networks.find(
    ({ name, labels }) => name === network.name && labels[names.label] === label,
  );
  // It is there already, and so is its bridge's route.
  if (own !== undefined) return {};
  const remedy = `choose another range with siem-ha:local net, three octets such as "172.25.1" or "192.168.200"`;
  const other = daemon.networks.find(({ subnets }) =>
    subnets.some((range) => overlaps(range, network.subnet)),
  );
  if (other !== undefined) {
    const theirs = other.subnets.filter((range) => overlaps(range, network.subnet)).join(", ");
    return {
      problem: `the stack's network ${network.subnet} overlaps with Docker's network ${other.name} (${theirs}${ownerOf(other.labels)}): ${remedy}${predefined.has(other.name) ? "" : `; or remove that one: docker network rm ${other.name}`}`,
    };
  }
  const crossing = routes.filter(({ range }) => bitsOf(range) > 1 && overlaps(range, network.subnet));
  const close = crossing.find(({ range }) => bitsOf(range) >= narrow);
  if (close !== undefined) {
    return {
      problem: `the stack's network ${network.subnet} overlaps with ${close.range}, which this machine reaches through ${close.device} (a VPN or another network): ${remedy}`,
    };
  }
  const [wide] = crossing;
  if (wide === undefined) return {};
  return {
    warning: `${wide.range} is reached through ${wide.device}; while the stack is up, ${network.subnet} of it is not. To avoid that, ${remedy}`,
  };
}

/** Docker's own, which can't be removed. */
const predefined = new Set(["bridge", "docker_gwbridge", "ingress"]);

function bitsOf(range: string): number {
  return rangeOf(range)?.bits ?? 0;
}

/** The routes of this machine; none where it doesn't show them as Linux does. */
export function routesHere(): Route[] {
  return existsSync("/proc/net/route") ? parseRoutes(readFileSync("/proc/net/route", "utf8")) : [];
}

/** Why a port of the loopback address can't be listened on; undefined if it can. */
async function refusalOf(port: number): Promise<string | undefined> {
  const code = await new Promise<string | undefined>((resolve) => {
    const probe = createServer();
    probe.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(undefined)));
  });
  if (code !== "EACCES") return code;
  // A low port, which only root may take, as Docker does: then only an answer tells that somebody has it.
  const answers = await new Promise<boolean>((resolve) => {
    const caller = dial({ port, host: "127.0.0.1" });
    caller.once("connect", () => {
      caller.destroy();
      resolve(true);
    });
    caller.once("error", () => resolve(false));
  });
  return answers ? "EADDRINUSE" : undefined;
}

/** Addresses on which a listener keeps Docker from 127.0.0.1. */
const inTheWay = ["127.0.0.1", "0.0.0.0", "::", ""];

/**
 * The first port that a node would publish and can't. Nodes that run have theirs; one that was stopped has lost them,
 * and somebody may have come in the meantime.
 */
export async function takenPort(
  daemon: Daemon,
  topology: Topology,
  config: SiemConfig,
  refusal: (port: number) => Promise<string | undefined> = refusalOf,
): Promise<string | undefined> {
  const running = new Set(
    daemon.containers.filter(({ state }) => state === "running").map(({ name }) => name),
  );
  for (const node of topology.nodes.filter(({ name }) => !running.has(name))) {
    for (const { external } of node.published) {
      const remedy = `or move all ports with siem-ha:local portOffset (now ${config.local.portOffset}, allowed 0 to 9000)`;
      // Docker can publish without a listener of its own, so a free port is not yet free.
      const container = daemon.containers.find(({ ports }) =>
        ports.some(
          (port) => port.external === external && port.protocol === "tcp" && inTheWay.includes(port.ip),
        ),
      );
      const what = `port ${external} on 127.0.0.1, which ${node.name} publishes, `;
      if (container !== undefined) {
        return `${what}is taken by the container ${container.name} (image ${shortened(container.image)}${ownerOf(container.labels)}): docker stop ${container.name}, ${remedy}`;
      }
      const code = await refusal(external);
      if (code === undefined) continue;
      const holder = code === "EADDRINUSE" ? listenerOn(external) : undefined;
      return `${what}${holder === undefined ? `can't be used (${code})` : `is taken by ${holder}`}: end what listens there, ${remedy}`;
    }
  }
  return undefined;
}

/** The process that listens on a port, where this system shows it to us. */
function listenerOn(port: number): string | undefined {
  try {
    const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
    const sockets = new Set(
      ["/proc/net/tcp", "/proc/net/tcp6"]
        .filter((file) => existsSync(file))
        .flatMap((file) => readFileSync(file, "utf8").split("\n"))
        .map((line) => line.trim().split(/\s+/))
        // 0A: it listens.
        .filter((fields) => fields[3] === "0A" && fields[1]?.endsWith(suffix) === true)
        .map((fields) => `socket:[${fields[9]}]`),
    );
    for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
      if (holds(pid, sockets)) {
        return `process ${pid} (${readFileSync(`/proc/${pid}/comm`, "utf8").trim()})`;
      }
    }
  } catch {
    // Only a name for a message that is clear without it.
  }
  return undefined;
}

function holds(pid: string, sockets: ReadonlySet<string>): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((file) =>
      sockets.has(readlinkSync(`/proc/${pid}/fd/${file}`)),
    );
  } catch {
    // Somebody else's process, or one that has just ended.
    return false;
  }
}

const gib = 1024 ** 3;
const mib = 1024 ** 2;

/** How much memory the daemon's machine has, bytes; 0 where Docker can't tell. */
export async function machineMemory(docker: Docker): Promise<number> {
  const { MemTotal } = (await docker.info()) as { MemTotal?: number };
  return MemTotal ?? 0;
}

/** How much memory the stack's containers may take as they are, bytes. */
export async function grantedMemory(docker: Docker, daemon: Daemon, label: string): Promise<number> {
  const own = daemon.containers.filter(({ labels }) => labels[names.label] === label);
  const granted = await Promise.all(
    own.map(async ({ name }) => {
      try {
        return (await docker.getContainer(name).inspect()).HostConfig.Memory ?? 0;
      } catch (error) {
        // Gone since the survey.
        if ((error as { statusCode?: number }).statusCode === 404) return 0;
        throw error;
      }
    }),
  );
  return granted.reduce((sum, bytes) => sum + bytes, 0);
}

/**
 * Containers that may take more memory than their machine has: the kernel would end them, or others first. All together
 * may be allowed more than there is, because few take what they may; that is only warned of, and where it is new.
 * @param machine bytes of memory of the daemon's machine; 0 if Docker can't tell
 * @param granted resolves to the bytes that the stack's containers may take as they are; asked only where it matters
 */
export async function excessMemory(
  limits: readonly MemoryLimit[],
  machine: number,
  granted: () => Promise<number>,
): Promise<{ readonly problem?: string; readonly warning?: string }> {
  if (machine === 0) return {};
  // The replicas of a service are alike: the first stands for them.
  const sized = limits.flatMap(({ container, sizing }, index) =>
    sizing === undefined || limits.slice(0, index).some((other) => other.sizing?.key === sizing.key)
      ? []
      : [{ container, ...sizing }],
  );
  const room = Math.floor(machine / mib);
  const problems = sized
    .filter(({ given, beside }) => given + beside > room)
    .map(({ key, given, beside, container }) => {
      const takes =
        beside === 0
          ? `so ${container} may take as many MB`
          : `so ${container} may take ${given + beside} MB (${beside} beside the heap)`;
      const most = room - beside;
      const remedy =
        most < leastMb[key]
          ? `Even the least allowed, ${leastMb[key]}, is too much for it: use a machine with more memory`
          : `Allowed on it are ${leastMb[key]} to ${most}: lower it, or use a machine with more memory`;
      return `${project}:${key} is ${given}, ${takes}, but the machine that Docker runs on has ${room} MB of memory. ${remedy}`;
    });
  if (problems.length > 0) return { problem: problems.join("\n") };
  const all = limits.reduce((sum, { megabytes }) => sum + megabytes, 0) * mib;
  if (all <= machine || all <= (await granted())) return {};
  const lower = sized
    .filter(({ key, given }) => given > leastMb[key])
    .map(({ key, given }) => `${project}:${key} (now ${given})`);
  return {
    warning: `the stack's containers may take ${readable(all)} of memory together, and the machine that Docker runs on has ${readable(machine)}. Few take what they may; if they do, the kernel ends some. To avoid that, ${[...lower.map((key) => `lower ${key}`), "use a machine with more memory"].join(", or ")}`,
  };
}

/** A place on a disk and what the stack needs there. */
export interface Need {
  readonly path: string;
  readonly what: string;
  readonly bytes: number;
}

/**
 * What has to be free: the state, and the engine's files, are small; Docker's part is images (which are 3 GiB from
 * their registries, and are there after the first time) and a start of data.
 */
export function needs(stateDirectory: string, dockerRoot: string, imagesMissing: boolean): Need[] {
  return [
    { path: stateDirectory, what: "the stack's state", bytes: 64 * mib },
    { path: tmpdir(), what: "temporary files", bytes: 64 * mib },
    {
      path: dockerRoot,
      what: imagesMissing ? "Docker's images and volumes" : "Docker's volumes",
      bytes: (imagesMissing ? 4 : 1) * gib,
    },
  ];
}

export interface Space {
  readonly free: number;
  readonly total: number;
}

/** Space for us at a path; undefined where the path isn't on this machine, as Docker Desktop's isn't. */
export async function spaceAt(path: string): Promise<Space | undefined> {
  try {
    const { bavail, blocks, bsize } = await statfs(path);
    return { free: bavail * bsize, total: blocks * bsize };
  } catch {
    return undefined;
  }
}

/** A size as people read it. */
export function readable(bytes: number): string {
  return bytes >= gib ? `${(bytes / gib).toFixed(1)} GiB` : `${Math.floor(bytes / mib)} MiB`;
}

/** The first place that has less than is needed. */
export async function shortage(
  wanted: readonly Need[],
  space: (path: string) => Promise<Space | undefined> = spaceAt,
): Promise<string | undefined> {
  for (const { path, what, bytes } of wanted) {
    const there = await space(path);
    if (there === undefined || there.free >= bytes) continue;
    return `the disk is too full for ${what}: ${path} has ${readable(there.free)} free of ${readable(there.total)}, and at least ${readable(bytes)} are needed. Free some${what.startsWith("Docker") ? ', for example with "docker system df" and "docker image prune"' : ""}`;
  }
  return undefined;
}
