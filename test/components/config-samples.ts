// Configurations at random, made from the schema itself: well-formed ones, and ones with something else put in somewhere.

import fc from "fast-check";
import { z } from "zod";
import { instanceTypes } from "../../components/aws-prices.ts";
import { configSchema } from "../../components/config.ts";
import { shapeOf, unwrap } from "../../components/config-problems.ts";

export const operatorKey = `ssh-ed25519 ${"A".repeat(68)} operator@example`;

/** Good texts for each key that takes text: patterns with lookahead are not generated from. */
const texts: Readonly<Record<string, readonly string[]>> = {
  prefix: ["", "test-", "a-b-"],
  net: ["172.25.0", "10.0.255", "192.168.7", "172.16.1"],
  dockerHost: ["unix:///var/run/docker.sock"],
  image: ["registry.example:5000/team/api:1.4.2", `team/api@sha256:${"0a".repeat(32)}`],
  tenant: ["acme", "a", "A.b_c-9"],
  region: ["eu-central-1", "us-gov-west-1"],
  zones: ["eu-central-1a", "eu-central-1b", "eu-central-1c"],
  cidr: ["10.42.0.0/16", "10.7.16.0/20", "172.25.0.0/16"],
  vip: ["172.25.0.222", "10.42.3.4"],
  type: Object.keys(instanceTypes),
  domain: ["siem.internal", "siem.vip"],
  clients: ["10.0.0.0/8", "0.0.0.0/0", "198.51.100.7/32"],
  certificateArn: ["arn:aws:acm:eu-central-1:123456789012:certificate/0a1b2c3d-0000-0000-0000-000000000000"],
  sshPublicKeys: [operatorKey],
  alarmEmail: ["soc@example.org"],
  kmsKey: ["aws", "create", "arn:aws:kms:us-east-1:123456789012:key/0a1b2c3d"],
};

function sample(schema: z.core.$ZodType, key: string): fc.Arbitrary<unknown> {
  const inner = unwrap(schema);
  if (inner instanceof z.ZodObject) {
    const required = Object.entries(shapeOf(inner)).flatMap(([name, part]) =>
      z.safeParse(part, undefined).success ? [] : [name],
    );
    return fc.record(
      Object.fromEntries(Object.entries(shapeOf(inner)).map(([name, part]) => [name, sample(part, name)])),
      { requiredKeys: required },
    );
  }
  if (inner instanceof z.ZodEnum) return fc.constantFrom(...inner.options);
  if (inner instanceof z.ZodBoolean) return fc.boolean();
  if (inner instanceof z.ZodNumber) {
    return fc.integer({ min: inner.minValue ?? 0, max: inner.maxValue ?? 0 });
  }
  const known = texts[key];
  if (known === undefined)
    throw new Error(`test/components/config-samples.ts has no text for the key ${key}`);
  if (key === "zones") return fc.shuffledSubarray([...known], { minLength: known.length });
  return inner instanceof z.ZodArray
    ? fc.uniqueArray(fc.constantFrom(...known), { minLength: 1 })
    : fc.constantFrom(...known);
}

type Values = Record<string, unknown>;

/** Each key alone is good; the rules between keys may be broken. */
export const wellFormed: fc.Arbitrary<Values> = (sample(configSchema, "") as fc.Arbitrary<Values>).chain(
  (values): fc.Arbitrary<Values> => {
    const { local, aws, ...rest } = values;
    if (values["target"] === "local") {
      return fc.constant({ ...rest, ...(local === undefined ? {} : { local }) });
    }
    const whole = aws === undefined ? sample(configSchema.shape.aws, "aws") : fc.constant(aws);
    return whole.map((given) => ({ ...rest, aws: given }));
  },
);

const junk = fc.oneof(
  fc.jsonValue({ maxDepth: 2 }),
  fc.constantFrom(null, "", "512", "true", "latest", [], {}, 0, -1, 1.5, 1e9),
);

/** One with other JSON in a place, or a key that is none. */
export const distorted: fc.Arbitrary<Values> = fc
  .tuple(
    wellFormed,
    fc.array(fc.tuple(fc.nat(), fc.string(), junk, fc.boolean()), { minLength: 1, maxLength: 3 }),
  )
  .map(([values, changes]) => {
    const copy = structuredClone(values);
    for (const [index, name, value, isNew] of changes) {
      const places = placesIn(copy);
      const place = places[index % places.length];
      if (place === undefined) continue;
      Object.defineProperty(place.parent, isNew ? name : place.key, {
        value: structuredClone(value),
        enumerable: true,
        configurable: true,
        writable: true,
      });
    }
    return copy;
  });

/** Keys of all groups inside. */
function placesIn(group: Values): { readonly parent: Values; readonly key: string }[] {
  return Object.entries(group).flatMap(([key, value]) => [
    { parent: group, key },
    ...(typeof value === "object" && value !== null && !Array.isArray(value)
      ? placesIn(value as Values)
      : []),
  ]);
}
