// Who may call whom on AWS, computed from the port table as plain rules. Pure.

import { type AwsConfig } from "../config.ts";
import { type Port, type PortName, ports, publicPorts } from "../ports.ts";
import { type Role, type Topology } from "../topology.ts";
import { isPublicRange } from "./addresses.ts";

const roles = ["lb", "stream", "store"] as const satisfies readonly Role[];

/** A role's machines, the way in for operators, the endpoints of AWS's APIs, the public entry. */
export type Group = Role | "access" | "endpoint" | "publicEntry";

/** The groups that a configuration has. */
export function groupsOf(config: AwsConfig): readonly Group[] {
  return [
    ...roles,
    "access",
    "endpoint",
    ...(config.entry.loadBalancer === undefined ? [] : (["publicEntry"] as const)),
  ];
}

/** One rule of one group: plain data, from which the resources are made and at which the tests look. */
export interface Rule {
  /** Name of its resource. It says all that the rule does, so no other rule's change can rename it. */
  readonly name: string;
  readonly group: Group;
  readonly direction: "in" | "out";
  /** `112` is VRRP, which has no ports: both are -1, as EC2 stores it. */
  readonly protocol: "tcp" | "112";
  readonly fromPort: number;
  readonly toPort: number;
  readonly peer: { readonly group: Group } | { readonly cidr: string };
  /** Only characters that EC2 takes: no apostrophes. */
  readonly description: string;
}

/** Rules of one direction that a group may have by AWS's default quota. */
export const ruleQuota = 60;

const ssh = 22;
const everywhere = "0.0.0.0/0";
const vrrp = { protocol: "112", fromPort: -1, toPort: -1 } as const;

/** Ports that the public entry listens on, and the load balancers' ports behind them. */
export function entryPorts(
  loadBalancer: NonNullable<AwsConfig["entry"]["loadBalancer"]>,
): Record<keyof typeof publicPorts, { readonly listener: number; readonly target: number }> {
  const pair = ({ tls, leadsTo }: { tls: number; leadsTo: PortName }) => {
    const target = ports[leadsTo].number;
    return { listener: loadBalancer.certificateArn === undefined ? target : tls, target };
  };
  return { api: pair(publicPorts.api), ingest: pair(publicPorts.ingest) };
}

/**
 * Every rule of every group. Name service, time and metadata need none: security groups don't filter them. A rule
 * between two groups comes twice, once as the caller's way out and once as the callee's way in.
 */
export function rules(config: AwsConfig, topology: Topology): Rule[] {
  const found: Rule[] = [];
  const allow = (rule: Omit<Rule, "name">): void => {
    const { group, direction, protocol, fromPort, toPort, peer } = rule;
    const span = protocol === "112" ? "vrrp" : fromPort === toPort ? `${fromPort}` : `${fromPort}-${toPort}`;
    const other = "group" in peer ? peer.group : peer.cidr.replace("/", "-");
    const name = `${group}-${direction}-${span}-${direction === "in" ? "from" : "to"}-${other}`;
    found.push({ name, ...rule });
  };
  const between = (
    caller: Group,
    callee: Group,
    what: Pick<Rule, "protocol" | "fromPort" | "toPort" | "description">,
  ): void => {
    allow({ group: callee, direction: "in", peer: { group: caller }, ...what });
    allow({ group: caller, direction: "out", peer: { group: callee }, ...what });
  };
  const tcp = (port: number | readonly [number, number], description: string) => {
    const [fromPort, toPort] = typeof port === "number" ? [port, port] : port;
    return { protocol: "tcp", fromPort, toPort, description } as const;
  };
  /** What a machine needs from outside: packages, images, AWS's APIs. */
  const reachOut = (group: Group): void => {
    const peer = { cidr: everywhere };
    allow({ group, direction: "out", peer, ...tcp(443, "HTTPS: AWS APIs, registries, packages") });
    allow({ group, direction: "out", peer, ...tcp(80, "HTTP: Debian packages, which are signed") });
  };

  for (const [name, port] of Object.entries(ports) as [PortName, Port][]) {
    for (const span of spansOf(name, topology)) {
      const what = tcp(span, describe(port.purpose));
      for (const callee of port.on) {
        for (const caller of callersOf(port)) between(caller, callee, what);
        for (const cidr of rangesOf(port, config)) {
          allow({ group: callee, direction: "in", peer: { cidr }, ...what });
        }
      }
      // A packet to the overlay address is for no group's member, so the way out names the address itself. It comes in
      // at the holder's interface, from the caller's own address, by the rules above.
      if (port.from === "client") {
        for (const group of roles) {
          allow({ group, direction: "out", peer: { cidr: `${topology.vip.address}/32` }, ...what });
        }
      }
    }
  }
  between("lb", "lb", { ...vrrp, description: "VRRP between the load balancers" });
  between("lb", "endpoint", tcp(443, "EC2 API, to move the virtual IP"));
  for (const group of roles) {
    between("access", group, tcp(ssh, "SSH of the operators and of Docker"));
    reachOut(group);
  }
  if (config.admin.access === "bastion") {
    for (const cidr of distinct(config.admin.clients)) {
      allow({ group: "access", direction: "in", peer: { cidr }, ...tcp(ssh, "SSH of the operators") });
    }
    reachOut("access");
  }
  const { loadBalancer } = config.entry;
  if (loadBalancer !== undefined) {
    for (const [what, { listener, target }] of Object.entries(entryPorts(loadBalancer))) {
      for (const cidr of distinct(loadBalancer.clients)) {
        allow({ group: "publicEntry", direction: "in", peer: { cidr }, ...tcp(listener, `${what} entry`) });
      }
      between("publicEntry", "lb", tcp(target, `${what} from the public entry, health checks too`));
    }
  }
  return found;
}

/** What the plan of rules can't be built with, one sentence each; empty for a good one. */
export function ruleProblems(config: AwsConfig, topology: Topology): string[] {
  const counts = new Map<string, number>();
  for (const { group, direction } of rules(config, topology)) {
    const key = `${group}, ${direction === "in" ? "inbound" : "outbound"}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return [...counts]
    .filter(([, count]) => count > ruleQuota)
    .map(
      ([key, count]) =>
        `a security group (${key}) would have ${count} rules, and AWS allows ${ruleQuota}: name fewer, wider client ranges`,
    );
}

function callersOf(port: Port): readonly Role[] {
  switch (port.from) {
    case "client":
      return roles;
    case "node":
      return port.callers ?? roles;
    case "peer":
      return port.on;
    case "admin":
    case "self":
      return [];
  }
}

function rangesOf(port: Port, config: AwsConfig): readonly string[] {
  switch (port.from) {
    case "client":
      return config.entry.clients.length === 0 ? [config.cidr] : distinct(config.entry.clients);
    case "admin":
      // Operators in a public range come through the bastion: no public address leads to a load balancer.
      return distinct(config.admin.clients).filter((cidr) => !isPublicRange(cidr));
    case "node":
    case "peer":
    case "self":
      return [];
  }
}

/** EC2 refuses the same rule twice. */
function distinct(ranges: readonly string[]): readonly string[] {
  return [...new Set(ranges)];
}

/**
 * The exact ports a service listens on, neighbours joined: of a service with slots, those of its replicas; none of
 * one that the configuration leaves out.
 */
function spansOf(name: PortName, topology: Topology): (readonly [number, number])[] {
  const spans: [number, number][] = [];
  for (const port of listening(name, topology).sort((a, b) => a - b)) {
    const last = spans.at(-1);
    if (last !== undefined && port <= last[1] + 1) last[1] = port;
    else spans.push([port, port]);
  }
  return spans;
}

function listening(name: PortName, { api, ingestor }: Topology): number[] {
  const syslog = ingestor.flatMap(({ syslogPort }) => syslogPort ?? []);
  switch (name) {
    case "api":
      return api.map(({ port }) => port);
    case "ingestor":
      return ingestor.map(({ port }) => port);
    case "ingestorSyslog":
      return syslog;
    case "syslog":
      return syslog.length === 0 ? [] : [ports.syslog.number];
    default:
      return [ports[name].number];
  }
}

/** EC2 takes letters, digits, spaces and `._-:/()#,@[]+=&;{}!$*` in a description, 255 at most. */
function describe(purpose: string): string {
  return purpose.replace(/[^A-Za-z0-9 ._:/()#,@[\]+=&;{}!$*-]/g, "").slice(0, 255);
}
