// What a good configuration becomes, and that no JSON at all makes the check fail in another way than with words.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parse } from "yaml";
import { ownValues, parseConfig } from "../../components/config.ts";
import { distorted, wellFormed } from "./config-samples.ts";

describe("parseConfig", () => {
  it("needs nothing but the target", () => {
    const config = parseConfig({ target: "local" });
    expect(config.kafka).toEqual({
      heapMb: 256,
      replicationFactor: 3,
      minInsyncReplicas: 2,
      retentionHours: 168,
      segmentBytes: 1073741824,
      topics: { "ingest-events": { partitions: 6 }, alerts: { partitions: 3 } },
    });
    expect(config.local).toMatchObject({ prefix: "", net: "172.25.0", portOffset: 0 });
    expect(config.clickhouse).toEqual({ memoryMb: 2048, retentionDays: 365 });
    expect(config.ingestor).toEqual({ secrets: "file" });
  });

  it("takes groups as JSON, as Pulumi hands them over", () => {
    const groups = { kafka: { heapMb: 512 }, ingestor: { syslog: { tenant: "acme" } } };
    const asText = Object.fromEntries(
      Object.entries(groups).map(([key, value]) => [key, JSON.stringify(value)]),
    );
    expect(parseConfig({ target: "local", ...asText })).toEqual(parseConfig({ target: "local", ...groups }));
  });

  it("passes over the secrets, which are checked for themselves", () => {
    const secrets = { jwtSecret: "x", jwtSecretPrevious: { secure: "v1:a:b" }, statsPassword: 1 };
    expect(parseConfig({ target: "local", ...secrets })).toEqual(parseConfig({ target: "local" }));
  });

  it.each(["1.4.2", "latest-2026", "v1"])("takes an image with the tag %s", (tag) => {
    const image = `registry.example:5000/team/api:${tag}`;
    expect(parseConfig({ target: "local", api: { image } }).api.image).toBe(image);
  });

  it("takes every value that the schema is made of, or says which rule between keys it breaks", () => {
    const taken = { yes: 0, no: 0 };
    fc.assert(
      fc.property(wellFormed, (values) => {
        const said = refusalOf(values);
        if (said === undefined) taken.yes += 1;
        else {
          taken.no += 1;
          // A rule of a single key would say "must be …, but is" or "unknown".
          expect(said).not.toMatch(/: (unknown|is missing; it|has no value|must be (a|an|"|true) )/);
        }
      }),
      { numRuns: 300 },
    );
    expect(Math.min(taken.yes, taken.no)).toBeGreaterThan(0);
  });

  it.each([
    ["well-formed values with something else in them", distorted],
    ["any JSON", fc.dictionary(fc.string(), fc.jsonValue())],
    [
      "any JSON under the right keys",
      fc.record({ target: fc.constantFrom("local", "aws"), aws: fc.jsonValue(), kafka: fc.jsonValue() }),
    ],
  ])("answers %s with a configuration or with words of our own", (_, values) => {
    fc.assert(
      fc.property(values, (given) => {
        const said = refusalOf(given);
        if (said === undefined) return;
        expect(said).toMatch(
          /^The configuration is wrong; nothing was touched\.\n( {2}[^\n]+\n)+Change it in /,
        );
        // zod's own words.
        expect(said).not.toMatch(/Invalid (input|option|string)|expected |Too (small|big)|Unrecognized/);
        const lines = said.split("\n");
        expect(new Set(lines).size, said).toBe(lines.length);
      }),
      { numRuns: 300 },
    );
  });
});

describe("the values of the project", () => {
  it("are those with its name, and those without any, as Pulumi has it", () => {
    expect(
      ownValues({ "siem-ha:target": "local", kafka: { heapMb: 512 }, "aws:profile": "siem", "siem:x": 1 }),
    ).toEqual({ target: "local", kafka: { heapMb: 512 } });
  });

  it("are the same from a file as from Pulumi", () => {
    const file = parse("config:\n  target: local\n  siem-ha:local:\n    net: 172.25.7\n") as {
      config: Record<string, unknown>;
    };
    const handed = { "siem-ha:target": "local", "siem-ha:local": '{"net":"172.25.7"}' };
    expect(parseConfig(ownValues(file.config))).toEqual(parseConfig(ownValues(handed)));
  });
});

/** What it is refused with. Anything thrown but a RunError is a failure of the check itself. */
function refusalOf(values: Record<string, unknown>): string | undefined {
  try {
    parseConfig(values);
    return undefined;
  } catch (error) {
    if (
      (error as Error).name !== "Error" ||
      (error as { __pulumiRunError?: boolean }).__pulumiRunError !== true
    ) {
      throw error;
    }
    return (error as Error).message;
  }
}
