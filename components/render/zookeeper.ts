// ZooKeeper's environment (the public image's conventions): typed data in, variables out.

import { ports } from "../ports.ts";
import { type Replica, type Topology } from "../topology.ts";

/**
 * ms. ZooKeeper ends a session at the next full tick, and takes none shorter than two: brokers' sessions are short, so that
 * a lost one stalls nobody for long. Its own 2000 would let followers wait ten seconds for a leader that is cut off, too.
 */
const tickMs = 500;
/** How long a server may take to join, and how long one that is in the ensemble may say nothing. */
const joinMs = 20_000;
const silentMs = 3_000;

/** Environment of one ZooKeeper server. The limits are in ticks: how long a server may take to join, and to answer. */
export function renderZookeeper(topology: Topology, self: Replica, heapMb: number): Record<string, string> {
  const servers = topology.zookeeper.map(
    (zk) =>
      `server.${zk.slot}=${zk.alias}:${ports.zookeeperPeer.number}:${ports.zookeeperElection.number};${ports.zookeeperClient.number}`,
  );
  return {
    ZOO_MY_ID: String(self.slot),
    ZOO_SERVERS: servers.join(" "),
    ZOO_TICK_TIME: String(tickMs),
    ZOO_INIT_LIMIT: String(joinMs / tickMs),
    ZOO_SYNC_LIMIT: String(silentMs / tickMs),
    ZOO_MAX_CLIENT_CNXNS: "60",
    ZOO_STANDALONE_ENABLED: "false",
    // The AdminServer would listen on 8080; the four-letter words say all that the checks need.
    ZOO_ADMINSERVER_ENABLED: "false",
    ZOO_4LW_COMMANDS_WHITELIST: "ruok,srvr,mntr",
    ZOO_AUTOPURGE_PURGEINTERVAL: "24",
    ZOO_AUTOPURGE_SNAPRETAINCOUNT: "3",
    ZK_SERVER_HEAP: String(heapMb),
    JVMFLAGS: "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
  };
}

/**
 * What the container runs. The public image writes the server's number and its configuration only where there is no such
 * file, and a disk that was full at the first start leaves empty ones: that server would never start again.
 */
export const zookeeperCommand = [
  "bash",
  "-c",
  `[ -s "$ZOO_DATA_DIR/myid" ] || rm -f "$ZOO_DATA_DIR/myid"
rm -f "$ZOO_CONF_DIR/zoo.cfg"
exec /docker-entrypoint.sh zkServer.sh start-foreground`,
];
