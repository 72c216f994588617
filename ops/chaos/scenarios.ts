// What can break, as data: every scenario of the failover contract, computed from the topology. Pure.

import { vrrpLimitMs } from "../../components/render/keepalived.ts";
import { type Role, type Topology, zones } from "../../components/topology.ts";
import { longestLeaseMs } from "../../services/witness/lease.ts";
import { unsyncedSeconds } from "./power.ts";

/** A part that is known only when the scenario begins. */
export type Part =
  /** The load balancer that has the virtual IP, and the other one. */
  | "holder"
  | "backup"
  /** The broker that is Kafka's controller, the one that leads partition 0 of the events, and one that is neither. */
  | "controller"
  | "partition leader"
  | "other broker"
  | "ZooKeeper's leader"
  | "a ZooKeeper follower";

/** Which of several replicas or nodes: by its slot, or by the part it plays. */
export type Which = number | Part;
/** Slots of the parts, as looked up when the scenario begins. */
export type Parts = Readonly<Record<Part, number>>;

export const services = [
  "haproxy",
  "keepalived",
  "witness",
  "api",
  "ingestor",
  "zookeeper",
  "kafka",
  "clickhouse",
  "supervisor",
  "watchdog",
] as const;
export type Service = (typeof services)[number];

/** What is hit. A `node` is its anchor and all guests, a `zone` its three nodes. */
export type Victim =
  | { readonly kind: "replica"; readonly service: Service; readonly which: Which }
  | { readonly kind: "anchor" | "node"; readonly role: Role; readonly which: Which }
  | { readonly kind: "zone"; readonly which: number };

export type Fault =
  /** Gracefully down, and up again `seconds` later: an operator's stop is his own will, and he starts it again. */
  | { readonly do: "stop"; readonly victims: readonly Victim[]; readonly seconds: number }
  /** SIGKILL, all at the same moment; nobody starts anything again but the platform itself. */
  | { readonly do: "kill"; readonly victims: readonly Victim[] }
  /** Frozen, as by a hypervisor or a full machine, and thawed `seconds` later. */
  | { readonly do: "pause"; readonly victims: readonly Victim[]; readonly seconds: number }
  | { readonly do: "restart"; readonly victims: readonly Victim[] }
  /** HAProxy reads its configuration again. */
  | { readonly do: "reload"; readonly victims: readonly Victim[]; readonly times: number }
  /** Every frame between the two sides is dropped; without another side, everything but the side's own traffic. */
  | {
      readonly do: "cut";
      readonly side: readonly Victim[];
      readonly from?: readonly Victim[];
      readonly seconds: number;
    }
  /** The card of each node is down, and up again `seconds` later, without the default route that it had. */
  | { readonly do: "take the link down"; readonly victims: readonly Victim[]; readonly seconds: number }
  /** The disk of a replica's data is full for that long. */
  | { readonly do: "fill"; readonly victims: readonly Victim[]; readonly seconds: number }
  /**
   * The machine loses its power: SIGKILL, and what was written last and never synced is gone from its volumes
   * (`power.ts`). It has power again `seconds` later.
   */
  | { readonly do: "cut the power"; readonly victims: readonly Victim[]; readonly seconds: number }
  /** So many containers beside the stack take all the processor time that they get. */
  | { readonly do: "keep busy"; readonly containers: number; readonly seconds: number }
  /** The Docker daemon stops and starts, and every container with it. */
  | { readonly do: "restart the daemon" };

export interface Scenario {
  readonly name: string;
  /** For people. */
  readonly breaks: string;
  /**
   * Who mends it: Docker and the services themselves, the supervisor, or the end of the fault, which is its own: what it
   * stopped it starts.
   */
  readonly heals: "by itself" | "by the supervisor" | "by the watchdog" | "when the fault ends";
  /** Faults of one step come at the same moment; the next step comes `pauseSeconds` later. */
  readonly steps: readonly (readonly Fault[])[];
  /** @default 4 */
  readonly pauseSeconds?: number;
  /** What the contract promises to clients of the virtual IP. @default nothing but that it comes back */
  readonly promise?: Promise_;
  /** What it breaks, so that two that have nothing in common can be had at once. @default it stands alone */
  readonly area?: "proxy" | "keeper" | "api" | "ingestor" | "zookeeper" | "kafka" | "clickhouse";
  /** Part of the fast half, for `npm test`. @default no */
  readonly fast?: boolean;
  /** @default nothing special */
  readonly needs?: "root" | "--daemon-restart";
}

/** A limit on what clients of the virtual IP lose. */
type Promise_ =
  | { readonly limit: "outage"; readonly ms: number; readonly what: string }
  | { readonly limit: "failed requests"; readonly most: number }
  /** The address stays where it is. */
  | { readonly limit: "takeovers"; readonly most: number };
export type { Promise_ as VipPromise };

/** HAProxy goes, and the address is handed over or its death noticed at once. */
const proxyLimitMs = 100;
/** HAProxy hangs: it is asked twice before that is believed. */
const hungLimitMs = 500;
/** How much longer than VRRP's own limit a lost node may take. */
const nodeFactor = 1.15;
/** Where both load balancers claim the address, the witness decides within that. */
const decisionMs = 1_000;
/** Longer than the sessions in ZooKeeper last, so that others take over. */
const longSeconds = 8;
const shortSeconds = 4;
/** Four rounds are ten minutes. */
const stormSeconds = 150;
const stormContainers = 40;

/** The VRRP limit that counts here: that of the node with the lower priority, which waits longest. */
export function vrrpLimit(topology: Topology): number {
  return Math.max(...topology.keepalived.map((keeper) => vrrpLimitMs(topology, keeper)));
}

const replica = (service: Service, which: Which): Victim => ({ kind: "replica", service, which });
const anchor = (role: Role, which: Which): Victim => ({ kind: "anchor", role, which });
const node = (role: Role, which: Which): Victim => ({ kind: "node", role, which });
const slug = (text: string) =>
  text
    .toLowerCase()
    .replace(/'s|^an? /g, "")
    .replace(/[^a-z0-9]+/g, "-");

/** Every scenario, in the order in which `--all` runs them. */
export function scenariosOf(topology: Topology): Scenario[] {
  const nodePromise: Promise_ = {
    limit: "outage",
    ms: Math.round(nodeFactor * vrrpLimit(topology)),
    what: `${nodeFactor} × VRRP's ${Math.round(vrrpLimit(topology))} ms`,
  };
  const proxyPromise: Promise_ = { limit: "outage", ms: proxyLimitMs, what: `${proxyLimitMs} ms` };
  const found: Scenario[] = [];

  for (const which of ["holder", "backup"] as const) {
    const promise = which === "holder" ? { promise: proxyPromise } : {};
    // A Keepalived that says nothing is a lost node to the other one.
    const silent = which === "holder" ? { promise: nodePromise } : {};
    const haproxy = [replica("haproxy", which)];
    const keepalived = [replica("keepalived", which)];
    const of = (what: string) =>
      `${what} of the load balancer that ${which === "holder" ? "has" : "hasn't"} the VIP`;
    found.push(
      {
        name: `haproxy-${which}-stop`,
        breaks: `${of("HAProxy")} is stopped, and started ${shortSeconds} s later`,
        heals: "when the fault ends",
        steps: [[{ do: "stop", victims: haproxy, seconds: shortSeconds }]],
        area: "proxy",
        ...promise,
      },
      {
        name: `haproxy-${which}-restart`,
        breaks: `${of("HAProxy")} is restarted`,
        heals: "by itself",
        steps: [[{ do: "restart", victims: haproxy }]],
        area: "proxy",
        ...promise,
      },
      {
        name: `haproxy-${which}-kill`,
        breaks: `${of("HAProxy")} is killed`,
        heals: "by the supervisor",
        steps: [[{ do: "kill", victims: haproxy }]],
        area: "proxy",
        ...promise,
        ...(which === "holder" ? { fast: true } : {}),
      },
      {
        name: `haproxy-${which}-pause`,
        breaks: `${of("HAProxy")} hangs for ${longSeconds} s`,
        heals: "when the fault ends",
        steps: [[{ do: "pause", victims: haproxy, seconds: longSeconds }]],
        area: "proxy",
        ...(which === "holder"
          ? { promise: { limit: "outage", ms: hungLimitMs, what: `${hungLimitMs} ms` } }
          : {}),
      },
      {
        name: `keepalived-${which}-stop`,
        breaks: `${of("Keepalived")} is stopped, and started ${shortSeconds} s later`,
        heals: "when the fault ends",
        steps: [[{ do: "stop", victims: keepalived, seconds: shortSeconds }]],
        area: "keeper",
        ...silent,
      },
      {
        name: `keepalived-${which}-restart`,
        breaks: `${of("Keepalived")} is restarted`,
        heals: "by itself",
        steps: [[{ do: "restart", victims: keepalived }]],
        area: "keeper",
        ...silent,
      },
      {
        name: `keepalived-${which}-kill`,
        breaks: `${of("Keepalived")} is killed`,
        heals: "by the supervisor",
        steps: [[{ do: "kill", victims: keepalived }]],
        area: "keeper",
        ...silent,
      },
      {
        name: `keepalived-${which}-pause`,
        breaks: `${of("Keepalived")} hangs for ${shortSeconds} s`,
        heals: "when the fault ends",
        steps: [[{ do: "pause", victims: keepalived, seconds: shortSeconds }]],
        area: "keeper",
        ...silent,
      },
    );
  }
  found.push({
    name: "haproxy-reload",
    breaks: "HAProxy of the load balancer that has the VIP is reloaded ten times",
    heals: "by itself",
    steps: [[{ do: "reload", victims: [replica("haproxy", "holder")], times: 10 }]],
    promise: { limit: "failed requests", most: 0 },
    area: "proxy",
  });

  const balancers: readonly (readonly [Which, string])[] = [
    ["holder", "the load balancer that has the VIP"],
    ["backup", "the load balancer that hasn't the VIP"],
    [zones, "the lb node with the witness"],
  ];
  for (const [which, text] of balancers) {
    const short = typeof which === "number" ? "witness" : which;
    const promise = which === "holder" ? { promise: nodePromise } : {};
    found.push(
      {
        name: `lb-anchor-${short}-kill`,
        breaks: `the anchor of ${text} is killed`,
        heals: "by the supervisor",
        steps: [[{ do: "kill", victims: [anchor("lb", which)] }]],
        ...promise,
      },
      {
        name: `lb-anchor-${short}-stop`,
        breaks: `the anchor of ${text} is stopped, and started ${shortSeconds} s later`,
        heals: "when the fault ends",
        steps: [[{ do: "stop", victims: [anchor("lb", which)], seconds: shortSeconds }]],
        ...promise,
      },
      {
        name: `lb-anchor-${short}-pause`,
        breaks: `the anchor of ${text} hangs for ${shortSeconds} s`,
        heals: "when the fault ends",
        steps: [[{ do: "pause", victims: [anchor("lb", which)], seconds: shortSeconds }]],
        ...promise,
      },
      {
        name: `lb-anchor-${short}-restart`,
        breaks: `the anchor of ${text} is restarted`,
        heals: "by the supervisor",
        steps: [[{ do: "restart", victims: [anchor("lb", which)] }]],
        ...promise,
      },
      {
        name: `lb-node-${short}-kill`,
        breaks: `${text} is lost: its anchor and all guests are killed at once`,
        heals: "by the supervisor",
        steps: [[{ do: "kill", victims: [node("lb", which)] }]],
        ...promise,
        ...(which === "holder" ? { fast: true } : {}),
      },
      {
        name: `lb-node-${short}-pause`,
        breaks: `${text} hangs with all that is on it, for ${longSeconds} s`,
        heals: "when the fault ends",
        steps: [[{ do: "pause", victims: [node("lb", which)], seconds: longSeconds }]],
        ...promise,
      },
      {
        name: `lb-node-${short}-restart`,
        breaks: `${text} is rebooted: all of it is stopped, then started`,
        heals: "when the fault ends",
        steps: [[{ do: "restart", victims: [node("lb", which)] }]],
        ...promise,
      },
    );
  }
  const witness = [replica("witness", zones)];
  found.push(
    {
      name: "witness-stop",
      breaks: `the witness is stopped, and started ${longSeconds} s later`,
      heals: "when the fault ends",
      steps: [[{ do: "stop", victims: witness, seconds: longSeconds }]],
      promise: nodePromise,
    },
    {
      name: "witness-kill",
      breaks: "the witness is killed",
      heals: "by the supervisor",
      steps: [[{ do: "kill", victims: witness }]],
      promise: nodePromise,
    },
    {
      name: "witness-pause",
      breaks: `the witness hangs for ${longSeconds} s`,
      heals: "when the fault ends",
      steps: [[{ do: "pause", victims: witness, seconds: longSeconds }]],
      promise: nodePromise,
    },
    {
      name: "witness-and-holder-kill",
      breaks: "the witness and the load balancer that has the VIP are lost at once",
      heals: "by the supervisor",
      steps: [[{ do: "kill", victims: [node("lb", "holder"), node("lb", zones)] }]],
    },
  );
  found.push({
    name: "lb-anchors-loop",
    breaks: "the anchors of both load balancers are restarted in turn, three times, 6 s apart",
    heals: "by the supervisor",
    steps: [1, 2, 3].flatMap(() =>
      topology.haproxy.map(({ slot }) => [{ do: "restart" as const, victims: [anchor("lb", slot)] }]),
    ),
    pauseSeconds: 6,
    promise: nodePromise,
  });

  for (const service of ["api", "ingestor"] as const) {
    const each = (fault: (victims: readonly Victim[]) => Fault) =>
      topology[service].map(({ slot }) => [fault([replica(service, slot)])]);
    const text = service === "api" ? "each API" : "each ingestor";
    found.push(
      {
        name: `${service}-stop`,
        breaks: `${text} in turn is stopped, and started 2 s later`,
        heals: "when the fault ends",
        steps: each((victims) => ({ do: "stop", victims, seconds: 2 })),
        pauseSeconds: 2,
        area: service,
      },
      {
        name: `${service}-kill`,
        breaks: `${text} in turn is killed`,
        heals: "by the supervisor",
        steps: each((victims) => ({ do: "kill", victims })),
        pauseSeconds: 3,
        area: service,
        ...(service === "ingestor" ? { fast: true } : {}),
      },
      {
        name: `${service}-pause`,
        breaks: `${text} in turn hangs for ${shortSeconds} s`,
        heals: "when the fault ends",
        steps: each((victims) => ({ do: "pause", victims, seconds: shortSeconds })),
        pauseSeconds: 2,
        area: service,
      },
    );
  }

  const ensembles: readonly (readonly [Service & Scenario["area"], Which, string])[] = [
    ["kafka", "controller", "the broker that is Kafka's controller"],
    ["kafka", "partition leader", "the broker that leads partition 0 of the events"],
    ["kafka", "other broker", "a broker that is neither controller nor leader of partition 0"],
    ["zookeeper", "ZooKeeper's leader", "ZooKeeper's leader"],
    ["zookeeper", "a ZooKeeper follower", "a ZooKeeper follower"],
    ["clickhouse", 2, "a ClickHouse replica"],
  ];
  for (const [service, which, text] of ensembles) {
    const victims = [replica(service, which)];
    const name =
      typeof which === "number"
        ? service
        : slug(which).includes(service)
          ? slug(which)
          : `${service}-${slug(which)}`;
    found.push(
      {
        name: `${name}-kill`,
        breaks: `${text} is killed`,
        heals: "by the supervisor",
        steps: [[{ do: "kill", victims }]],
        area: service,
        ...(which === "partition leader" || service === "clickhouse" ? { fast: true } : {}),
      },
      {
        name: `${name}-stop`,
        breaks: `${text} is stopped, and started ${shortSeconds} s later`,
        heals: "when the fault ends",
        steps: [[{ do: "stop", victims, seconds: shortSeconds }]],
        area: service,
      },
      {
        name: `${name}-pause`,
        breaks: `${text} hangs for ${longSeconds} s`,
        heals: "when the fault ends",
        steps: [[{ do: "pause", victims, seconds: longSeconds }]],
        area: service,
      },
    );
  }

  for (const role of ["stream", "store"] as const) {
    found.push({
      name: `${role}-node-kill`,
      breaks: `${role} node 2 is lost: its anchor and all guests are killed at once`,
      heals: "by the supervisor",
      steps: [[{ do: "kill", victims: [node(role, 2)] }]],
    });
  }
  for (let zone = 1; zone <= zones; zone++) {
    found.push({
      name: `zone-${zone}-kill`,
      breaks: `zone ${zone} is lost: its three nodes are killed at once`,
      heals: "by the supervisor",
      steps: [[{ do: "kill", victims: [{ kind: "zone", which: zone }] }]],
      // Kept trivially where the holder is in another zone.
      promise: nodePromise,
    });
  }

  const powerCuts: readonly (readonly [string, Victim, string])[] = [
    ["clickhouse", replica("clickhouse", 2), "a ClickHouse replica"],
    ["kafka", replica("kafka", "partition leader"), "the broker that leads partition 0 of the events"],
    ["zookeeper", replica("zookeeper", "ZooKeeper's leader"), "ZooKeeper's leader"],
    ["zone-2", { kind: "zone", which: 2 }, "zone 2"],
  ];
  for (const [name, victim, text] of powerCuts) {
    found.push({
      name: `${name}-power-cut`,
      breaks: `${text} has no power for ${longSeconds} s, and what it had not synced of its last ${unsyncedSeconds} s is gone`,
      heals: "when the fault ends",
      steps: [[{ do: "cut the power", victims: [victim], seconds: longSeconds }]],
    });
  }

  const cuts: readonly {
    readonly name: string;
    readonly breaks: string;
    readonly side: Victim;
    readonly from?: readonly Victim[];
    readonly promise?: Promise_;
    readonly fast?: boolean;
  }[] = [
    {
      name: "lb-node",
      breaks: "the load balancer that has the VIP is cut off from everything",
      side: node("lb", "holder"),
      promise: nodePromise,
    },
    { name: "stream-node", breaks: "stream node 2 is cut off from everything", side: node("stream", 2) },
    { name: "store-node", breaks: "store node 2 is cut off from everything", side: node("store", 2) },
    {
      name: "zone",
      breaks: "zone 1 is cut off from the other zones and from clients",
      side: { kind: "zone", which: 1 },
      promise: nodePromise,
    },
    {
      name: "lb-pair",
      breaks: "the two load balancers are cut off from each other; both reach the witness and clients",
      side: node("lb", "holder"),
      from: [node("lb", "backup")],
      promise: { limit: "outage", ms: decisionMs, what: `the witness decides within ${decisionMs} ms` },
      fast: true,
    },
    {
      name: "lb-quorum",
      breaks:
        "the load balancer that has the VIP is cut off from the other one and from the witness, not from clients",
      side: node("lb", "holder"),
      from: [node("lb", "backup"), node("lb", zones)],
      promise: {
        limit: "outage",
        // A holder that reaches neither the witness nor the other one has let go before its lease ends (decision 6).
        ms: longestLeaseMs,
        what: `a holder has let go before its lease of ${longestLeaseMs} ms ends`,
      },
    },
  ];
  for (const { name, breaks, side, from, ...rest } of cuts) {
    found.push({
      name: `cut-${name}`,
      breaks: `${breaks}, for ${longSeconds} s`,
      heals: "when the fault ends",
      steps: [[{ do: "cut", side: [side], ...(from === undefined ? {} : { from }), seconds: longSeconds }]],
      ...rest,
    });
  }

  for (const [name, victim, text, promise] of [
    ["lb-node", node("lb", "holder"), "the load balancer that has the VIP", { promise: nodePromise }],
    ["stream-node", node("stream", 2), "stream node 2", {}],
  ] as const) {
    found.push({
      name: `link-down-up-${name}`,
      breaks: `the network card of ${text} is down for ${shortSeconds} s, and has no default route when it is up again`,
      heals: "by the supervisor",
      steps: [[{ do: "take the link down", victims: [victim], seconds: shortSeconds }]],
      ...promise,
    });
  }

  found.push(
    {
      name: "store-disk-full",
      breaks: "the data disk of a ClickHouse replica is full for 15 s",
      heals: "when the fault ends",
      steps: [[{ do: "fill", victims: [replica("clickhouse", 3)], seconds: 15 }]],
      needs: "root",
    },
    {
      name: "broker-and-clickhouse-kill",
      breaks: "a broker and a ClickHouse replica are killed at once",
      heals: "by the supervisor",
      steps: [[{ do: "kill", victims: [replica("kafka", "partition leader"), replica("clickhouse", 1)] }]],
    },
    {
      name: "haproxy-and-ingestor-kill",
      breaks: "HAProxy of the load balancer that has the VIP, and an ingestor, are killed at once",
      heals: "by the supervisor",
      steps: [[{ do: "kill", victims: [replica("haproxy", "holder"), replica("ingestor", 3)] }]],
      promise: proxyPromise,
    },
    {
      name: "supervisor-and-api-kill",
      breaks: "the supervisor and an API are killed at once",
      heals: "by the watchdog",
      steps: [[{ do: "kill", victims: [replica("supervisor", 1), replica("api", 1)] }]],
    },
    {
      name: "watchdog-and-ingestor-kill",
      breaks: "the watchdog and an ingestor are killed at once",
      heals: "by the supervisor",
      steps: [[{ do: "kill", victims: [replica("watchdog", 1), replica("ingestor", 1)] }]],
    },
    {
      name: "storm",
      breaks: `${stormContainers} containers beside the stack take all the processor time that they get, for ${stormSeconds} s`,
      heals: "when the fault ends",
      steps: [[{ do: "keep busy", containers: stormContainers, seconds: stormSeconds }]],
    },
    {
      name: "daemon-restart",
      breaks: "the Docker daemon is restarted, and every container with it",
      heals: "by the supervisor",
      steps: [[{ do: "restart the daemon" }]],
      needs: "--daemon-restart",
    },
  );
  return found.map((one) =>
    one.promise !== undefined || touchesVip(one) ? one : { ...one, promise: { limit: "takeovers", most: 0 } },
  );
}

/** Something of what decides who has the virtual IP is hit; else it has no reason to move. */
function touchesVip({ steps }: Scenario): boolean {
  const deciding: readonly Service[] = ["haproxy", "keepalived", "witness"];
  const hit = (victim: Victim) =>
    victim.kind === "replica"
      ? deciding.includes(victim.service)
      : victim.kind === "zone" || victim.role === "lb";
  return steps.flat().some((fault) => {
    if (fault.do === "restart the daemon") return true;
    if (fault.do === "keep busy") return false;
    return (fault.do === "cut" ? fault.side : fault.victims).some(hit);
  });
}

/** Who mends: of two, the one that comes first here is the last to have mended. */
const healers: readonly Scenario["heals"][] = [
  "when the fault ends",
  "by the watchdog",
  "by the supervisor",
  "by itself",
];

/** Two of different areas at once, step by step. What either promises alone, both together don't. */
export function pairsOf(scenarios: readonly Scenario[]): Scenario[] {
  const some = scenarios.filter(({ area }) => area !== undefined);
  return some.flatMap((one, index) =>
    some
      .slice(index + 1)
      .filter(({ area }) => area !== one.area)
      .map((other): Scenario => {
        const [long, short] = one.steps.length < other.steps.length ? [other, one] : [one, other];
        return {
          name: `${one.name}+${other.name}`,
          breaks: `${long.breaks}; ${long.steps.length > short.steps.length ? "with its first step" : "at once"} ${short.breaks}`,
          heals: healers.find((healer) => healer === one.heals || healer === other.heals) ?? one.heals,
          steps: long.steps.map((step, number) => [...step, ...(short.steps[number] ?? [])]),
          ...(long.pauseSeconds === undefined ? {} : { pauseSeconds: long.pauseSeconds }),
        };
      }),
  );
}

/** Containers by name that make up a victim; for a node only its anchor, since Docker knows who has joined it. */
export function placesOf(
  victim: Victim,
  topology: Topology,
  parts: Parts,
): { readonly containers: readonly string[]; readonly anchors: readonly string[] } {
  const slotOf = (which: Which): number => (typeof which === "number" ? which : parts[which]);
  if (victim.kind === "zone") {
    return {
      containers: [],
      anchors: topology.nodes.filter(({ zone }) => zone === victim.which).map(({ name }) => name),
    };
  }
  const slot = slotOf(victim.which);
  if (victim.kind === "replica") {
    // On one daemon there is one of these.
    const found = [topology[victim.service]].flat().find((one) => !("slot" in one) || one.slot === slot);
    if (found === undefined) throw new Error(`there is no ${victim.service} ${slot}`);
    return { containers: [found.name], anchors: [] };
  }
  const found = topology.nodes.find(({ role, index }) => role === victim.role && index === slot);
  if (found === undefined) throw new Error(`there is no ${victim.role} node ${slot}`);
  return victim.kind === "anchor"
    ? { containers: [found.name], anchors: [] }
    : { containers: [], anchors: [found.name] };
}
