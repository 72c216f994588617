// The zones that a stack stands in: the configured ones, or the region's first three; a region with fewer is refused.

import * as pulumi from "@pulumi/pulumi";
import { describe, expect, it } from "vitest";
import { type AwsConfig, parseConfig } from "../../components/config.ts";
import { awsProvider, zonesOf } from "../../components/host/aws.ts";
import { dev } from "../aws/stack.ts";

async function zonesIn(found: readonly string[], aws: object = dev): Promise<readonly string[]> {
  await pulumi.runtime.setMocks({
    newResource: ({ name, inputs }) => ({ id: name, state: inputs as Record<string, unknown> }),
    call: ({ token, inputs }) => {
      expect(token).toBe("aws:index/getAvailabilityZones:getAvailabilityZones");
      // Local Zones would be found too if they were not left out.
      expect(JSON.stringify(inputs)).toContain("availability-zone");
      return { names: found };
    },
  });
  const config = parseConfig({ target: "aws", aws }).aws as AwsConfig;
  return zonesOf(config, awsProvider(config, "dev"));
}

describe("zonesOf", () => {
  it("takes the region's first three, in the order of their names", async () => {
    const found = ["eu-central-1d", "eu-central-1b", "eu-central-1a", "eu-central-1c"];
    expect(await zonesIn(found)).toEqual(["eu-central-1a", "eu-central-1b", "eu-central-1c"]);
  });

  it("takes the configured ones without asking", async () => {
    const zones = ["eu-central-1b", "eu-central-1c", "eu-central-1d"];
    expect(await zonesIn([], { ...dev, zones })).toEqual(zones);
  });

  it("refuses a region with two, by name", async () => {
    await expect(zonesIn(["eu-central-1a", "eu-central-1b"])).rejects.toThrow(
      /region eu-central-1 has 2 availability zones \(eu-central-1a, eu-central-1b\), and the platform needs 3.*Nothing was touched/,
    );
  });
});
