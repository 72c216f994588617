// Whose a container is, from what the state says.

import type Docker from "dockerode";
import { describe, expect, it } from "vitest";
import { settled, sort, startNodes } from "../../ops/leftovers.ts";

const type = "docker:index/container:Container";
const resource = (name: string, id?: string, of = type) => ({
  urn: `urn:pulumi:local::siem-ha::${of}::${name}`,
  type: of,
  inputs: { name },
  ...(id === undefined ? {} : { id }),
});

describe("sort", () => {
  const state = {
    resources: [resource("kafka-1", "a"), resource("haproxy-1-config", "v", "docker:index/volume:Volume")],
    pending_operations: [
      { type: "creating", resource: resource("kafka-2") },
      { type: "creating", resource: resource("siem-net") },
    ],
  };

  it("tells what was begun and never recorded from what is known and from strangers", () => {
    const containers = [
      { id: "a", name: "kafka-1", state: "running" },
      { id: "b", name: "kafka-2", state: "running" },
      { id: "c", name: "kafka-3", state: "created" },
    ];
    const networks = [
      { id: "n", name: "siem-net" },
      { id: "o", name: "other-net" },
    ];
    expect(sort({ containers, networks }, state)).toEqual({
      containers: [{ id: "b", name: "kafka-2", state: "running" }],
      networks: [{ id: "n", name: "siem-net" }],
      strangers: ["kafka-3"],
    });
  });

  it("takes what was recorded and never started for a leftover, and what only stopped for none", () => {
    const neverStarted = { id: "a", name: "kafka-1", state: "created" };
    expect(sort({ containers: [neverStarted], networks: [] }, state)).toEqual({
      containers: [neverStarted],
      networks: [],
      strangers: [],
    });
    const stopped = { ...neverStarted, state: "exited" };
    expect(sort({ containers: [stopped], networks: [] }, state).containers).toEqual([]);
  });

  it("takes a second container by a known name for a stranger's", () => {
    const containers = [{ id: "z", name: "kafka-1", state: "created" }];
    expect(sort({ containers, networks: [] }, state).strangers).toEqual(["kafka-1"]);
  });

  it("knows the container that writes a proxy's configuration by its volume", () => {
    const containers = [{ id: "w", name: "haproxy-1-config", state: "exited" }];
    expect(sort({ containers, networks: [] }, state)).toEqual({ containers, networks: [], strangers: [] });
  });
});

it("starts the nodes that stand still, and nothing else", async () => {
  const started: string[] = [];
  const listed = (name: string, State: string) => ({ Id: `id of ${name}`, Names: [`/${name}`], State });
  const docker = {
    listContainers: () =>
      Promise.resolve([
        listed("lb-node-1", "exited"),
        listed("lb-node-2", "running"),
        listed("kafka-1", "exited"),
      ]),
    listVolumes: () => Promise.resolve({ Volumes: [] }),
    listNetworks: () => Promise.resolve([]),
    getContainer: (id: string) => ({ start: () => Promise.resolve(void started.push(id)) }),
  } as unknown as Docker;
  const lines: string[] = [];
  const nodes = [{ name: "lb-node-1" }, { name: "lb-node-2" }];
  await startNodes(docker, nodes, { label: "local", log: (line) => lines.push(line) });
  expect(started).toEqual(["id of lb-node-1"]);
  expect(lines).toEqual(["  lb-node-1 stood still: starting it"]);
});

it("what is there has settled although a container is started again and again", async () => {
  let asked = 0;
  const docker = {
    listContainers: () =>
      Promise.resolve([
        { Id: "a", Names: ["/kafka-1"], State: asked++ % 2 === 0 ? "running" : "restarting" },
      ]),
    listVolumes: () => Promise.resolve({ Volumes: [] }),
    listNetworks: () => Promise.resolve([]),
  } as unknown as Docker;
  expect((await settled(docker, "local")).containers.map(({ name }) => name)).toEqual(["kafka-1"]);
  expect(asked).toBe(2);
});
