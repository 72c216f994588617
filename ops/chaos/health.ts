// Is everything well again? Cheap questions first, asked often; then the operator's own checks, which settle it.

import { setTimeout as sleep } from "node:timers/promises";
import { ports } from "../../components/ports.ts";
import { names, type Topology } from "../../components/topology.ts";
import { type CheckContext, runChecks } from "../checks.ts";
import { type Holders } from "./holders.ts";
import { askBroker, zookeeperModes } from "./parts.ts";
import { type Tools } from "./tools.ts";

export interface HealthOptions {
  readonly context: CheckContext;
  readonly tools: Tools;
  readonly holders: Holders;
  /** What the clients miss at this moment. @default nobody is asked */
  readonly clients?: () => readonly string[];
}

const pauseMs = 300;

/** What answers on the nodes' own addresses: URL → whose it is. */
function doors(topology: Topology): Readonly<Record<string, string>> {
  const at = (address: string, port: number, path: string) => `http://${address}:${port}${path}`;
  return Object.fromEntries([
    ...topology.api.map((one) => [at(one.node.address, one.port, "/v1/health"), one.name] as const),
    ...topology.ingestor.map((one) => [at(one.node.address, one.port, "/health"), one.name] as const),
    ...topology.clickhouse.map(
      (one) => [at(one.node.address, ports.clickhouseHttp.number, "/ping"), one.name] as const,
    ),
    ...topology.haproxy.map(
      (one) => [at(one.node.address, ports.haproxyStats.number, "/stats"), one.name] as const,
    ),
  ]);
}

/** What is plainly not well yet, in a moment and without a command in any container. */
async function ailing({ context: { topology }, tools, holders, clients }: HealthOptions): Promise<string[]> {
  const problems: string[] = [];
  const ask = async (url: string, name: string) => {
    const status = await fetch(url, { signal: AbortSignal.timeout(1000) }).then(
      async (answer) => {
        await answer.arrayBuffer();
        return answer.status;
      },
      () => 0,
    );
    // The statistics page wants a password.
    if (status !== 200 && status !== 401) problems.push(`${name} does not answer`);
  };
  const containers = async () => {
    const all = await tools.docker.listContainers({
      all: true,
      filters: { label: [`${names.label}=${tools.label}`] },
    });
    for (const { Names, State } of all)
      if (State !== "running") problems.push(`${Names[0]?.slice(1) ?? "a container"} is ${State}`);
  };
  // Each is asked: one alone may not know yet that another is gone.
  const kafka = topology.kafka.map(async (broker) => {
    const { behind } = await askBroker(broker);
    if (behind > 0) problems.push(`${broker.name}: ${behind} partitions lack an in-sync replica`);
  });
  const zookeeper = async () => {
    const modes = await zookeeperModes(topology);
    if (modes.size !== topology.zookeeper.length) problems.push(`${modes.size} ZooKeepers serve`);
  };
  const given = (work: Promise<unknown>) =>
    work.catch((error: unknown) => void problems.push((error as Error).message));
  await Promise.all([
    given(containers()),
    ...kafka.map(given),
    given(zookeeper()),
    ...Object.entries(doors(topology)).map(([url, name]) => given(ask(url, name))),
  ]);
  problems.push(...(clients?.() ?? []));
  if (holders.now.length !== 1) problems.push(`the VIP is held by ${holders.now.join(" and ") || "no node"}`);
  return problems;
}

/** Waits until every check but the probe event passes. */
export async function untilHealthy(
  options: HealthOptions,
  seconds: number,
): Promise<{ readonly at: number | undefined; readonly unhealthy: readonly string[] }> {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    let unhealthy = await ailing(options);
    const at = Date.now();
    if (unhealthy.length === 0) {
      // What takes time counts.
      const results = await runChecks(options.context, { without: ["probe event"], patience: 0 });
      unhealthy = results
        .filter(({ ok }) => !ok)
        .map(({ check, target, detail }) => `${check} ${target}: ${detail}`);
      if (unhealthy.length === 0) return { at, unhealthy };
    }
    if (Date.now() > deadline) return { at: undefined, unhealthy };
    await sleep(pauseMs);
  }
}
