// Looks up who plays which part now: who has the virtual IP, who is Kafka's controller, who is ZooKeeper's leader.

import { connect } from "node:net";
import { Admin } from "@platformatic/kafka";
import { ports } from "../../components/ports.ts";
import { names, type Replica, type Topology } from "../../components/topology.ts";
import { type Parts } from "./scenarios.ts";

/** Who does what in Kafka, as slots; brokers' ids are their slots. */
export interface KafkaParts {
  readonly controller: number;
  readonly leader: number;
  /** Partitions that lack an in-sync replica. */
  readonly behind: number;
}

/** What one broker knows. Only its address is used: names don't resolve on this machine. */
export async function askBroker(broker: Replica): Promise<KafkaParts> {
  const admin = new Admin({
    clientId: "siem-ha-chaos",
    bootstrapBrokers: [`${broker.node.address}:${ports.kafka.number}`],
    timeout: 3000,
    connectTimeout: 2000,
    retries: false,
  });
  try {
    const found = await admin.metadata({ topics: [names.eventsTopic, names.alertsTopic], forceUpdate: true });
    const leader = found.topics.get(names.eventsTopic)?.partitions[0]?.leader;
    if (leader === undefined || leader < 0) throw new Error("partition 0 has no leader");
    const partitions = [...found.topics.values()].flatMap((topic) => topic.partitions);
    return {
      controller: found.controllerId,
      leader,
      behind: partitions.filter(({ isr, replicas }) => isr.length < replicas.length).length,
    };
  } catch (error) {
    throw new Error(`${broker.name}: ${(error as Error).message}`, { cause: error });
  } finally {
    await admin.close().catch(() => undefined);
  }
}

/** Asks whichever broker answers. */
async function kafkaParts(topology: Topology): Promise<KafkaParts> {
  const errors: string[] = [];
  for (const broker of topology.kafka) {
    try {
      return await askBroker(broker);
    } catch (error) {
      errors.push((error as Error).message);
    }
  }
  throw new Error(`no broker says who leads: ${errors.join("; ")}`);
}

/** What each ZooKeeper says it is: `leader`, `follower`, or nothing where it doesn't serve. */
export async function zookeeperModes(topology: Topology): Promise<Map<number, string>> {
  const modes = new Map<number, string>();
  await Promise.all(
    topology.zookeeper.map(async ({ slot, node }) => {
      const said = await fourLetters(node.address, "srvr").catch(() => "");
      const mode = /^Mode: (\w+)$/m.exec(said)?.[1];
      if (mode !== undefined) modes.set(slot, mode);
    }),
  );
  return modes;
}

function fourLetters(host: string, word: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: ports.zookeeperClient.number, timeout: 2000 });
    let said = "";
    socket
      .once("connect", () => socket.write(word))
      .on("data", (chunk: Buffer) => (said += chunk.toString()))
      .once("timeout", () => socket.destroy(new Error("no answer within 2 s")))
      .once("error", reject)
      .once("close", () => resolve(said));
  });
}

/** All parts at this moment. @param holders the nodes that have the virtual IP, by container name */
export async function partsNow(topology: Topology, holders: readonly string[]): Promise<Parts> {
  const [kafka, modes] = await Promise.all([kafkaParts(topology), zookeeperModes(topology)]);
  return partsOf(topology, holders, kafka, modes);
}

/** @throws naming the part that nobody plays. */
export function partsOf(
  topology: Topology,
  holders: readonly string[],
  { controller, leader }: Pick<KafkaParts, "controller" | "leader">,
  modes: ReadonlyMap<number, string>,
): Parts {
  const pair = topology.keepalived.map(({ node, slot }) => ({ slot, has: holders.includes(node.name) }));
  const slotIn = (mode: string) => topology.zookeeper.find(({ slot }) => modes.get(slot) === mode)?.slot;
  const found = {
    holder: pair.find(({ has }) => has)?.slot,
    backup: pair.find(({ has }) => !has)?.slot,
    controller,
    "partition leader": leader,
    "other broker": topology.kafka.find(({ slot }) => slot !== controller && slot !== leader)?.slot,
    "ZooKeeper's leader": slotIn("leader"),
    "a ZooKeeper follower": slotIn("follower"),
  };
  for (const [part, slot] of Object.entries(found)) {
    if (slot === undefined)
      throw new Error(`nobody is ${part} now (VIP: ${holders.join(" and ") || "nowhere"})`);
  }
  return found as Parts;
}
