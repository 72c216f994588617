// Kafka's environment (the public image's conventions) and the script that keeps topics as declared.

import { type SiemConfig } from "../config.ts";
import { ports } from "../ports.ts";
import { names, type Replica, type Topology } from "../topology.ts";

type KafkaConfig = SiemConfig["kafka"];

/**
 * How long ZooKeeper waits for a lost broker, ms. Its loss stalls producers that long, and half a second more: for
 * ZooKeeper's tick, the election and the news of it. A broker's CPU weight sees to it that a busy machine is no loss.
 */
const sessionTimeoutMs = 3000;
/** How long brokers wait for each other's answers. */
const answerTimeoutMs = 6000;

/** Environment of one broker. */
export function renderKafka(topology: Topology, self: Replica, kafka: KafkaConfig): Record<string, string> {
  const copies = String(kafka.replicationFactor);
  const inSync = String(kafka.minInsyncReplicas);
  return {
    KAFKA_BROKER_ID: String(self.slot),
    KAFKA_BROKER_RACK: `zone-${self.node.zone}`,
    KAFKA_ZOOKEEPER_CONNECT: topology.zookeeper
      .map((zk) => `${zk.alias}:${ports.zookeeperClient.number}`)
      .join(","),
    KAFKA_ZOOKEEPER_SESSION_TIMEOUT_MS: String(sessionTimeoutMs),
    KAFKA_LISTENERS: `PLAINTEXT://0.0.0.0:${ports.kafka.number}`,
    KAFKA_ADVERTISED_LISTENERS: `PLAINTEXT://${self.alias}:${ports.kafka.number}`,
    KAFKA_DEFAULT_REPLICATION_FACTOR: copies,
    KAFKA_MIN_INSYNC_REPLICAS: inSync,
    KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR: copies,
    // The default of 50 partitions costs a small stack seconds at every start and buys it nothing.
    KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS: "6",
    KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR: copies,
    KAFKA_TRANSACTION_STATE_LOG_MIN_ISR: inSync,
    // A node that is cut off for a moment leaves requests that nobody will answer. Kafka's own 30 s would let a follower
    // wait that long for its leader, a leader for its follower (acks=all waits for both), and the controller for either.
    KAFKA_REPLICA_SOCKET_TIMEOUT_MS: String(answerTimeoutMs),
    KAFKA_REPLICA_LAG_TIME_MAX_MS: "10000",
    KAFKA_CONTROLLER_SOCKET_TIMEOUT_MS: "10000",
    KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE: "false",
    KAFKA_AUTO_CREATE_TOPICS_ENABLE: "false",
    // Only for topics made without saying how many; the declared topics have their own numbers, and a change of
    // those must not replace a broker.
    KAFKA_NUM_PARTITIONS: "6",
    KAFKA_LOG_RETENTION_HOURS: String(kafka.retentionHours),
    KAFKA_LOG_SEGMENT_BYTES: String(kafka.segmentBytes),
    KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS: "500",
    KAFKA_CONTROLLED_SHUTDOWN_ENABLE: "true",
    KAFKA_HEAP_OPTS: `-Xms${kafka.heapMb}m -Xmx${kafka.heapMb}m`,
    KAFKA_JVM_PERFORMANCE_OPTS: "-XX:+UseSerialGC -XX:TieredStopAtLevel=1",
  };
}

/** Shell: sets `server`, and `describe`, which prints every topic's partitions and copies. */
const asking = `set -eu
server=localhost:${ports.kafka.number}
# The broker's own heap setting is too large for a short-lived tool beside it.
export KAFKA_HEAP_OPTS="-Xms32m -Xmx128m"
describe() { kafka-topics --bootstrap-server $server --describe; }
`;

/** Shell: for each declared topic, with `topic`, `partitions`, `have` and `copies` (empty where it doesn't exist). */
function eachTopic(kafka: KafkaConfig, body: string): string {
  const wanted = [names.eventsTopic, names.alertsTopic]
    .map((topic) => `${topic} ${kafka.topics[topic].partitions}`)
    .join("\n");
  return `while read -r topic partitions; do
  copies=$(printf '%s\\n' "$current" | sed -n "s/^Topic: $topic[[:space:]].*ReplicationFactor: \\([0-9]*\\).*/\\1/p")
  have=$(printf '%s\\n' "$current" | sed -n "s/^Topic: $topic[[:space:]].*PartitionCount: \\([0-9]*\\).*/\\1/p")
${body}
done <<'TOPICS'
${wanted}
TOPICS
`;
}

/** Shell, for one topic: ends with 1 where the declaration asks for what Kafka, or `up`, can't do. */
function refusals(kafka: KafkaConfig): string {
  return `  if [ -n "$have" ] && [ "$have" -gt "$partitions" ]; then
    echo "topic $topic has $have partitions, the configuration says $partitions: Kafka can't take partitions away; set siem-ha:kafka topics.$topic.partitions to $have or more" >&2
    exit 1
  fi
  if [ -n "$copies" ] && [ "$copies" != ${kafka.replicationFactor} ]; then
    echo "topic $topic has $copies copies of each partition, the configuration says ${kafka.replicationFactor}: that takes a reassignment, which up does not do; set siem-ha:kafka replicationFactor to $copies" >&2
    exit 1
  fi`;
}

/**
 * Shell, run inside a broker before any is changed: refuses what {@link renderTopics} would refuse at the end, when the
 * brokers would already have the settings that go with it (fewer in-sync replicas, for one). A broker that can't tell
 * is passed: what is to be changed may be what mends it.
 */
export function renderTopicsCheck(kafka: KafkaConfig): string {
  return `${asking}current=$(describe) || exit 0
${eachTopic(kafka, refusals(kafka))}`;
}

/**
 * Shell, run inside a broker: creates missing topics, adds partitions, and refuses to take partitions away or to
 * change the number of copies. Retention, segments and min.insync.replicas are the brokers' own settings, so that a
 * change reaches existing topics too.
 * A topic that is as declared costs one `kafka-topics --describe`.
 */
export function renderTopics(kafka: KafkaConfig): string {
  const body = `${refusals(kafka)}
  if [ -z "$have" ]; then
    kafka-topics --bootstrap-server $server --create --if-not-exists --topic "$topic" --partitions "$partitions" \\
      --replication-factor ${kafka.replicationFactor} </dev/null
  elif [ "$have" -lt "$partitions" ]; then
    kafka-topics --bootstrap-server $server --alter --topic "$topic" --partitions "$partitions" </dev/null
  fi`;
  return `${asking}current=$(describe)
${eachTopic(kafka, body)}`;
}
