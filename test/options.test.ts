// What the optional keys of a local stack change in the program: syslog, a second signing key, Kafka's retention.

import { beforeAll, describe, expect, it } from "vitest";
import { type Registration, runProgram } from "./mocks.ts";

let resources: readonly Registration[];
const previous = "previous-jwt-secret-of-the-tests-0123456789";

beforeAll(async () => {
  ({ resources } = await runProgram({
    "siem-ha:target": "local",
    "siem-ha:ingestor": JSON.stringify({ syslog: { tenant: "acme" } }),
    "siem-ha:jwtSecretPrevious": previous,
    "siem-ha:kafka": JSON.stringify({ retentionHours: 24 }),
  }));
});

const inputsOf = (name: string, type = "Container"): Record<string, unknown> => {
  const found = resources.find((resource) => resource.name === name && resource.type.endsWith(`:${type}`));
  if (found === undefined) throw new Error(`no resource ${name}`);
  return found.inputs;
};

describe("a stack that takes syslog", () => {
  it("tells each ingestor its own port, and whose the lines are", () => {
    for (const slot of [1, 2, 3]) {
      expect(inputsOf(`siem-ingestor-${slot}`)["envs"]).toEqual(
        expect.arrayContaining([`SYSLOG_ADDR=0.0.0.0:${5514 + slot}`, "SYSLOG_TENANT=acme"]),
      );
    }
  });

  it("lets HAProxy listen on 514, and changes no anchor", () => {
    const { HAPROXY_CFG: config } = inputsOf("haproxy-1-config", "Command")["environment"] as Record<
      string,
      string
    >;
    expect(config).toContain("bind *:514\n");
    expect(JSON.stringify(inputsOf("lb-node-1")["ports"])).not.toContain("514");
  });
});

describe("a stack that keeps what is in Kafka for another time", () => {
  it("tells the brokers and the ingestors the same", () => {
    expect(inputsOf("kafka-2")["envs"]).toContain("KAFKA_LOG_RETENTION_HOURS=24");
    for (const slot of [1, 2, 3])
      expect(inputsOf(`siem-ingestor-${slot}`)["envs"]).toContain("KAFKA_RETENTION_HOURS=24");
  });
});

describe("a stack whose signing key was changed", () => {
  it("gives both services both keys, as files", () => {
    for (const name of ["siem-api-1", "siem-ingestor-3"]) {
      const { envs, uploads } = inputsOf(name) as { envs: string[]; uploads: unknown };
      expect(envs).toContain("JWT_SECRET_PREVIOUS_FILE=/run/secrets/jwt_secret_previous");
      expect(envs.join()).not.toContain(previous);
      // The files are one secret value.
      expect(JSON.stringify(uploads)).toContain(
        JSON.stringify({ content: previous, file: "/run/secrets/jwt_secret_previous" }),
      );
    }
  });
});
