// keepalived.conf as text: typed data in, text out. Why each setting: the VIP facts, and docs/decisions.

import { ports } from "../ports.ts";
import { type Replica, type Topology } from "../topology.ts";

/** VRRP advertisement interval, seconds; a lost node is noticed after about three of them. */
export const advertInterval = 0.1;
/** The same between zones, where a packet now and then is late. */
export const zoneAdvertInterval = 0.2;
const virtualRouterId = 51;
const highestPriority = 254;

/** The account in the image that asks the witness and calls the cloud; the only one that needs instance metadata. */
export const vipUser = { name: "vip", uid: 8410 } as const;
/** Files of the keeper of the address, in the Keepalived container. Without the settings it does nothing. */
export const keeperFiles = {
  settings: "/etc/siem-ha/vip.conf",
  token: "/etc/siem-ha/witness-token",
} as const;
/** A file that is 1 while the keeper wants the address let go, because the witness gave it to the other node. */
const letGo = "/run/vip/let-go";

/** Added where a keeper stands behind VRRP: it is told of every change, and can make this node let go. */
const keeperBlocks = {
  trackFile: `
vrrp_track_file let_go {
    file ${letGo}
    weight 0
}
`,
  tracked: `
        let_go`,
  notify: `
${["master", "master_rx_lower_pri", "backup", "fault", "stop"]
  .map(
    (event) =>
      `    notify_${event} "/usr/local/bin/vip-notify ${event.startsWith("master") ? "master" : "released"}" ${vipUser.name} ${vipUser.name}`,
  )
  .join("\n")}`,
};

export interface KeepalivedOptions {
  /** The address also has routes that follow it, and a witness: the keeper in the image is told of changes. */
  readonly keeper?: boolean;
}

/**
 * Keepalived of one load balancer. Both start as BACKUP with nopreempt, so a returning node does not take the
 * address back. VRRPv3, because v2 rounds the interval to whole seconds; unicast, because clouds block multicast.
 */
export function renderKeepalived(
  topology: Topology,
  self: Replica,
  networkInterface: string,
  options: KeepalivedOptions = {},
): string {
  const peers = topology.keepalived.filter((peer) => peer.node !== self.node);
  const keeper = options.keeper === true ? keeperBlocks : { trackFile: "", tracked: "", notify: "" };
  return `# Rendered from components/render/keepalived.ts; changes here are lost at the next up.
global_defs {
    router_id ${self.node.alias}
    vrrp_version 3
    vrrp_garp_master_repeat 3
    vrrp_garp_master_refresh 10
    script_user root
    enable_script_security
    max_auto_priority 0
}

vrrp_track_file hand_over {
    file /run/hand-over
    weight 0
    init_file 0
}
${keeper.trackFile}
vrrp_script haproxy_answers {
    script "/usr/bin/curl -fsS -o /dev/null --max-time 1 http://127.0.0.1:${ports.haproxyHealth.number}/"
    interval 1
    timeout 2
    rise 1
    fall 2
    init_fail
}

vrrp_instance siem_vip {
    state BACKUP
    nopreempt
    interface ${networkInterface}
    virtual_router_id ${virtualRouterId}
    priority ${highestPriority - (self.slot - 1)}
    advert_int ${options.keeper === true ? zoneAdvertInterval : advertInterval}
    unicast_src_ip ${self.node.address}
    unicast_peer {
${peers.map((peer) => `        ${peer.node.address}`).join("\n")}
    }
    virtual_ipaddress {
        ${topology.vip.address}/${topology.vip.prefix} dev ${networkInterface}
    }
    track_script {
        haproxy_answers
    }
    track_file {
        hand_over${keeper.tracked}
    }${keeper.notify}
}
`;
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
  const values = {
    NODE: settings.node,
    RANK: settings.rank,
    ADDRESS: settings.address,
    VIP: settings.vip,
    PEERS: settings.peers.join(" "),
    KEEPER_PORT: String(settings.port),
    WITNESS: settings.witness,
    REGION: settings.region,
    DNS_SUFFIX: settings.dnsSuffix,
    ROUTE_TABLES: Object.entries(settings.routeTables)
      .map(([name, id]) => `${name}=${id}`)
      .join(" "),
    NETWORK_INTERFACE: settings.networkInterface,
    TOPIC: settings.topic,
    METRICS: settings.metrics,
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
