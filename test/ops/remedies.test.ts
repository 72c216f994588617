// From what Docker and Pulumi say to what a person can do.

import { describe, expect, it } from "vitest";
import { reasonOf, remedyFor } from "../../ops/remedies.ts";

const gib = 1024 ** 3;
const situation = {
  stackName: "local",
  command: "npm run up",
  places: { "the stack's state": "/state", Docker: "/docker" },
  space: (path: string) => Promise.resolve({ free: path === "/docker" ? 0 : gib, total: 10 * gib }),
};

describe("remedyFor", () => {
  it.each([
    [
      "write /state/x.json.tmp: no space left on device",
      "A disk is full: /docker (Docker) has 0 MiB free of 10.0 GiB; ",
    ],
    [
      "ENOSPC: no space left on device, write",
      "Free some of the first one. Then npm run up goes on where it stopped.",
    ],
    ['resource "kafka-1-data" is marked for protection', "Undo the change in Pulumi.local.yaml"],
    [
      "Unable to read Docker image into resource: unable to pull image registry.example/api:1.4: Get https://…",
      "The image registry.example/api:1.4 is not in the Docker daemon and can't be pulled.",
    ],
    ["Bind for 127.0.0.1:8080 failed: port is already allocated", "siem-ha:local portOffset"],
    ["Pool overlaps with other one on this address space", "siem-ha:local net"],
    ['Conflict. The container name "/kafka-1" is already in use by container "ab"', "siem-ha:local prefix"],
    ["connect ECONNREFUSED /var/run/docker.sock", "The Docker daemon stopped answering"],
    ["exit status 1: no quorum", "Mend the cause; then npm run up goes on where it stopped."],
  ])("%s", async (reason, expected) => {
    expect(await remedyFor(reason, situation)).toContain(expected);
  });
});

describe("reasonOf", () => {
  it("takes the engine's own words, else those of its command, else all there is", () => {
    expect(reasonOf(["one", "two"], new Error("three"))).toBe("one\ntwo");
    const framed =
      "code: -2\n stdout: \n stderr: pulumi up ended with exit code 1\nerror: blob is broken\n err?: \n";
    expect(reasonOf([], new Error(framed))).toBe("blob is broken");
    expect(reasonOf([], new Error("plain"))).toBe("plain");
  });
});
