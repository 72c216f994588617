// `verify`'s question to each Kafka broker: what goes over the wire, and whose answer counts.

import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Reader, Writer } from "@platformatic/kafka";
import { afterAll, beforeEach, describe, expect, it } from "vitest";
import { parseConfig, topologyOf } from "../../components/config.ts";
import { partitionsOn } from "../../ops/broker.ts";
import { type CheckResult, runChecks } from "../../ops/checks.ts";
import { localReach } from "../../ops/daemon.ts";

const directory = mkdtempSync(join(tmpdir(), "siem-ha-broker-"));
afterAll(() => rmSync(directory, { recursive: true }));

const config = parseConfig({ target: "local" });
const topology = topologyOf(config);
/** A `docker` that runs a broker's node's commands here, and an `nc` that answers as that broker does. */
const programs = {
  docker: `#!/bin/sh\ncase "$3 $5" in "exec stream-node-"*) ;; *) exit 1 ;; esac\nexport NODE="$5"\nshift 5\nexec "$@"\n`,
  nc: `#!/bin/sh\ncat >"${directory}/$NODE.asked"\n[ ! -e "${directory}/$NODE" ] || cat "${directory}/$NODE"\n`,
};
mkdirSync(join(directory, "bin"));
for (const [name, text] of Object.entries(programs)) {
  writeFileSync(join(directory, "bin", name), text);
  chmodSync(join(directory, "bin", name), 0o755);
}
const reach = {
  ...localReach(config.local.dockerHost),
  PATH: `${join(directory, "bin")}:${process.env["PATH"] ?? ""}`,
};

/** A partition in an answer: its leader and who is in sync; all three brokers have a copy. */
type Seen = readonly [leader: number, inSync: readonly number[]];
const well: Seen = [1, [1, 2, 3]];
const full = { "ingest-events": Array<Seen>(6).fill(well), alerts: Array<Seen>(3).fill(well) };

/** Kafka's answer to Metadata, version 12. */
function answerOf(topics: Readonly<Record<string, readonly Seen[]>>): Buffer {
  const ids = (writer: Writer, given: readonly number[]) =>
    writer.appendArray([...given], (w, id) => w.appendInt32(id), true, false);
  const noLeader = 5;
  return Writer.create()
    .appendInt32(0)
    .appendTaggedFields()
    .appendInt32(0)
    .appendArray([1, 2, 3], (w, id) =>
      w.appendInt32(id).appendString(`kafka-${id}`).appendInt32(9092).appendString(null),
    )
    .appendString("cluster")
    .appendInt32(1)
    .appendArray(Object.entries(topics), (w, [name, partitions]) =>
      w
        .appendInt16(0)
        .appendString(name)
        .appendUUID(null)
        .appendBoolean(name.startsWith("__"))
        .appendArray([...partitions], (inner, [leader, inSync], index) => {
          inner.appendInt16(leader < 0 ? noLeader : 0);
          inner.appendInt32(index).appendInt32(leader).appendInt32(7);
          ids(ids(ids(inner, [1, 2, 3]), inSync), []);
        })
        .appendInt32(0),
    )
    .appendTaggedFields()
    .prependLength().buffer;
}

const answers = (slot: number, answer: Buffer) =>
  writeFileSync(join(directory, `stream-node-${slot}`), answer);
beforeEach(() => {
  for (const { slot } of topology.kafka) answers(slot, answerOf(full));
});

/** Every check but Kafka's: there is nothing here for them to ask. */
const others = [
  ...["node", "zookeeper", "clickhouse", "retention", "ingestor", "api", "haproxy", "keepalived", "witness"],
  ...["supervisor", "watchdog", "vip", "probe event", "parts", "consumer lag", "unreadable", "crash loop"],
];
async function verified(): Promise<CheckResult> {
  const results = await runChecks(
    { config, topology, reach, jwtSecret: "", stack: "local" },
    { without: others },
  );
  const kafka = results.filter(({ check }) => check === "kafka");
  expect(kafka).toHaveLength(1);
  return kafka[0]!;
}

describe("a broker's own list", () => {
  it("is asked for by a request that names no topics, so that all are told", async () => {
    const [broker] = topology.kafka;
    await partitionsOn(reach, broker!);
    const asked = Reader.from(readFileSync(join(directory, "stream-node-1.asked")));
    expect(asked.readInt32()).toBe(asked.remaining);
    // Metadata, version 12.
    expect([asked.readInt16(), asked.readInt16()]).toEqual([3, 12]);
    asked.readInt32();
    expect(asked.readString(false)).toBe("siem-ha-verify");
    asked.readTaggedFields();
    // 0 is no list at all; an empty list is 1.
    expect(asked.readUnsignedVarInt()).toBe(0);
    // It must not make topics.
    expect(asked.readBoolean()).toBe(false);
  });

  it("is read whole, Kafka's own topics and partitions without a leader among it", async () => {
    answers(2, answerOf({ alerts: [[-1, [3]]], __consumer_offsets: [[2, [2, 3]]] }));
    expect(await partitionsOn(reach, topology.kafka[1]!)).toEqual([
      { topic: "alerts", leader: -1, replicas: [1, 2, 3], inSync: [3] },
      { topic: "__consumer_offsets", leader: 2, replicas: [1, 2, 3], inSync: [2, 3] },
    ]);
  });

  it.each([
    ["nothing", Buffer.alloc(0), "kafka-3: no answer"],
    ["a part of it", answerOf(full).subarray(0, 100), "kafka-3: no answer of Kafka's: 96 bytes instead of "],
    ["something else", Buffer.from("HTTP/1.0 400 Bad Request\r\n\r\n"), "kafka-3: no answer of Kafka's: "],
  ])("is missed, by the broker's name, where there is %s", async (_what, answer, message) => {
    answers(3, answer);
    await expect(partitionsOn(reach, topology.kafka[2]!)).rejects.toThrow(message);
  });
});

describe("verify", () => {
  it("passes when all three brokers miss nobody", async () => {
    expect(await verified()).toMatchObject({
      ok: true,
      detail: "ingest-events: 6 partitions in sync, alerts: 3 partitions in sync",
    });
  });

  it.each([1, 2, 3])("fails when broker %d alone knows that somebody lags", async (slot) => {
    answers(slot, answerOf({ ...full, alerts: [well, well, [2, [2, 3]]], __consumer_offsets: [[1, [1]]] }));
    expect(await verified()).toMatchObject({
      ok: false,
      detail: `kafka-${slot}: 2 partitions lack an in-sync replica`,
    });
  });

  it("names every broker that is not well, and what is not as configured", async () => {
    answers(1, Buffer.alloc(0));
    answers(2, answerOf({ ...full, alerts: [well] }));
    answers(3, answerOf({ alerts: full.alerts }));
    expect((await verified()).detail).toBe(
      "kafka-1: no answer; kafka-2: topic alerts has 1 partitions, not 3; kafka-3: topic ingest-events has no partitions, not 6",
    );
  });
});
