// keepalived.conf as text: typed data in, text out. Why each setting: docs/decisions 6, 12 and 18.

import { ports } from "../ports.ts";
import { type Replica, type Topology } from "../topology.ts";

/** VRRP advertisement interval, seconds; a lost node is noticed after about three of them. */
export const advertInterval = 0.1;
/** The same between zones, where a packet now and then is late. */
export const zoneAdvertInterval = 0.2;
/** Seconds between the holder's repeated announcements of whose card the address is on. */
const addressRefresh = 10;
const virtualRouterId = 51;
const highestPriority = 254;

/** The account in the image that asks the witness and calls the cloud; the only one that needs instance metadata. */
export const vipUser = { name: "vip", uid: 8410 } as const;
/** Files of the keeper of the address, in the Keepalived container. */
export const keeperFiles = {
  settings: "/etc/siem-ha/vip.conf",
  token: "/etc/siem-ha/witness-token",
} as const;
/** What HAProxy's and Keepalived's containers of one node share; HAProxy's user owns it, Keepalived's only reads. */
export const pairDirectory = "/var/lib/vip-pair";
/** Files in it: a pipe that HAProxy's container holds open while it lives, and 1 while it wants the address to go. */
export const pairFiles = { alive: `${pairDirectory}/alive`, handOver: `${pairDirectory}/hand-over` } as const;
/** Files of the image's own watchers: 1 while HAProxy is dead or hangs, and while the witness gave the address to the peer. */
export const watcherFiles = { proxyDown: "/run/vip/proxy-down", letGo: "/run/vip/let-go" } as const;

/** What the container must be told about the HAProxy beside it. */
export const keepalivedEnvironment = {
  PROXY_ALIVE: pairFiles.alive,
  PROXY_HAND_OVER: pairFiles.handOver,
  PROXY_HEALTH_PORT: String(ports.haproxyHealth.number),
} as const;

/** Files that Keepalived watches; a 1 in any of them takes this node out of the election at once. */
const tracked = {
  hand_over: pairFiles.handOver,
  proxy_down: watcherFiles.proxyDown,
  let_go: watcherFiles.letGo,
} as const;

/** Notifications, and what the hook makes of each. */
const notified = {
  master: "master",
  master_rx_lower_pri: "master",
  backup: "released",
  fault: "released",
  stop: "released",
} as const;

/**
 * Keepalived of one load balancer. Both start as BACKUP with nopreempt, so a returning node does not take the
 * address back. VRRPv3, because v2 rounds the interval to whole seconds; unicast, because clouds block multicast.
 */
export function renderKeepalived(topology: Topology, self: Replica, networkInterface: string): string {
  const peers = topology.keepalived.filter((peer) => peer.node !== self.node);
  return `# Rendered from components/render/keepalived.ts; changes here are lost at the next up.
global_defs {
    router_id ${self.node.alias}
    vrrp_version 3
    vrrp_garp_master_repeat 3
    vrrp_garp_master_refresh ${addressRefresh}
    script_user root
    enable_script_security
    max_auto_priority 0
}
${Object.entries(tracked)
  .map(
    ([name, file]) => `
vrrp_track_file ${name} {
    file ${file}
    weight 0
}
`,
  )
  .join("")}
vrrp_instance siem_vip {
    state BACKUP
    nopreempt
    interface ${networkInterface}
    virtual_router_id ${virtualRouterId}
    priority ${priorityOf(self)}
    advert_int ${advertIntervalOf(topology)}
    unicast_src_ip ${self.node.address}
    unicast_peer {
${peers.map((peer) => `        ${peer.node.address}`).join("\n")}
    }
    virtual_ipaddress {
        ${topology.vip.address}/${topology.vip.prefix} dev ${networkInterface}
    }
    track_file {
${Object.keys(tracked)
  .map((name) => `        ${name}`)
  .join("\n")}
    }
${Object.entries(notified)
  .map(
    ([event, word]) =>
      `    notify_${event} "/usr/local/bin/vip-notify ${word}" ${vipUser.name} ${vipUser.name}`,
  )
  .join("\n")}
}
`;
}

function priorityOf(self: Replica): number {
  return highestPriority - (self.slot - 1);
}

/** Machines stand in different zones; the nodes of one daemon don't. */
function advertIntervalOf(topology: Topology): number {
  return topology.network === undefined ? zoneAdvertInterval : advertInterval;
}

/**
 * Longest time VRRP lets a dead holder pass for alive, in milliseconds: three advertisements and the backup's skew.
 * @param backup the node that takes over
 */
export function vrrpLimitMs(topology: Topology, backup: Replica): number {
  return 1000 * advertIntervalOf(topology) * (3 + (256 - priorityOf(backup)) / 256);
}

/** What the keeper of the address on one load balancer must know. */
export interface KeeperSettings {
  /** This node's name; it is the lease's holder by this name. */
  readonly node: string;
  /** Settles who keeps the address if two nodes claim it and the witness can't be asked. */
  readonly rank: "first" | "later";
  /** This node's own address. */
  readonly address: string;
  readonly vip: string;
  /** Addresses of the other nodes that may hold the address. */
  readonly peers: readonly string[];
  /** Where keepers tell each other whether they hold the address; the witness's port, on another node. */
  readonly port: number;
  /** Base URL of the witness. */
  readonly witness: string;
  /** Routes that have to follow the address. @default the network follows it by itself (ARP) */
  readonly cloud?: KeeperCloud;
}

/** What a keeper must know where routes lead to the address. */
export interface KeeperCloud {
  readonly region: string;
  /** `amazonaws.com`, or what the partition has instead. */
  readonly dnsSuffix: string;
  /** Name → id of every route table. */
  readonly routeTables: Readonly<Record<string, string>>;
  /** This node's own network interface. */
  readonly networkInterface: string;
  /** ARN of the topic that alarms go to. */
  readonly topic: string;
  /** Namespace of its metrics. */
  readonly metrics: string;
}

/**
 * The keeper's settings as lines that a shell reads.
 * @throws for a value that a shell would not read as it stands.
 */
export function renderKeeperSettings(settings: KeeperSettings): string {
  const { cloud } = settings;
  const values = {
    NODE: settings.node,
    RANK: settings.rank,
    ADDRESS: settings.address,
    VIP: settings.vip,
    PEERS: settings.peers.join(" "),
    KEEPER_PORT: String(settings.port),
    WITNESS: settings.witness,
    ...(cloud === undefined
      ? {}
      : {
          REGION: cloud.region,
          DNS_SUFFIX: cloud.dnsSuffix,
          ROUTE_TABLES: Object.entries(cloud.routeTables)
            .map(([name, id]) => `${name}=${id}`)
            .join(" "),
          NETWORK_INTERFACE: cloud.networkInterface,
          TOPIC: cloud.topic,
          METRICS: cloud.metrics,
        }),
  };
  const lines = Object.entries(values).map(([name, value]) => {
    if (!/^[A-Za-z0-9 ./:=_-]+$/.test(value)) {
      throw new Error(
        `${name} of the keeper on ${settings.node} is ${JSON.stringify(value)}; letters, digits, spaces and ./:=_- are allowed, and it must not be empty`,
      );
    }
    return `${name}='${value}'\n`;
  });
  return `# Rendered from components/render/keepalived.ts; changes here are lost at the next up.\n${lines.join("")}`;
}
