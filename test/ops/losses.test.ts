// What `npm run down` says it will delete.

import { describe, expect, it } from "vitest";
import { lossesInDocker, lossesOnAws } from "../../ops/losses.ts";

const mib = 1024 ** 2;

describe("what goes from a Docker daemon", () => {
  const there = {
    containers: [{}, {}, {}],
    networks: [{ name: "siem-net" }],
    volumes: ["kafka-1-data", "kafka-2-data", "haproxy-1-config"],
    sizes: new Map([
      ["kafka-1-data", 3 * mib],
      ["kafka-2-data", 2 * mib],
      ["haproxy-1-config", 0],
      ["somebody-elses", 7 * mib],
    ]),
  };

  it("is counted, and data is measured", () => {
    expect(lossesInDocker({ ...there, kept: new Set() })).toEqual([
      "3 containers",
      "3 volumes, of which 2 hold data: 5 MiB",
      "the network siem-net",
    ]);
  });

  it("does not have what is kept", () => {
    expect(lossesInDocker({ ...there, kept: new Set(["kafka-1-data", "kafka-2-data"]) })).toContain(
      "1 volume, of which 0 hold data: 0 MiB",
    );
  });

  it("is nothing where nothing is", () => {
    const nothing = {
      containers: [],
      networks: [],
      volumes: [],
      sizes: there.sizes,
      kept: new Set<string>(),
    };
    expect(lossesInDocker(nothing)).toEqual([]);
  });
});

describe("what goes on AWS", () => {
  const resource = (type: string, name: string, inputs = {}) => ({
    urn: `urn:pulumi:dev::siem-ha::${type}::${name}`,
    type,
    id: `id-of-${name}`,
    inputs,
  });

  it("is named where it carries data or a service, and counted where not", () => {
    expect(
      lossesOnAws([
        resource("aws:ec2/instance:Instance", "lb-node-1"),
        resource("aws:ec2/instance:Instance", "store-node-1"),
        resource("aws:ebs/volume:Volume", "lb-node-1-data", { size: 20 }),
        resource("aws:ebs/volume:Volume", "store-node-1-data", { size: 200 }),
        resource("aws:s3/bucket:Bucket", "backups"),
        resource("aws:ec2/vpc:Vpc", "vpc"),
        resource("docker:index/container:Container", "kafka-1"),
      ]),
    ).toEqual([
      "2 machines with all that runs on them: lb-node-1, store-node-1",
      "2 data volumes of 220 GiB together",
      "the bucket id-of-backups with all backups in it",
      "1 other resource on AWS: network, addresses, roles, alarms, image repositories, …",
    ]);
  });

  it("is nothing in an empty state", () => {
    expect(lossesOnAws([])).toEqual([]);
  });
});
