// What one Kafka broker knows of all partitions, asked of that broker alone and from inside its node.

import { metadataV12, Reader, ResponseError, Writer } from "@platformatic/kafka";
import { ports } from "../components/ports.ts";
import { type Replica } from "../components/topology.ts";
import { inContainer, type Reach } from "./daemon.ts";

/** A partition as a broker sees it. */
export interface Partition {
  readonly topic: string;
  readonly leader: number;
  /** Ids of the brokers that have a copy. */
  readonly replicas: readonly number[];
  readonly inSync: readonly number[];
}

/**
 * Asks a broker for its own list, Kafka's internal topics included. `kafka-topics --bootstrap-server` would not do:
 * once its client knows the cluster, it asks whichever broker it likes, and a JVM starts each time.
 */
export async function partitionsOn(reach: Reach, broker: Replica): Promise<Partition[]> {
  // As text, because what comes out of a container is text here.
  const said = await inContainer(
    reach,
    { name: broker.node.name, node: broker.node },
    ["sh", "-c", `base64 -d | timeout 10 nc 127.0.0.1 ${ports.kafka.number} | base64`],
    renderQuestion().toString("base64"),
  );
  const answer = Buffer.from(said, "base64");
  if (answer.length === 0) throw new Error(`${broker.name}: no answer`);
  try {
    return parsePartitions(answer);
  } catch (error) {
    throw new Error(`${broker.name}: no answer of Kafka's: ${(error as Error).message}`, { cause: error });
  }
}

/** The question for all topics, as it goes over the wire. */
function renderQuestion(): Buffer {
  const { key, version } = metadataV12.api;
  return Writer.create()
    .appendInt16(key)
    .appendInt16(version)
    .appendInt32(0)
    .appendString("siem-ha-verify", false)
    .appendTaggedFields()
    .appendFrom(metadataV12.createRequest(null))
    .prependLength().buffer;
}

/** Reads the answer to it. */
function parsePartitions(answer: Buffer): Partition[] {
  const reader = Reader.from(answer);
  const length = reader.readInt32();
  if (length !== reader.remaining) throw new Error(`${reader.remaining} bytes instead of ${length}`);
  const correlation = reader.readInt32();
  reader.readTaggedFields();
  const { topics } = parseMetadata(correlation, reader);
  return topics.flatMap(({ name, partitions }) =>
    partitions.map(({ leaderId, replicaNodes, isrNodes }) => ({
      topic: name ?? "",
      leader: leaderId,
      replicas: replicaNodes,
      inSync: isrNodes,
    })),
  );
}

function parseMetadata(correlation: number, reader: Reader): metadataV12.MetadataResponse {
  const { key, version } = metadataV12.api;
  try {
    return metadataV12.parseResponse(correlation, key, version, reader);
  } catch (error) {
    // A partition without a leader is an error to the library, and news to us.
    if (error instanceof ResponseError) return error["response"] as metadataV12.MetadataResponse;
    throw error;
  }
}
