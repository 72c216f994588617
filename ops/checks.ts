// What "it works" means, as a list of checks against a running stack; `up` and `verify` run the same ones.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { type SiemConfig } from "../components/config.ts";
import { witnessAnswers } from "../components/edge/witness.ts";
import { haproxyAnswers, holdsVip } from "../components/edge/load-balancers.ts";
import { addressIn, dockerOn } from "../components/host/host.ts";
import { ports } from "../components/ports.ts";
import { onceView } from "../components/render/clickhouse.ts";
import { watcherFiles } from "../components/render/keepalived.ts";
import { clickhouseInSync } from "../components/services/clickhouse.ts";
import { httpHealthy } from "../components/services/http-service.ts";
import { names, type Node, type Replica, type Topology } from "../components/topology.ts";
import { mintToken } from "../services/token.ts";
import { type Lag } from "../services/ingestor/feed-watch.ts";
import { partitionsOn } from "./broker.ts";
import { partsOf } from "./clickhouse-parts.ts";
import { crashLoops, statefulReplicas, rebuildCommand } from "./crash-loops.ts";
import { inContainer, type Reach, shell } from "./daemon.ts";
import { entry } from "./entry.ts";
import { type Answer, asked } from "./ledger.ts";

export interface CheckResult {
  readonly check: string;
  readonly target: string;
  readonly ok: boolean;
  readonly detail: string;
}

export interface CheckContext {
  readonly config: SiemConfig;
  readonly topology: Topology;
  readonly reach: Reach;
  readonly jwtSecret: string;
  /** Its name, as commands take it. */
  readonly stack: string;
}

/**
 * A load balancer that has let the address go may not have it for a while, on purpose, and that is not yet a failure:
 * seconds, a little more than the minute after which vip-keeper.sh ends it.
 */
const letGoSeconds = 70;
/** So long its watchers may take to see that HAProxy is back, seconds. */
const noticedSeconds = 5;

/** So many events a consumer group may be behind: the guide's own limit. */
const mostUnread = 1_000;

/** How long the probe waits for one answer, seconds, and how often it asks. */
const probeSeconds = 5;
const probeTries = 3;

/** Tenant of the probe events, so that they never mix with a real tenant's. */
const probeTenant = "siem-ha-probe";

async function attempt(check: string, target: string, run: () => Promise<string>): Promise<CheckResult> {
  try {
    return { check, target, ok: true, detail: await run() };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { check, target, ok: false, detail: message.trim().split("\n").at(-1) ?? "" };
  }
}

export interface CheckOptions {
  /** Checks that are left out, such as `probe event`. @default none */
  readonly without?: readonly string[];
  /** Seconds that what passes by itself is given for it. @default as long as that takes at most */
  readonly patience?: number;
}

/** Runs every check; a failing check never stops the others. */
export async function runChecks(
  context: CheckContext,
  { without = [], patience = letGoSeconds }: CheckOptions = {},
): Promise<CheckResult[]> {
  const { topology, reach } = context;
  const look = (check: string, target: string, run: () => Promise<string>) =>
    without.includes(check) ? [] : [attempt(check, target, run)];
  const daemons = new Map<string, Promise<ReadonlyMap<string, string>>>();
  /** What each daemon's containers are in, asked once. */
  const statesOn = (node: Node) => {
    const daemon = addressIn(reach, node);
    const known = daemons.get(daemon) ?? containerStates(reach, node);
    daemons.set(daemon, known);
    return known;
  };
  const running = async (name: string, node: Node) => {
    const state = (await statesOn(node)).get(name);
    if (state !== "running") throw new Error(state === undefined ? "does not exist" : `is ${state}`);
    return "running";
  };

  const noticed = Math.min(patience, noticedSeconds);
  const results: Promise<CheckResult>[] = [];
  for (const node of topology.nodes)
    results.push(
      ...look("node", node.name, async () => {
        await running(node.name, node);
        return routed(context, node);
      }),
    );
  for (const zk of topology.zookeeper) {
    results.push(
      ...look("zookeeper", zk.name, async () => {
        const said = await inContainer(reach, { name: zk.node.name, node: zk.node }, [
          "sh",
          "-c",
          `echo srvr | nc -w 2 127.0.0.1 ${ports.zookeeperClient.number}`,
        ]);
        const mode = /^Mode: (leader|follower)$/m.exec(said)?.[1];
        if (mode === undefined) throw new Error("not serving");
        return mode;
      }),
    );
  }
  results.push(...look("kafka", "in-sync replicas", () => kafkaInSync(context)));
  for (const replica of topology.clickhouse) {
    results.push(
      ...look("clickhouse", replica.name, async () => {
        await shell(reach, clickhouseInSync(replica));
        const active = await inContainer(reach, replica, [
          "clickhouse-client",
          "--query",
          `SELECT min(active_replicas) FROM system.replicas WHERE database = '${names.database}'`,
        ]);
        if (Number(active) !== topology.clickhouse.length) throw new Error(`sees ${active} active replicas`);
        return `sees ${active} active replicas`;
      }),
    );
  }
  for (const replica of topology.clickhouse) {
    results.push(...look("parts", replica.name, () => within(noticed, () => allParts(context, replica))));
  }
  results.push(...look("consumer lag", "Kafka", () => within(noticed, () => consumerLag(context))));
  results.push(...look("unreadable", "Kafka", () => within(noticed, () => unreadable(context))));
  const stateful = statefulReplicas(topology);
  let looping: ReturnType<typeof crashLoops> | undefined;
  for (const replica of stateful) {
    results.push(
      ...look("crash loop", replica.name, async () => {
        const why = (await (looping ??= crashLoops(reach, stateful, context.stack))).get(replica);
        if (why !== undefined) throw new Error(why);
        return "none";
      }),
    );
  }
  for (const { name, node } of topology.retention) {
    results.push(...look("retention", name, () => running(name, node)));
  }
  for (const replica of topology.ingestor) {
    results.push(
      ...look("ingestor", replica.name, async () => {
        await shell(reach, httpHealthy(replica, "/health"));
        return "healthy";
      }),
    );
  }
  for (const replica of topology.api) {
    results.push(
      ...look("api", replica.name, async () => {
        await shell(reach, httpHealthy(replica, "/v1/health"));
        return "healthy";
      }),
    );
  }
  for (const replica of topology.haproxy) {
    results.push(
      ...look("haproxy", replica.name, async () => {
        await shell(reach, haproxyAnswers(replica));
        return "answers";
      }),
    );
  }
  for (const keeper of topology.keepalived) {
    results.push(
      ...look("keepalived", keeper.name, async () => {
        await running(keeper.name, keeper.node);
        const began = Date.now();
        for (;;) {
          const barred = await barredBy(context, keeper);
          if (barred.length === 0) return "running, may have the address";
          const onPurpose = barred.every((file) => file === watcherFiles.letGo);
          const seconds = onPurpose ? patience : Math.min(patience, noticedSeconds);
          if (Date.now() - began >= seconds * 1000)
            throw new Error(`may not have the address: ${barred.join(", ")}`);
          await sleep(500);
        }
      }),
    );
  }
  results.push(
    ...look("witness", topology.witness.node.name, async () => {
      await shell(reach, witnessAnswers(topology));
      return "answers";
    }),
  );
  // One on each host: on one daemon all nodes have the same.
  const hosts = context.config.target === "local" ? topology.nodes.slice(0, 1) : topology.nodes;
  for (const node of hosts) {
    for (const { alias, name } of [topology.supervisor, topology.watchdog])
      results.push(...look(alias, hosts.length === 1 ? name : node.name, () => running(name, node)));
  }
  results.push(...look("vip", topology.vip.address, () => oneHolder(context)));
  const all = await Promise.all(results);
  // By itself: what it tells of the stack's speed would be that of the other checks.
  return [...all, ...(await Promise.all(look("probe event", "through the VIP", () => probe(context))))];
}

/** A machine's own network is its owner's; a node's on one daemon is ours, and its anchor sees it. */
async function routed({ topology, reach }: CheckContext, node: Node): Promise<string> {
  if (topology.network === undefined) return "running";
  const { gateway } = topology.network;
  const routes = await inContainer(reach, { name: node.name, node }, ["ip", "route"]);
  if (!routes.includes(` src ${node.address}`)) throw new Error(`has lost its address ${node.address}`);
  if (!routes.includes(`default via ${gateway} `))
    throw new Error(`has no default route via ${gateway}; its supervisor gives it one within a minute`);
  return "running, has its route";
}

/**
 * Why a load balancer could not take the address over now, though its Keepalived runs: the files, of those that it
 * watches, that say so. Which it watches, its own configuration tells.
 */
async function barredBy({ reach }: CheckContext, keeper: Replica): Promise<string[]> {
  const line = `sed -n 's/^ *file //p' "$KEEPALIVED_CONFIG" | while read -r file; do [ "$(cat "$file" 2> /dev/null || echo 0)" = 0 ] || echo "$file"; done`;
  return (await inContainer(reach, keeper, ["sh", "-c", line])).split("\n").filter((file) => file !== "");
}

/** Every broker is asked: one that was cut off for a while may still show a list in which nobody is missing. */
async function kafkaInSync({ config, topology, reach }: CheckContext): Promise<string> {
  const wanted = Object.entries(config.kafka.topics);
  const asked = topology.kafka.map(async (broker) => {
    const all = await partitionsOn(reach, broker);
    for (const [topic, { partitions }] of wanted) {
      const have = all.filter((partition) => partition.topic === topic).length;
      if (have !== partitions)
        throw new Error(`${broker.name}: topic ${topic} has ${have || "no"} partitions, not ${partitions}`);
    }
    const behind = all.filter(
      ({ leader, replicas, inSync }) => leader < 0 || inSync.length < replicas.length,
    ).length;
    if (behind > 0) throw new Error(`${broker.name}: ${behind} partitions lack an in-sync replica`);
  });
  const problems = (await Promise.allSettled(asked)).flatMap((answer) =>
    answer.status === "rejected" ? [(answer.reason as Error).message] : [],
  );
  if (problems.length > 0) throw new Error(problems.join("; "));
  return wanted.map(([topic, { partitions }]) => `${topic}: ${partitions} partitions in sync`).join(", ");
}

/** Tries until it succeeds, for so many seconds. @throws what was wrong the last time */
async function within<T>(seconds: number, look: () => Promise<T>): Promise<T> {
  const began = Date.now();
  for (;;) {
    try {
      return await look();
    } catch (error) {
      if (Date.now() - began >= seconds * 1000) throw error;
      await sleep(500);
    }
  }
}

/** Names of a daemon's containers, and what they are in. */
async function containerStates(reach: Reach, node: Node): Promise<ReadonlyMap<string, string>> {
  const said = await shell(reach, `${dockerOn(node)} ps --all --format '{{.Names}} {{.State}}'`);
  return new Map(said.split("\n").map((line) => line.split(" ") as [string, string]));
}

/** No part of a table is lost, broken, or waited for in vain. */
async function allParts({ reach, stack }: CheckContext, replica: Replica): Promise<string> {
  const { lost, broken, waiting } = await partsOf(reach, replica);
  if (lost.length > 0) {
    throw new Error(
      `lost for ever: ${some(lost)}: their rows are on no disk. Clients that still have them send them again (the name begins with their month); until ${replica.name} is restarted this stays here`,
    );
  }
  if (broken.length + waiting.length === 0) return "none is lost or broken";
  throw new Error(
    `${[...broken.map((part) => `broken: ${part}`), ...waiting.map((part) => `on no replica: ${part}`)].slice(0, 5).join("; ")}. If the others are well: ${rebuildCommand(stack, replica)}`,
  );
}

function some(parts: readonly string[]): string {
  return `${parts.slice(0, 5).join(", ")}${parts.length > 5 ? `, and ${parts.length - 5} more` : ""}`;
}

/** An ingestor is asked, which reaches every broker. */
async function consumerLag({ topology, reach }: CheckContext): Promise<string> {
  const errors: string[] = [];
  for (const replica of topology.ingestor) {
    let lags: Lag[];
    try {
      lags = JSON.parse(await inContainer(reach, replica, ["node", "bin/server.mjs", "lag"])) as Lag[];
    } catch (error) {
      errors.push(`${replica.name}: ${(error as Error).message}`);
      continue;
    }
    return renderLag(lags);
  }
  throw new Error(errors.join("; "));
}

/** @throws where a group is too far behind, or Kafka has deleted what it had not read */
export function renderLag(lags: readonly Lag[]): string {
  const all = lags.map(
    ({ group, unread, deletedUnread }) =>
      `${group}: ${unread} unread${deletedUnread > 0 ? `, ${deletedUnread} deleted before it read them` : ""}`,
  );
  if (lags.some(({ deletedUnread }) => deletedUnread > 0))
    throw new Error(
      `${all.join("; ")}: Kafka keeps events for retentionHours only; clients that still have them send them again`,
    );
  if (lags.some(({ unread }) => unread > mostUnread))
    throw new Error(
      `${all.join("; ")} (allowed: ${mostUnread}): do all ClickHouse replicas run? What waits is not lost`,
    );
  return all.join("; ");
}

/** What was set aside, as the first ClickHouse that answers tells. Nothing waits for it, so it fails nothing. */
async function unreadable({ topology, reach }: CheckContext): Promise<string> {
  const table = `${names.database}.${names.unreadableTable}`;
  const day = "set_aside_at > toUnixTimestamp(now()) - 86400";
  const sql = `SELECT count(), countIf(${day}), argMax(reason, set_aside_at) FROM ${table} FINAL`;
  const errors: string[] = [];
  for (const replica of topology.clickhouse) {
    try {
      return renderUnreadable(await inContainer(reach, replica, ["clickhouse-client", "--query", sql]));
    } catch (error) {
      errors.push(`${replica.name}: ${(error as Error).message}`);
    }
  }
  throw new Error(errors.join("; "));
}

/** @param line how many messages were set aside, how many of them in a day, and why the last was; by tabs */
export function renderUnreadable(line: string): string {
  const [all = "", recent = "", reason = ""] = line.split("\t");
  if (Number(all) === 0) return "no message was set aside";
  return `set aside: ${recent} messages in 24 h, ${all} in all, the last one because ${reason}; see ${names.database}.${onceView(names.unreadableTable)}`;
}

async function oneHolder({ topology, reach }: CheckContext): Promise<string> {
  const holders: string[] = [];
  for (const keeper of topology.keepalived) {
    const held = await shell(reach, holdsVip(keeper, topology)).then(
      () => true,
      () => false,
    );
    if (held) holders.push(keeper.node.name);
  }
  if (holders.length !== 1)
    throw new Error(`held by ${holders.length === 0 ? "no node" : holders.join(" and ")}`);
  return `held by ${holders[0]}`;
}

/**
 * One request to the VIP: from this machine, or, where that is not in the machines' network, by one of them, which
 * takes the way of every other client there: by the routes to the holder.
 */
async function ask(
  context: CheckContext,
  port: number,
  method: "GET" | "POST",
  path: string,
  headers: Readonly<Record<string, string>>,
  body = "",
): Promise<Answer> {
  const { config, topology, reach } = context;
  if (config.target === "local") {
    const { api, ingest } = entry(topology, config);
    const base = port === ports.haproxyApi.number ? api : ingest;
    const init = { method, headers, ...(method === "POST" ? { body } : {}) };
    const answer = await asked(`${base}${path}`, init, probeSeconds * 1000);
    if (answer.status === 0) throw new Error(answer.text);
    return answer;
  }
  const { node } = topology.witness;
  return parseAnswer(
    // The request goes in on standard input, so that the token is on no command line.
    await inContainer(
      reach,
      { name: node.name, node },
      ["nc", "-w", String(probeSeconds), topology.vip.address, String(port)],
      renderRequest(topology.vip.name, method, path, headers, body),
    ),
  );
}

/**
 * Asks again where no answer came. Whoever waits for one while the address moves never hears from the former holder
 * again, so every client must do so.
 * @throws when none came the last time either
 */
export async function answered(ask: () => Promise<Answer>): Promise<Answer & { readonly tries: number }> {
  for (let tries = 1; ; tries++) {
    try {
      return { ...(await ask()), tries };
    } catch (error) {
      if (tries === probeTries)
        throw new Error(`no answer to ${tries} requests; to the last: ${(error as Error).message}`, {
          cause: error,
        });
      await sleep(200);
    }
  }
}

/** An HTTP/1.0 request as it goes over the wire, so that the answer comes unchunked and ends with the connection. */
export function renderRequest(
  host: string,
  method: string,
  path: string,
  headers: Readonly<Record<string, string>>,
  body: string,
): string {
  const all = { host, ...headers, "content-length": String(Buffer.byteLength(body)), connection: "close" };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}`);
  return [`${method} ${path} HTTP/1.0`, ...lines, "", body].join("\r\n");
}

/** @throws when it is no HTTP answer, with its beginning. */
export function parseAnswer(raw: string): Answer {
  const status = /^HTTP\/1\.[01] (\d{3})/.exec(raw)?.[1];
  if (status === undefined) throw new Error(`no HTTP answer, but ${JSON.stringify(raw.slice(0, 80))}`);
  const end = /\r?\n\r?\n/.exec(raw);
  return { status: Number(status), text: end === null ? "" : raw.slice(end.index + end[0].length) };
}

/** One event in through the VIP, then on every replica by its id, then out through the API. */
async function probe(context: CheckContext): Promise<string> {
  const { topology, reach } = context;
  const token = await mintToken({
    secret: context.jwtSecret,
    tenantId: probeTenant,
    scope: "events:write events:read",
    ttlSeconds: 300,
    subject: "verify",
  });
  const id = randomUUID();
  const began = Date.now();
  const authorization = `Bearer ${token}`;
  const event = JSON.stringify({
    event_id: id,
    event_timestamp: Math.floor(began / 1000),
    source_type: "probe",
    raw_event: "siem-ha verify",
  });
  const headers = { authorization, "content-type": "application/json" };
  const posted = await answered(() =>
    ask(context, ports.haproxyIngest.number, "POST", "/v1/events", headers, event),
  );
  if (posted.status !== 202) throw new Error(`the ingestor answered ${posted.status}: ${posted.text}`);
  const acknowledged = Date.now();
  const deadline = acknowledged + 60_000;
  const missing = new Set(topology.clickhouse);
  while (missing.size > 0) {
    for (const replica of missing) {
      const count = await inContainer(reach, replica, [
        "clickhouse-client",
        "--query",
        `SELECT count() FROM ${names.database}.${names.eventsTable} WHERE tenant_id = '${probeTenant}' AND event_id = '${id}'`,
      ]);
      if (Number(count) > 0) missing.delete(replica);
    }
    if (missing.size > 0 && Date.now() > deadline) {
      throw new Error(
        `acknowledged, but after 60 s not on ${[...missing].map(({ name }) => name).join(", ")}`,
      );
    }
    if (missing.size > 0) await sleep(100);
  }
  const readable = Date.now();
  const read = await answered(() =>
    ask(context, ports.haproxyApi.number, "GET", `/v1/events/${id}`, { authorization }),
  );
  if (read.status !== 200) throw new Error(`on every replica, but the API answered ${read.status}`);
  const unheard = posted.tries + read.tries - 2;
  const again = unheard === 0 ? "" : `; requests without an answer: ${unheard}`;
  return `acknowledged in ${acknowledged - began} ms, on ${topology.clickhouse.length} replicas ${readable - acknowledged} ms later, read back${again}`;
}
