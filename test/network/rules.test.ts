// Who may call whom on AWS: the whole table against files that a reviewer can read, and what must hold for any config.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type AwsConfig, parseConfig, topologyOf as planOf } from "../../components/config.ts";
import { witnessUrl } from "../../components/edge/witness.ts";
import { isPublicRange, networkOf } from "../../components/network/addresses.ts";
import { addressesByName } from "../../components/network/dns.ts";
import {
  entryPorts,
  groupsOf,
  type Rule,
  ruleProblems,
  ruleQuota,
  rules,
} from "../../components/network/rules.ts";
import { type Port, ports } from "../../components/ports.ts";
import {
  renderClickhouseCluster,
  renderClickhouseConfig,
  renderSchema,
} from "../../components/render/clickhouse.ts";
import { renderHaproxy } from "../../components/render/haproxy.ts";
import { renderKafka } from "../../components/render/kafka.ts";
import { renderZookeeper } from "../../components/render/zookeeper.ts";
import { brokerList, databaseUrl } from "../../components/services/http-service.ts";
import { type Role, type Topology } from "../../components/topology.ts";
import { awsConfig, prodConfig, publicEntry, topologyOf } from "./mocked.ts";

const roles: readonly Role[] = ["lb", "stream", "store"];
const rulesOf = (config: AwsConfig) => rules(config, topologyOf(config));

/** One rule a line, sorted: what the golden files hold. */
function table(all: readonly Rule[]): string {
  const peer = (rule: Rule) => ("group" in rule.peer ? rule.peer.group : rule.peer.cidr);
  const span = ({ protocol, fromPort, toPort }: Rule) =>
    protocol === "112" ? "vrrp" : fromPort === toPort ? `${fromPort}` : `${fromPort}-${toPort}`;
  return all
    .map((rule) =>
      [
        rule.group.padEnd(12),
        rule.direction.padEnd(4),
        span(rule).padEnd(10),
        peer(rule).padEnd(18),
        rule.description,
      ]
        .join("")
        .trimEnd(),
    )
    .sort()
    .join("\n");
}

/** Shorter: `in 8080 10.42.0.0/16`. */
const brief = (all: readonly Rule[]) =>
  table(all)
    .split("\n")
    .map((line) => line.split(/ +/).slice(0, 4).join(" "));

const cidr = fc
  .tuple(fc.nat(255), fc.nat(255), fc.integer({ min: 8, max: 32 }))
  .map(([a, b, length]) => networkOf(`10.${a}.${b}.0/${length}`));
const anyConfig = fc
  .record({
    clients: fc.array(cidr, { maxLength: 4 }),
    admins: fc.array(fc.oneof(cidr, fc.constant("198.51.100.7/32")), { maxLength: 4 }),
    access: fc.constantFrom("instance-connect", "bastion"),
    loadBalancer: fc.constantFrom(undefined, publicEntry, { public: false, clients: ["10.0.0.0/8"] }),
    vpc: fc.constantFrom("10.42.0.0/16", "172.16.8.0/22"),
  })
  .map(({ clients, admins, access, loadBalancer, vpc }) =>
    prodConfig({
      cidr: vpc,
      entry: { clients, ...(loadBalancer === undefined ? {} : { loadBalancer }) },
      // A bastion that nobody may reach is refused.
      admin: { clients: admins, access: admins.length === 0 ? "instance-connect" : access },
    }),
  );

describe("the rules, all of them,", () => {
  it.each<[string, AwsConfig]>([
    ["dev", awsConfig()],
    [
      "prod",
      prodConfig({
        entry: { clients: ["10.0.0.0/8"], loadBalancer: publicEntry },
        admin: { access: "bastion", clients: ["198.51.100.7/32", "10.99.0.0/24"] },
      }),
    ],
  ])("are these for %s", async (name, config) => {
    const text = `${table(rulesOf(config))}\n`;
    await expect(text).toMatchFileSnapshot(`../golden/security-group-rules-${name}.txt`);
  });

  it.each([
    ["without syslog", {}],
    ["with syslog", { ingestor: { syslog: { tenant: "acme" } } }],
  ])("open exactly the ports of the table, each on the roles that listen on it, %s", (_name, services) => {
    const config = parseConfig({ target: "aws", aws: awsConfig(), ...services });
    const all = rules(awsConfig(), planOf(config));
    const slotted: readonly Port[] = [ports.api, ports.ingestor, ports.ingestorSyslog];
    const optional: readonly Port[] = [ports.syslog, ports.ingestorSyslog];
    for (const port of Object.values(ports) as Port[]) {
      const offset = slotted.includes(port) ? 1 : 0;
      const opened = all.filter(
        (rule) =>
          rule.direction === "in" && rule.fromPort === port.number + offset && rule.group !== "access",
      );
      const asked = config.ingestor.syslog !== undefined || !optional.includes(port);
      const open = asked && port.from !== "self" && port.from !== "admin";
      expect([...new Set(opened.map((rule) => rule.group))], port.purpose).toEqual(open ? port.on : []);
    }
    const known = (Object.values(ports) as Port[]).map(({ number }) => number);
    for (const rule of all.filter(({ direction }) => direction === "in")) {
      const slot =
        slotted.some(({ number }) => rule.fromPort === number + 1) && rule.toPort === rule.fromPort + 2;
      const fixed = rule.fromPort === rule.toPort && [...known, 22, 443, -1].includes(rule.fromPort);
      expect(slot || fixed, rule.name).toBe(true);
    }
  });

  it("follow the replicas' slots exactly, gaps included", () => {
    const config = awsConfig();
    const topology = topologyOf(config);
    const slots = (found: number[]): Topology => ({
      ...topology,
      api: found.map((slot) => {
        const [replica] = topology.api;
        if (replica === undefined) throw new Error("no API replica");
        return { ...replica, slot, port: ports.api.number + slot };
      }),
    });
    const opened = (found: number[]) =>
      rules(config, slots(found))
        .filter((rule) => rule.group === "lb" && rule.direction === "in" && rule.name.endsWith("from-lb"))
        .filter(({ fromPort }) => fromPort > 8090 && fromPort < 8190)
        .map(({ fromPort, toPort }) => [fromPort, toPort]);
    expect(opened([1])).toEqual([[8091, 8091]]);
    expect(opened([3, 1, 2])).toEqual([[8091, 8093]]);
    expect(opened([1, 2, 4, 7, 6])).toEqual([
      [8091, 8092],
      [8094, 8094],
      [8096, 8097],
    ]);
  });
});

/**
 * `host:port` of everything that the rendered configurations connect to, by the role of the nodes that read them. It is
 * taken from their text, not from the port table.
 */
function connections(topology: Topology): Record<Role, Set<string>> {
  const config = parseConfig({ target: "local" });
  const texts: Record<Role, string[]> = {
    lb: [renderHaproxy(topology), brokerList(topology), databaseUrl(topology), witnessUrl(topology)],
    stream: [
      ...topology.kafka.flatMap((self) => Object.values(renderKafka(topology, self, config.kafka))),
      // `server.1=name:2888:3888;2181`: followers call both.
      ...topology.zookeeper.flatMap((self) =>
        Object.values(renderZookeeper(topology, self, config.zookeeper.heapMb)).map((value) =>
          value.replace(/=([\w-]+):(\d+):(\d+);(\d+)/g, "=$1:$2 $1:$3"),
        ),
      ),
    ],
    store: [
      renderSchema(topology),
      ...[
        renderClickhouseCluster(topology, "x"),
        ...topology.clickhouse.flatMap((self) => Object.values(renderClickhouseConfig(topology, self))),
      ].map((xml) =>
        xml
          .replace(/<host>([\w.-]+)<\/host><port>(\d+)<\/port>/g, " $1:$2 ")
          .replace(/<interserver_http_port>(\d+)<[^]*<interserver_http_host>([\w-]+)</g, " $2:$1 "),
      ),
    ],
  };
  const hosts = addressesByName(topology);
  const addresses = new Set(topology.nodes.map(({ address }) => address));
  return Object.fromEntries(
    Object.entries(texts).map(([role, all]) => [
      role,
      new Set(
        all
          .flatMap((text) => [...text.matchAll(/([\w.-]+):(\d{2,5})\b/g)])
          .filter(([, host = ""]) => hosts.has(host) || addresses.has(host))
          .map(([, host = "", port = ""]) => `${host}:${port}`),
      ),
    ]),
  ) as Record<Role, Set<string>>;
}

describe("what the configurations connect to", () => {
  const config = awsConfig();
  const topology = topologyOf(config);
  const found = connections(topology);
  const node = (host: string) => {
    const [match, ...more] = topology.nodes.filter(
      ({ alias, aliases, address }) => alias === host || address === host || aliases.includes(host),
    );
    if (match === undefined || more.length > 0) throw new Error(`${host} is not one node's name`);
    return match;
  };
  /** The rules that a set of connections needs. */
  const needed = (from: Role) =>
    new Set([...(found[from] ?? [])].map((at) => `${node(at.split(":")[0] ?? "").role} ${at.split(":")[1]}`));

  it("is all of this", () => {
    const span = (role: string, base: number) => [1, 2, 3].map((slot) => `${role} ${base + slot}`);
    const sorted = (from: Role) => [...needed(from)].sort();
    expect(sorted("lb")).toEqual([
      ...span("lb", 8090),
      ...span("lb", 8190),
      "lb 8406",
      "store 8123",
      "stream 9092",
    ]);
    expect(sorted("stream")).toEqual(["stream 2181", "stream 2888", "stream 3888", "stream 9092"]);
    expect(sorted("store")).toEqual(["store 9000", "store 9009", "stream 2181", "stream 9092"]);
  });

  it("is what the groups let through, and between nodes they let nothing else through but the entry and VRRP", () => {
    const inside = rules(config, topology).filter(
      ({ direction, group, peer, protocol }) =>
        direction === "in" &&
        protocol === "tcp" &&
        group !== "endpoint" &&
        "group" in peer &&
        peer.group !== "access",
    );
    const allowed = inside.flatMap(({ group, peer, fromPort, toPort }) =>
      "group" in peer
        ? Array.from(
            { length: toPort - fromPort + 1 },
            (_, more) => `${peer.group} > ${group} ${fromPort + more}`,
          )
        : [],
    );
    const entry = roles.flatMap((from) => [`${from} > lb 8080`, `${from} > lb 8081`]);
    const wanted = roles.flatMap((from) => [...needed(from)].map((to) => `${from} > ${to}`));
    expect(allowed.sort()).toEqual([...entry, ...wanted].sort());
  });
});

describe("for any configuration", () => {
  it("no two rules are the same, and each has a name of its own", () => {
    fc.assert(
      fc.property(anyConfig, (config) => {
        const all = rulesOf(config);
        expect(new Set(all.map(({ name }) => name)).size).toBe(all.length);
        const said = all.map(({ name: _name, description: _description, ...rest }) => JSON.stringify(rest));
        expect(new Set(said).size).toBe(all.length);
      }),
    );
  });

  it("what one group may call, the other one lets in, and nothing else", () => {
    fc.assert(
      fc.property(anyConfig, (config) => {
        const pairs = (direction: "in" | "out") =>
          rulesOf(config)
            .flatMap(({ group, peer, protocol, fromPort, toPort, direction: way }) =>
              way === direction && "group" in peer
                ? [
                    [
                      ...(way === "in" ? [peer.group, group] : [group, peer.group]),
                      protocol,
                      fromPort,
                      toPort,
                    ].join(),
                  ]
                : [],
            )
            .sort();
        expect(pairs("in")).toEqual(pairs("out"));
      }),
    );
  });

  it("only the public entry's and the bastion's groups ever name a public range for the way in", () => {
    fc.assert(
      fc.property(anyConfig, (config) => {
        for (const { group, direction, peer, fromPort } of rulesOf(config)) {
          if (direction === "out" || "group" in peer || !isPublicRange(peer.cidr)) continue;
          // With TLS only; the bastion speaks nothing but SSH.
          expect([22, 443, 8443]).toContain(fromPort);
          expect(group === "publicEntry" || (group === "access" && config.admin.access === "bastion")).toBe(
            true,
          );
        }
      }),
    );
  });

  it("data ports are open to the platform's own groups only", () => {
    const data = (Object.values(ports) as Port[]).filter(({ from }) => from === "node" || from === "peer");
    fc.assert(
      fc.property(anyConfig, (config) => {
        for (const rule of rulesOf(config)) {
          const isData = data.some(({ number }) => rule.fromPort <= number + 3 && number <= rule.toPort);
          if (rule.direction === "in" && isData) expect(rule.peer, rule.name).toHaveProperty("group");
        }
      }),
    );
  });

  it("SSH comes from the way in alone", () => {
    fc.assert(
      fc.property(anyConfig, (config) => {
        const ssh = rulesOf(config).filter(
          ({ direction, fromPort }) => direction === "in" && fromPort === 22,
        );
        expect(brief(ssh.filter(({ group }) => group !== "access"))).toEqual([
          "lb in 22 access",
          "store in 22 access",
          "stream in 22 access",
        ]);
        const fromOutside = ssh.filter(({ group }) => group === "access").map(({ peer }) => peer);
        const expected = config.admin.access === "bastion" ? [...new Set(config.admin.clients)] : [];
        expect(fromOutside).toEqual(expected.map((range) => ({ cidr: range })));
      }),
    );
  });

  it("has only what EC2 takes and moto does not check: ports, spans, descriptions, names of groups", () => {
    fc.assert(
      fc.property(anyConfig, (config) => {
        const groups = groupsOf(config);
        for (const rule of rulesOf(config)) {
          if (rule.protocol === "112") expect([rule.fromPort, rule.toPort]).toEqual([-1, -1]);
          else {
            expect(rule.fromPort).toBeGreaterThan(0);
            expect(rule.toPort).toBeGreaterThanOrEqual(rule.fromPort);
            expect(rule.toPort).toBeLessThan(65536);
          }
          expect(rule.description).toMatch(/^[A-Za-z0-9 ._:/()#,@[\]+=&;{}!$*-]{5,255}$/);
          expect(groups).toContain(rule.group);
          if ("group" in rule.peer) expect(groups).toContain(rule.peer.group);
          else expect(networkOf(rule.peer.cidr)).toBe(rule.peer.cidr);
        }
      }),
    );
  });
});

describe("the virtual IP", () => {
  const config = awsConfig({ vip: "172.25.7.9" });
  it("is reached by every node, at the entry ports and no others", () => {
    const toVip = rulesOf(config).filter(({ peer }) => "cidr" in peer && peer.cidr === "172.25.7.9/32");
    expect(brief(toVip)).toEqual([
      "lb out 8080 172.25.7.9/32",
      "lb out 8081 172.25.7.9/32",
      "store out 8080 172.25.7.9/32",
      "store out 8081 172.25.7.9/32",
      "stream out 8080 172.25.7.9/32",
      "stream out 8081 172.25.7.9/32",
    ]);
  });
  it("is agreed on by VRRP between load balancers only", () => {
    expect(brief(rulesOf(config).filter(({ protocol }) => protocol !== "tcp"))).toEqual([
      "lb in vrrp lb",
      "lb out vrrp lb",
    ]);
  });
  it("is moved through the endpoint by load balancers only", () => {
    expect(brief(rulesOf(config).filter(({ group }) => group === "endpoint"))).toEqual([
      "endpoint in 443 lb",
    ]);
  });
  it("serves the VPC if nothing else is said, else the named ranges and not the whole VPC", () => {
    const entry = (given: AwsConfig) =>
      brief(
        rulesOf(given).filter(
          ({ group, direction, peer }) => group === "lb" && direction === "in" && "cidr" in peer,
        ),
      );
    expect(entry(config)).toEqual(["lb in 8080 10.42.0.0/16", "lb in 8081 10.42.0.0/16"]);
    expect(entry(awsConfig({ entry: { clients: ["10.7.0.0/16", "10.8.0.0/16", "10.7.0.0/16"] } }))).toEqual([
      "lb in 8080 10.7.0.0/16",
      "lb in 8080 10.8.0.0/16",
      "lb in 8081 10.7.0.0/16",
      "lb in 8081 10.8.0.0/16",
    ]);
  });
});

describe("the statistics page", () => {
  it("is for operators in private ranges: nobody by default, no public range ever", () => {
    const stats = (clients: string[]) =>
      brief(
        rulesOf(awsConfig({ admin: { clients } })).filter(
          ({ fromPort }) => fromPort === ports.haproxyStats.number,
        ),
      );
    expect(stats([])).toEqual([""]);
    expect(stats(["198.51.100.7/32", "10.99.0.0/24"])).toEqual(["lb in 8404 10.99.0.0/24"]);
  });
});

describe("the public entry", () => {
  it("listens on TLS ports with a certificate, else on the load balancers' own", () => {
    expect(entryPorts(publicEntry)).toEqual({
      api: { listener: 443, target: 8080 },
      ingest: { listener: 8443, target: 8081 },
    });
    expect(entryPorts({ public: false, clients: ["10.0.0.0/8"] })).toEqual({
      api: { listener: 8080, target: 8080 },
      ingest: { listener: 8081, target: 8081 },
    });
  });
  it("has neither group nor rules without the setting", () => {
    expect(groupsOf(awsConfig())).not.toContain("publicEntry");
    expect(JSON.stringify(rulesOf(awsConfig()))).not.toContain("publicEntry");
  });
});

describe("AWS's quota of rules", () => {
  const withClients = (count: number) =>
    awsConfig({ entry: { clients: Array.from({ length: count }, (_, index) => `10.${index}.0.0/16`) } });
  it("is far away for a few ranges", () => {
    const config = withClients(10);
    expect(ruleProblems(config, topologyOf(config))).toEqual([]);
  });
  it("is named before anything is made", () => {
    // The configuration refuses as much, so it is put together here.
    const few = withClients(10);
    const clients = Array.from({ length: 40 }, (_, index) => `10.${index}.0.0/16`);
    const config = { ...few, entry: { ...few.entry, clients } };
    expect(() => withClients(40)).toThrow(/the configuration is wrong/i);
    const inbound = rulesOf(config).filter(
      ({ group, direction }) => group === "lb" && direction === "in",
    ).length;
    expect(inbound).toBeGreaterThan(ruleQuota);
    expect(ruleProblems(config, topologyOf(config))).toEqual([
      `a security group (lb, inbound) would have ${inbound} rules, and AWS allows 60: name fewer, wider client ranges`,
    ]);
  });
});
