// The pair that holds the VIP: HAProxy and Keepalived on lb-node-1 and lb-node-2.

import type * as command from "@pulumi/command";
import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { guest, volume } from "../host/guest.ts";
import { dockerOn, type Nodes } from "../host/host.ts";
import { script } from "../host/script.ts";
import { publicImages } from "../images.ts";
import { ports } from "../ports.ts";
import { renderHaproxy, renderStatsUsers } from "../render/haproxy.ts";
import { pairEntry, renderPairEntry } from "../render/pair-entry.ts";
import {
  keepalivedEnvironment,
  type KeeperCloud,
  pairDirectory,
  renderKeepalived,
} from "../render/keepalived.ts";
import { names, type Node, type Replica, type Topology } from "../topology.ts";
import { keeperOf } from "./keeper.ts";
import { gate } from "../services/gate.ts";
import { cpuShares } from "../services/cpu.ts";
import { limitMb } from "../services/memory.ts";
import { addressLabel } from "../../services/supervisor/labels.ts";

export interface LoadBalancersArgs {
  readonly topology: Topology;
  readonly nodes: Nodes;
  readonly statsPassword: pulumi.Output<string>;
  /** What the witness knows its callers by. */
  readonly witnessToken: pulumi.Output<string>;
  /** Routes that have to follow the address to a node. @default the network follows it by itself (ARP) */
  readonly cloud?: ((node: Node) => pulumi.Output<KeeperCloud>) | undefined;
  readonly after: readonly pulumi.Resource[];
}

const configDirectory = "/usr/local/etc/haproxy";
/** The directory that HAProxy reads; a link, so that all its files change at once. */
const live = `${configDirectory}/live`;
/** User and group of the public HAProxy image. */
const haproxyId = 99;

/**
 * Shell: writes HAProxy's files into the replica's volume, lets HAProxy itself check them, and only then puts them
 * in place and reloads the running one. The statistics page's users come in on standard input: they are secret.
 */
export function renderConfigWriter(
  replica: Replica,
  volumes: { readonly config: string; readonly pair: string },
  stack: string,
): string {
  return `set -eu
${dockerOn(replica.node)} run --rm -i --name ${replica.name}-config --label ${names.label}=${stack} --network none --user 0 \\
  --cap-drop ALL --cap-add CHOWN --cap-add DAC_OVERRIDE --security-opt no-new-privileges \\
  -e HAPROXY_CFG -v ${volumes.config}:${configDirectory} -v ${volumes.pair}:${pairDirectory} --entrypoint sh ${publicImages.haproxy} -c '
    set -eu
    chown ${haproxyId}:${haproxyId} ${pairDirectory}
    cd ${configDirectory}
    next=$(mktemp -d conf.XXXXXX)
    trap "rm -rf $next" EXIT
    printf "%s" "$HAPROXY_CFG" > $next/20-haproxy.cfg
    cat > $next/10-users.cfg
    chmod 0750 $next && chmod 0640 $next/*.cfg && chown -R 0:${haproxyId} $next
    haproxy -c -f $next >/dev/null
    old=$(readlink live || true)
    ln -s $next live.next && mv -T live.next live
    trap - EXIT
    [ -z "$old" ] || rm -rf "$old"'
if [ "$(${dockerOn(replica.node)} container inspect -f '{{.State.Running}}' ${replica.name} 2>/dev/null)" = true ]; then
  ${dockerOn(replica.node)} kill --signal USR2 ${replica.name} >/dev/null
fi
`;
}

/** Shell: HAProxy has its files; one without ends at once, and is started again. */
function hasFiles(replica: Replica): string {
  return `${dockerOn(replica.node)} exec ${replica.name} test -e ${live} 2>/dev/null`;
}

/** Shell: HAProxy on this node answers its local health check. */
export function haproxyAnswers(replica: Replica): string {
  return `${dockerOn(replica.node)} exec ${replica.node.name} timeout 3 wget -q -O - http://127.0.0.1:${ports.haproxyHealth.number}/`;
}

/** Shell: this node holds the VIP. */
export function holdsVip(replica: Replica, topology: Topology): string {
  return `${dockerOn(replica.node)} exec ${replica.node.name} ip -4 addr show | grep -F ' ${topology.vip.address}/'`;
}

export class LoadBalancers extends pulumi.ComponentResource {
  /** Resolves once one of the pair holds the VIP. */
  readonly ready: command.local.Command;

  constructor(name: string, args: LoadBalancersArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:edge:LoadBalancers", name, {}, opts);
    const { nodes, topology } = args;
    const keepers: docker.Container[] = [];
    let before: readonly pulumi.Resource[] = args.after;
    for (const [index, replica] of topology.haproxy.entries()) {
      const keeper = topology.keepalived[index];
      if (keeper === undefined) throw new Error(`${replica.alias} has no Keepalived beside it`);
      const place = nodes.at(replica.node);
      const { host } = place;
      const store = volume(
        `${replica.alias}-config`,
        { host, volumeName: `${replica.name}-config`, keep: false },
        { parent: this },
      );
      const pair = volume(
        `${replica.alias}-pair`,
        { host, volumeName: `${replica.name}-pair`, keep: false },
        { parent: this },
      );
      const writer = {
        shell: pulumi
          .all([store.name, pair.name])
          .apply(([config, shared]) => renderConfigWriter(replica, { config, pair: shared }, host.stack)),
        environment: { HAPROXY_CFG: renderHaproxy(topology) },
        stdin: args.statsPassword.apply(renderStatsUsers),
      };
      const written = script(
        `${replica.alias}-config`,
        {
          nodes,
          uses: [replica.node],
          ...writer,
          // A new image must check the files too.
          triggers: [store.id, pair.id, host.image("haproxy")],
        },
        { parent: this, dependsOn: [...before] },
      );
      const haproxy = guest(
        replica.alias,
        {
          place,
          joins: "anchor",
          containerName: replica.name,
          image: host.image("haproxy"),
          command: ["bash", pairEntry, "haproxy", "-W", "-db", "-f", live],
          files: { [pairEntry]: renderPairEntry(topology) },
          volumes: [
            { volume: store, path: configDirectory, readOnly: true },
            { volume: pair, path: pairDirectory },
          ],
          tmpfs: { "/var/run/haproxy": `rw,mode=0770,uid=${haproxyId},gid=${haproxyId}` },
          memoryMb: limitMb.haproxy,
          cpuShares: cpuShares.haproxy,
          liveness: ["bash", "-c", `</dev/tcp/127.0.0.1/${ports.haproxyHealth.number}`],
          graceSeconds: 30,
        },
        { parent: this, dependsOn: [written] },
      );
      const behind = keeperOf({
        topology,
        node: replica.node,
        token: args.witnessToken,
        ...(args.cloud === undefined ? {} : { cloud: args.cloud(replica.node) }),
      });
      const keepalived = guest(
        keeper.alias,
        {
          place,
          joins: "anchor",
          containerName: keeper.name,
          image: host.ownImage("keepalived"),
          environment: keepalivedEnvironment,
          files: {
            "/etc/keepalived/keepalived.conf": renderKeepalived(topology, keeper, place.networkInterface),
            ...behind.files,
          },
          tmpfs: { "/run": "rw,mode=0755" },
          // Not read-only: Keepalived 2.3 watches no file of a file system that is. It has no right to write there.
          volumes: [{ volume: pair, path: pairDirectory }],
          // SETGID, SETUID: the keeper and Keepalived's notifications become an account of their own.
          capabilities: ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID"],
          memoryMb: behind.memoryMb,
          cpuShares: cpuShares.keepalived,
          // Killed, it leaves the address behind; the supervisor takes it off.
          labels: {
            [addressLabel]: `${topology.vip.address}/${topology.vip.prefix} ${place.networkInterface}`,
          },
          liveness: ["ip", "link", "show", place.networkInterface],
          graceSeconds: 10,
        },
        { parent: this, dependsOn: [haproxy] },
      );
      keepers.push(keepalived);
      before = [
        gate(
          `${replica.alias}-gate`,
          {
            nodes,
            asks: [replica.node],
            probe: haproxyAnswers(replica),
            what: `${replica.name} to answer`,
            containers: [haproxy, keepalived],
            // A volume that was lost and made anew has the same id as before, and is empty.
            first: {
              ...writer,
              shell: pulumi.interpolate`if ! ${hasFiles(replica)}; then\n${writer.shell}fi`,
            },
          },
          { parent: this },
        ),
      ];
    }
    this.ready = gate(
      `${name}-ready`,
      {
        nodes,
        asks: topology.keepalived.map((keeper) => keeper.node),
        probe: topology.keepalived.map((keeper) => holdsVip(keeper, topology)).join(" || "),
        what: `one of ${topology.keepalived.map((keeper) => keeper.name).join(", ")} to hold ${topology.vip.address}`,
        containers: keepers,
      },
      { parent: this, dependsOn: [...before] },
    );
    this.registerOutputs();
  }
}
