// keepalived.conf as text: typed data in, text out. Why each setting: the VIP facts, and docs/decisions.

import { ports } from "../ports.ts";
import { type Replica, type Topology } from "../topology.ts";

/** VRRP advertisement interval, seconds; a lost node is noticed after about three of them. */
export const advertInterval = 0.1;
const virtualRouterId = 51;
const highestPriority = 254;

/**
 * Keepalived of one load balancer. Both start as BACKUP with nopreempt, so a returning node does not take the
 * address back. VRRPv3, because v2 rounds the interval to whole seconds; unicast, because clouds block multicast.
 */
export function renderKeepalived(topology: Topology, self: Replica): string {
  const peers = topology.keepalived.filter((peer) => peer.node !== self.node);
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
    interface eth0
    virtual_router_id ${virtualRouterId}
    priority ${highestPriority - (self.slot - 1)}
    advert_int ${advertInterval}
    unicast_src_ip ${self.node.address}
    unicast_peer {
${peers.map((peer) => `        ${peer.node.address}`).join("\n")}
    }
    virtual_ipaddress {
        ${topology.vip.address}/${topology.vip.prefix} dev eth0
    }
    track_script {
        haproxy_answers
    }
    track_file {
        hand_over
    }
}
`;
}
