// What is in a local stack's way, and that it is said by name.

import { createServer } from "node:net";
import type Docker from "dockerode";
import { describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";
import { memoryLimits } from "../../components/services/memory.ts";
import { plan } from "../../components/topology.ts";
import {
  type Daemon,
  earlierNodes,
  excessMemory,
  grantedMemory,
  machineMemory,
  namesOf,
  needs,
  parseRoutes,
  partOfData,
  shortage,
  takenNames,
  takenPort,
  takenRange,
} from "../../ops/preflight.ts";

const config = parseConfig({ target: "local" });
const topology = plan(config.local);
const empty: Daemon = { containers: [], volumes: [], networks: [] };
const mine = { "siem-ha.stack": "local" };
const mib = 1024 ** 2;
const container = (name: string, more: Partial<Daemon["containers"][number]> = {}) => ({
  name,
  image: "busybox:1",
  state: "running",
  labels: {},
  networkMode: "bridge",
  ports: [],
  ...more,
});

it("sees nodes that an earlier stand-in made, and says in a sentence what to do", () => {
  const node = (more: Partial<Daemon["containers"][number]>): Daemon => ({
    ...empty,
    containers: [container("lb-node-1", { labels: mine, ...more })],
  });
  const look = (daemon: Daemon) => earlierNodes(daemon, topology, "local", "local");
  expect(look(node({}))).toBeUndefined();
  expect(look(node({ networkMode: "siem-net", labels: {} }))).toBeUndefined();
  expect(look(node({ networkMode: "siem-net" }))).toContain("npm run down -- -s local --keep-data");
});

describe("takenNames", () => {
  it("finds nothing on an empty daemon, nor in what is the stack's own", () => {
    expect(takenNames(empty, topology, "local")).toBeUndefined();
    const { containers, volumes, network } = namesOf(topology);
    const own: Daemon = {
      containers: containers.map((name) => container(name, { labels: mine })),
      volumes: volumes.map((name) => ({ name, labels: mine })),
      networks: [{ name: network, labels: mine, subnets: ["172.25.0.0/24"] }],
    };
    expect(takenNames(own, topology, "local")).toBeUndefined();
    expect(takenNames(own, topology, "other")).toContain(
      "the container lb-node-1 (image busybox:1, of the stack local)",
    );
  });

  it("names a stranger's container, volume and network, and the way out", () => {
    const problem = takenNames(
      {
        containers: [container("kafka-1", { image: `sha256:${"ab".repeat(32)}` }), container("harmless")],
        volumes: [{ name: "kafka-1-data", labels: { "com.docker.compose.project": "shop" } }],
        networks: [{ name: "siem-net", labels: {}, subnets: [] }],
      },
      topology,
      "local",
    );
    expect(problem).toContain("the container kafka-1 (image abababababab)");
    expect(problem).toContain("the volume kafka-1-data (of the Compose project shop)");
    expect(problem).toContain("the network siem-net");
    expect(problem).toContain("siem-ha:local prefix");
    expect(problem).not.toContain("harmless");
  });
});

describe("partOfData", () => {
  const all = namesOf(topology).volumes.filter((name) => /-(data|log)$/.test(name));
  const volumes = (given: readonly string[], labels = mine): Daemon => ({
    ...empty,
    volumes: given.map((name) => ({ name, labels })),
  });
  const left = ["kafka-1-data", "zookeeper-2-log"];
  const volume = (name: string) => {
    const type = "docker:index/volume:Volume";
    return { urn: `urn:pulumi:local::siem-ha::${type}::${name}`, type, inputs: { name } };
  };
  const nothing = { resources: [], pending_operations: [] };
  /** A state that knows nothing, and data on every volume. */
  const look = (
    daemon: Daemon,
    state: Awaited<ReturnType<Parameters<typeof partOfData>[3]["state"]>> = nothing,
    bytes: Readonly<Record<string, number>> = Object.fromEntries(all.map((name) => [name, 4096])),
  ) =>
    partOfData(daemon, topology, "local", {
      state: () => Promise.resolve(state),
      sizes: () => Promise.resolve(new Map(Object.entries(bytes))),
    });

  it("names what is there, what is missing, and the command that removes the rest", async () => {
    const problem = await look(volumes(left));
    const missing = all.filter((name) => !left.includes(name));
    expect(all).toHaveLength(12);
    expect(problem).toContain(`There: kafka-1-data, zookeeper-2-log. Missing: ${missing.join(", ")}.`);
    expect(problem).toMatch(/which deletes its data: docker volume rm kafka-1-data zookeeper-2-log$/);
    expect(problem).toContain("docker volume create --label siem-ha.stack=local NAME");
  });

  it.each(all)("misses %s, where all others are there", async (name) => {
    expect(await look(volumes(all.filter((other) => other !== name)))).toContain(`Missing: ${name}.`);
  });

  it("has nothing against all of them, none of them, and somebody else's", async () => {
    const untouched = () => Promise.reject(new Error("nothing had to be asked"));
    const evidence = { state: untouched, sizes: untouched };
    for (const daemon of [volumes(all), empty, volumes(left, { "siem-ha.stack": "other" })]) {
      expect(await partOfData(daemon, topology, "local", evidence)).toBeUndefined();
    }
    // What is no data may be there or not.
    expect(await look(volumes(["haproxy-1-pair", "supervisor-state"]))).toBeUndefined();
  });

  it.each([
    ["recorded what it made", { ...nothing, resources: [volume("kafka-1-data")] }],
    [
      "only noted what it was about to make",
      { ...nothing, pending_operations: [{ type: "creating", resource: volume("kafka-1-data") }] },
    ],
  ])("lets an interrupted up go on that %s", async (_what, state) => {
    expect(await look(volumes(left), state)).toBeUndefined();
  });

  it("lets one go on that lost its state: its volumes are empty, or its containers are there", async () => {
    expect(await look(volumes(left), nothing, { "kafka-1-data": 0 })).toBeUndefined();
    expect(await look(volumes(left), nothing, { "zookeeper-2-log": 1 })).toBeDefined();
    const anchor = container("lb-node-1", { state: "exited", labels: mine });
    expect(await look({ ...volumes(left), containers: [anchor] })).toBeUndefined();
    const stranger = container("web", { labels: { "siem-ha.stack": "other" } });
    expect(await look({ ...volumes(left), containers: [stranger] })).toBeDefined();
  });
});

describe("takenRange", () => {
  const networks = (...subnets: string[]): Daemon => ({
    ...empty,
    networks: [{ name: "vpn-lab", labels: {}, subnets }],
  });

  it.each(["172.25.0.0/24", "172.25.0.128/25", "172.16.0.0/12"])(
    "names the network that has %s",
    (subnet) => {
      const { problem } = takenRange(networks("fd00::/64", subnet), [], topology, "local");
      expect(problem).toContain(`172.25.0.0/24 overlaps with Docker's network vpn-lab (${subnet})`);
      expect(problem).toContain("siem-ha:local net");
    },
  );

  it.each(["172.25.1.0/24", "172.24.0.0/16", "fd00::/64"])("has nothing against %s", (subnet) => {
    expect(takenRange(networks(subnet), [{ device: "tun0", range: subnet }], topology, "local")).toEqual({});
  });

  it("leaves the stack's own network and its route alone", () => {
    const own = { name: "siem-net", labels: mine, subnets: ["172.25.0.0/24"] };
    const routes = [{ device: "br-1", range: "172.25.0.0/24" }];
    expect(takenRange({ ...empty, networks: [own] }, routes, topology, "local")).toEqual({});
  });

  it("names the interface of a route, warns of a wide one, and knows that a default route is none", () => {
    const at = (range: string) => takenRange(empty, [{ device: "tun0", range }], topology, "local");
    expect(at("172.25.0.0/16").problem).toContain("172.25.0.0/16, which this machine reaches through tun0");
    expect(at("172.25.0.7/32").problem).toContain("tun0");
    expect(at("172.16.0.0/12").problem).toBeUndefined();
    expect(at("172.16.0.0/12").warning).toContain("through tun0");
    // OpenVPN's two halves of everything.
    expect([at("0.0.0.0/0"), at("128.0.0.0/1")]).toEqual([{}, {}]);
  });

  it("reads Linux's routing table", () => {
    const text = `Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
tun0\t000019AC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
down0\t000019AC\t00000000\t0000\t0\t0\t0\t00FFFFFF\t0\t0\t0
`;
    expect(parseRoutes(text)).toEqual([
      { device: "eth0", range: "0.0.0.0/0" },
      { device: "tun0", range: "172.25.0.0/24" },
    ]);
  });
});

describe("takenPort", () => {
  const free = () => Promise.resolve(undefined);
  const publishing = (ip: string, external: number) =>
    container("web", { ports: [{ ip, external, protocol: "tcp" }] });

  it("has nothing against free ports", async () => {
    expect(await takenPort(empty, topology, config, free)).toBeUndefined();
  });

  it.each(["0.0.0.0", "127.0.0.1", "::"])("names the container that publishes it on %s", async (ip) => {
    const daemon = { ...empty, containers: [publishing(ip, 18081)] };
    const problem = await takenPort(daemon, topology, config, free);
    expect(problem).toContain(
      "port 18081 on 127.0.0.1, which lb-node-2 publishes, is taken by the container web",
    );
    expect(problem).toContain("portOffset (now 0, allowed 0 to 9000)");
  });

  it("lets another address and UDP be", async () => {
    const containers = [
      publishing("192.0.2.1", 8080),
      container("dns", { ports: [{ ip: "0.0.0.0", external: 8080, protocol: "udp" }] }),
    ];
    expect(await takenPort({ ...empty, containers }, topology, config, free)).toBeUndefined();
  });

  it("asks only for nodes that don't run: a stopped one has lost its ports", async () => {
    const asked: number[] = [];
    const refusal = (port: number) => {
      asked.push(port);
      return Promise.resolve(undefined);
    };
    const containers = [container("lb-node-1"), container("lb-node-2", { state: "exited" })];
    await takenPort({ ...empty, containers }, topology, config, refusal);
    expect(asked).toContain(18080);
    expect(asked).not.toContain(8080);
  });

  it.each(["0.0.0.0", "127.0.0.1", "::"])("sees and names a process that listens on %s", async (host) => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, host, resolve));
    try {
      const { port } = server.address() as { port: number };
      const moved = { ...topology, nodes: topology.nodes.map((node) => ({ ...node, published: [] })) };
      const [first, ...others] = moved.nodes;
      if (first === undefined) throw new Error("no node");
      const nodes = [{ ...first, published: [{ external: port, internal: 8080 }] }, ...others];
      const problem = await takenPort(empty, { ...topology, nodes }, config);
      expect(problem).toContain(`port ${port} on 127.0.0.1, which lb-node-1 publishes, is taken by`);
      if (process.platform === "linux") expect(problem).toContain(`process ${process.pid} (`);
    } finally {
      server.close();
    }
  });
});

describe("excessMemory", () => {
  const unasked = () => Promise.reject(new Error("nothing had to be asked"));
  const look = (
    given: object,
    machineMb: number,
    granted: () => Promise<number> = () => Promise.resolve(0),
  ): ReturnType<typeof excessMemory> =>
    excessMemory(
      memoryLimits(topology, parseConfig({ target: "local", ...given })),
      machineMb * mib,
      granted,
    );

  it("has nothing against the defaults on a machine of 16 GiB, of which the kernel keeps some", async () => {
    expect(await look({}, 15.3 * 1024, unasked)).toEqual({});
  });

  it("knows nothing where Docker doesn't know", async () => {
    expect(await look({ kafka: { heapMb: 65536 } }, 0, unasked)).toEqual({});
  });

  it.each([
    [
      { clickhouse: { memoryMb: 40000 } },
      "siem-ha:clickhouse.memoryMb is 40000, so clickhouse-1 may take as many MB, but the machine that Docker runs on has 32000 MB of memory. Allowed on it are 1024 to 32000: lower it, or use a machine with more memory",
    ],
    [
      { kafka: { heapMb: 31233 } },
      "siem-ha:kafka.heapMb is 31233, so kafka-1 may take 32001 MB (768 beside the heap), but the machine that Docker runs on has 32000 MB of memory. Allowed on it are 256 to 31232: lower it, or use a machine with more memory",
    ],
    [
      { zookeeper: { heapMb: 65536 } },
      "siem-ha:zookeeper.heapMb is 65536, so zookeeper-1 may take 65728 MB (192 beside the heap), but the machine that Docker runs on has 32000 MB of memory. Allowed on it are 64 to 31808: lower it, or use a machine with more memory",
    ],
  ])("refuses %o", async (given, problem) => {
    expect(await look(given, 32000, unasked)).toEqual({ problem });
  });

  it("takes a container that is just as large as the machine", async () => {
    const just = await look({ clickhouse: { memoryMb: 32000 }, kafka: { heapMb: 31232 } }, 32000);
    expect(just.problem).toBeUndefined();
    expect(just.warning).toContain("may take 193.5 GiB of memory together");
  });

  it("names every key at once, and one line each", async () => {
    const given = { clickhouse: { memoryMb: 40000 }, kafka: { heapMb: 40000 }, zookeeper: { heapMb: 40000 } };
    const keys = (await look(given, 32000)).problem?.split("\n").map((line) => line.split(" ")[0]);
    expect(keys).toEqual(["siem-ha:clickhouse.memoryMb", "siem-ha:kafka.heapMb", "siem-ha:zookeeper.heapMb"]);
  });

  it("doesn't ask to lower what is as low as it may be", async () => {
    const { problem } = await look({ clickhouse: { memoryMb: 1024 } }, 1000);
    expect(problem).toMatch(
      /^siem-ha:clickhouse\.memoryMb is 1024, .* has 1000 MB of memory\. Even the least allowed, 1024, is too much for it: use a machine with more memory\nsiem-ha:kafka/,
    );
  });

  it("only warns where all together may take more than there is", async () => {
    expect(await look({}, 8192)).toEqual({
      warning:
        "the stack's containers may take 15.0 GiB of memory together, and the machine that Docker runs on has 8.0 GiB. Few take what they may; if they do, the kernel ends some. To avoid that, lower siem-ha:clickhouse.memoryMb (now 2048), or lower siem-ha:zookeeper.heapMb (now 128), or use a machine with more memory",
    });
    const least = { clickhouse: { memoryMb: 1024 }, zookeeper: { heapMb: 64 } };
    expect((await look(least, 8192)).warning).toMatch(/To avoid that, use a machine with more memory$/);
  });

  it("warns once: not of what the containers have already, but again when they are to have more", async () => {
    const asDefault = () => Promise.resolve(15328 * mib);
    expect(await look({}, 8192, asDefault)).toEqual({});
    expect((await look({ kafka: { heapMb: 257 } }, 8192, asDefault)).warning).toContain(
      "kafka.heapMb (now 257)",
    );
  });

  it("reads both from Docker, also while a container goes away", async () => {
    const docker = {
      info: () => Promise.resolve({ MemTotal: 8 * 1024 ** 3 }),
      getContainer: (name: string) => ({
        inspect: () =>
          name === "gone"
            ? Promise.reject(Object.assign(new Error("no such container"), { statusCode: 404 }))
            : Promise.resolve({ HostConfig: { Memory: 32 * mib } }),
      }),
    } as unknown as Docker;
    const containers = [
      container("lb-node-1", { labels: mine }),
      container("kafka-1", { labels: mine }),
      container("gone", { labels: mine }),
      container("web"),
    ];
    expect(await machineMemory(docker)).toBe(8 * 1024 ** 3);
    expect(await grantedMemory(docker, { ...empty, containers }, "local")).toBe(64 * mib);
    const broken = { getContainer: () => ({ inspect: () => Promise.reject(new Error("no answer")) }) };
    await expect(
      grantedMemory(broken as unknown as Docker, { ...empty, containers }, "local"),
    ).rejects.toThrow("no answer");
  });
});

describe("shortage", () => {
  const gib = 1024 ** 3;
  const wanted = needs("/state", "/docker", true);
  const disk = (free: Record<string, number | undefined>) => (path: string) => {
    const there = free[path];
    return Promise.resolve(there === undefined ? undefined : { free: there, total: 100 * gib });
  };

  it("has nothing against enough, nor against a disk that can't be seen from here", async () => {
    expect(await shortage(wanted, disk({ "/state": gib, "/docker": 5 * gib }))).toBeUndefined();
    expect(await shortage(wanted, disk({ "/state": gib }))).toBeUndefined();
  });

  it("gives the directory, the figure and the need", async () => {
    expect(await shortage(wanted, disk({ "/state": gib, "/docker": 1.5 * gib }))).toBe(
      'the disk is too full for Docker\'s images and volumes: /docker has 1.5 GiB free of 100.0 GiB, and at least 4.0 GiB are needed. Free some, for example with "docker system df" and "docker image prune"',
    );
    expect(await shortage(wanted, disk({ "/state": 1024 ** 2 }))).toContain(
      "/state has 1 MiB free of 100.0 GiB, and at least 64 MiB are needed",
    );
  });

  it("needs less where the images are there", () => {
    expect(needs("/state", "/docker", false).at(-1)?.bytes).toBe(gib);
  });
});
