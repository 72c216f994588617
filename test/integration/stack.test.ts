// One stack's whole life on real Docker, by the commands people type: up, verify, send, read back, up again, down.

import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect as dial } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { labelOf, topologyOf } from "../../components/config.ts";
import { holdsVip } from "../../components/edge/load-balancers.ts";
import { ports } from "../../components/ports.ts";
import { names, type Replica } from "../../components/topology.ts";
import { entry } from "../../ops/entry.ts";
import { connect, inContainer, inventory, localReach, shell } from "../../ops/daemon.ts";
import { chaosLabel } from "../../ops/chaos/tools.ts";
import { type Result } from "../../ops/chaos/verdict.ts";
import { readAll } from "../../ops/ledger.ts";
import { root, stackConfig } from "../../ops/workspace.ts";
import { feedThroughUpheaval } from "./upheaval.ts";

const stackName = "test";
const config = stackConfig(stackName);
const topology = topologyOf(config);
const label = labelOf(config, stackName);
const docker = connect(config.local.dockerHost);
const reach = localReach(config.local.dockerHost);
const state = mkdtempSync(join(tmpdir(), "siem-ha-state-"));

/** Runs an operator command as npm would. */
const ops = (command: string, ...args: string[]) => opsOf(state, command, ...args);

function opsOf(
  stateDirectory: string,
  command: string,
  ...args: string[]
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ["ops/run.mjs", `ops/${command}.ts`, ...args], {
      cwd: root,
      env: { ...process.env, SIEM_HA_STATE: stateDirectory },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    child.on("close", (status) => resolve({ status, stdout, stderr }));
  });
}

/** Seed of the moments at which things are killed; `SIEM_HA_SEED` repeats a run. */
const seed = Number(process.env["SIEM_HA_SEED"] ?? Date.now() % 100_000);
let drawn = seed;
/** A number of finished steps, 1 to `most`, after which something happens. */
function moment(most: number): number {
  drawn = (drawn * 48_271 + 11) % 2_147_483_647;
  const steps = 1 + (drawn % most);
  console.log(`seed ${seed}: after ${steps} steps`);
  return steps;
}

/** Begins an `up` in a process group of its own, as a terminal does. */
function begun(args: {
  /** Called when it is at work. */
  readonly first?: () => void;
  /** Finished steps after which `then` is called. */
  readonly steps: number;
  readonly then: (child: ChildProcess) => void;
}) {
  const child = spawn(process.execPath, ["ops/run.mjs", "ops/up.ts", "-s", stackName], {
    cwd: root,
    env: { ...process.env, SIEM_HA_STATE: state },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  let said = "";
  let done = false;
  const hear = (chunk: Buffer) => {
    if (said === "") args.first?.();
    said += chunk.toString();
    const steps = said.match(/^ {2}(created|replaced|updated|deleted) /gm)?.length ?? 0;
    if (done || steps < args.steps) return;
    done = true;
    args.then(child);
  };
  child.stdout.on("data", hear);
  child.stderr.on("data", hear);
  return {
    child,
    closed: new Promise<string>((resolve) => child.once("close", () => resolve(said))),
  };
}

function signal(child: ChildProcess, name: NodeJS.Signals): void {
  if (child.pid !== undefined) process.kill(-child.pid, name);
}

function kill(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(pid, "SIGKILL");
  } catch (error) {
    // It ended by itself just now.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** A process and all that it has started, the engine and its plugins among them, which have groups of their own. */
function family({ pid }: ChildProcess): number[] {
  const rows = execFileSync("ps", ["-eo", "pid=,ppid="], { encoding: "utf8" })
    .trim()
    .split("\n")
    .map((row) => row.trim().split(/\s+/).map(Number));
  const found = pid === undefined ? [] : [pid];
  for (const parent of found) {
    for (const [child, of] of rows) if (of === parent && child !== undefined) found.push(child);
  }
  return found;
}

async function succeeds(command: string, ...args: string[]): Promise<string> {
  const result = await ops(command, ...args);
  expect(result.status, `${command}:\n${result.stdout}\n${result.stderr}`).toBe(0);
  return result.stdout;
}

/** Writes to the VIP's syslog port, and resolves when the other side has read to the end. */
function sendSyslog(text: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = dial({ host: topology.vip.address, port: ports.syslog.number });
    socket.setTimeout(20_000, () =>
      socket.destroy(new Error("syslog: nobody closed the connection in 20 s")),
    );
    socket.once("error", reject).once("close", (failed) => {
      if (!failed) resolve();
    });
    socket.resume().end(text);
  });
}

/** Lines like a real sshd's, a fifth of them failed logins, for machines without the shared log. */
function generatedLines(): string[] {
  return Array.from({ length: 2000 }, (_, n) =>
    n % 5 === 0
      ? `Dec 10 07:${String(n % 60).padStart(2, "0")}:01 host sshd[${n}]: Failed password for root from 192.0.2.${n % 250} port ${n} ssh2`
      : `Dec 10 07:${String(n % 60).padStart(2, "0")}:01 host sshd[${n}]: Connection closed by 192.0.2.${n % 250} [preauth]`,
  );
}

const shared = join(root, "../shared/data/OpenSSH_2k.log");
const lines = existsSync(shared)
  ? readFileSync(shared, "utf8")
      .split(/\r?\n/)
      .filter((line) => line.trim() !== "")
  : generatedLines();
const flagged = lines.filter((line) =>
  /Failed password|[Ii]nvalid user|POSSIBLE BREAK-IN ATTEMPT/.test(line),
).length;
const tenant = "integration";
const count = (replica: Replica, where: string) =>
  inContainer(reach, replica, [
    "clickhouse-client",
    "--query",
    `SELECT count(), uniqExact(event_id) FROM dev.events_replicated FINAL WHERE tenant_id = '${tenant}'${where}`,
  ]);

/** Anonymous volumes carry no label, so what a stack left of them shows only in the difference. */
/** Those of another stack beside it come and go by themselves. */
const allVolumes = async () =>
  (await docker.listVolumes()).Volumes.filter(
    // Docker says null where there are none.
    ({ Labels }) => ((Labels as Record<string, string> | null)?.[names.label] ?? label) === label,
  )
    .map((volume) => volume.Name)
    .sort();

const refusal =
  process.env["SIEM_HA_NO_DOCKER"] ??
  (await docker.ping().then(
    () => undefined,
    (error: unknown) => String(error),
  ));
const reachable = refusal === undefined;
const volumesBefore = reachable ? await allVolumes() : [];
if (!reachable) console.log(`skipped: ${refusal}`);

describe.skipIf(!reachable)("a stack's life", () => {
  afterAll(async () => {
    // Only what a failed test left: after a passed one there is nothing.
    const left = await inventory(docker, label);
    for (const { id } of left.containers) await docker.getContainer(id).remove({ force: true, v: true });
    for (const name of left.volumes) await docker.getVolume(name).remove();
    for (const { id } of left.networks) await docker.getNetwork(id).remove();
    rmSync(state, { recursive: true });
  });

  // A failure that cannot be had again is understood only from what was said at the time.
  afterEach(({ task }) => {
    if (task.result?.state !== "fail") return;
    const { keepalived, haproxy, ingestor, supervisor } = topology;
    for (const { name } of [...keepalived, ...haproxy, ...ingestor, supervisor]) {
      const { stdout, stderr } = spawnSync(
        "docker",
        ["--host", config.local.dockerHost, "logs", "--timestamps", "--since", "3m", name],
        { encoding: "utf8" },
      );
      const said = `${stdout}${stderr}`.split("\n").filter((line) => !/gratuitous| 202 |" 200/.test(line));
      console.log(`${name}:\n${said.sort().slice(-25).join("\n")}`);
    }
  });

  it("stops in order at Ctrl-C, and lets no second up in before", async () => {
    let second: ReturnType<typeof ops> | undefined;
    const { child, closed } = begun({
      first: () => {
        second = ops("up", "-s", stackName);
      },
      steps: moment(6),
      then: (child) => void second?.then(() => signal(child, "SIGINT")),
    });
    const said = await closed;
    const refused = await second;
    expect(refused?.stderr).toMatch(
      /The stack test is in use: npm run up is at work since .*Nothing was touched/,
    );
    expect(refused?.status).toBe(1);
    expect(child.exitCode, said).toBe(130);
    expect(said).toMatch(/Interrupted half-way: [1-9]\d* changes are done and recorded/);
    const locks = readdirSync(join(state, ".pulumi/locks/organization/siem-ha", stackName));
    expect(locks.filter((name) => name.endsWith(".json"))).toEqual([]);
  });

  // What is killed at a moment of the deploy: all that the command has started, its engine, or the command alone.
  it.each(["all", "engine", "command"] as const)("survives kill -9 half-way: %s", async (victim) => {
    const { child, closed } = begun({
      steps: moment(6),
      then: (child) => {
        const [command, ...others] = family(child);
        const victims = { command: [command], engine: others, all: [command, ...others] }[victim];
        for (const pid of victims) kill(pid);
      },
    });
    const said = await closed;
    expect(said).not.toContain("Ready after");
    // Of the one before.
    if (victim !== "all") expect(said).toContain("released the lock of an up that was killed");
    if (victim === "engine") expect(said).toContain("goes on where it stopped");
    else expect(child.signalCode, said).toBe("SIGKILL");
    expect(Object.values(await inventory(docker, label)).flat()).not.toEqual([]);
  });

  it("comes up where the killed ones stopped, and proves itself", async () => {
    const said = await succeeds("up", "-s", stackName);
    expect(said).toMatch(/Ready after \d+ s/);
    console.log(
      said
        .split("\n")
        .filter((line) => /: \d+\.\d s$|Ready after/.test(line))
        .join("\n"),
    );
    const { checkpoint } = JSON.parse(
      readFileSync(join(state, ".pulumi/stacks/siem-ha", `${stackName}.json`), "utf8"),
    ) as { checkpoint: { latest: { pending_operations?: unknown[] } } };
    expect(checkpoint.latest.pending_operations ?? []).toEqual([]);
  });

  it("refuses to touch what another state made", async () => {
    const other = mkdtempSync(join(tmpdir(), "siem-ha-state-"));
    const before = (await inventory(docker, label)).containers.map(({ id }) => id).sort();
    for (const command of ["up", "down"]) {
      const { status, stderr } = await opsOf(other, command, "-s", stackName);
      expect(status, command).not.toBe(0);
      expect(stderr, command).toMatch(/this state does not know: .*test-kafka-1.*nothing was touched/);
    }
    rmSync(other, { recursive: true });
    expect((await inventory(docker, label)).containers.map(({ id }) => id).sort()).toEqual(before);
  });

  it("verifies as JSON, every check passed", async () => {
    const results = JSON.parse(await succeeds("verify", "-s", stackName, "--json")) as { ok: boolean }[];
    expect(results.length).toBeGreaterThanOrEqual(9 + 3 + 1 + 3 + 3 + 3 + 2 + 2 + 1 + 1);
    expect(results.every((result) => result.ok)).toBe(true);
  });

  it("stores every acknowledged line exactly once on all three replicas", async () => {
    const file = join(state, "lines.log");
    writeFileSync(file, lines.join("\n"));
    const said = await succeeds("send", file, "-s", stackName, "--tenant", tenant);
    console.log(said.trim());
    expect(said).toContain(`${lines.length} of ${lines.length} lines acknowledged`);
    for (const replica of topology.clickhouse) {
      await expect
        .poll(() => count(replica, ""), { timeout: 30_000 })
        .toBe(`${lines.length}\t${lines.length}`);
    }
  });

  it("flags the threats, and raises an alert for each", async () => {
    expect(flagged).toBeGreaterThan(0);
    for (const replica of topology.clickhouse) {
      expect(await count(replica, " AND is_threat = 1")).toBe(`${flagged}\t${flagged}`);
      await expect
        .poll(
          () =>
            inContainer(reach, replica, [
              "clickhouse-client",
              "--query",
              `SELECT uniqExact(event_id) FROM dev.alerts_replicated WHERE tenant_id = '${tenant}'`,
            ]),
          { timeout: 30_000 },
        )
        .toBe(String(flagged));
    }
  });

  it("shows a tenant its own events through the VIP, and nobody else's", async () => {
    const { api } = entry(topology, config);
    const total = async (who: string) => {
      const token = (await succeeds("secret", "token", "-s", stackName, "--tenant", who)).trim();
      const answer = await fetch(`${api}/v1/stats?from=0&to=${Math.floor(Date.now() / 1000) + 86400}`, {
        headers: { authorization: `Bearer ${token}` },
      });
      expect(answer.status).toBe(200);
      return ((await answer.json()) as { total: number }).total;
    };
    expect(await total(tenant)).toBe(lines.length);
    expect(await total("somebody-else")).toBe(0);
    expect((await fetch(`${api}/v1/stats`)).status).toBe(401);
  });

  // Syslog has no published port, so without a way to the VIP it can't be reached.
  it.skipIf(!entry(topology, config).throughVip)(
    "stores each line of syslog that comes over the VIP's port once, for the configured tenant",
    async () => {
      const { syslog } = config.ingestor;
      if (syslog === undefined) throw new Error("Pulumi.test.yaml asks for no syslog");
      const { api, ingest } = entry(topology, config);
      const minted = await succeeds("secret", "token", "-s", stackName, "--tenant", syslog.tenant);
      const seen = async () =>
        (await readAll({ api, ingest, token: minted.trim() })).map((one) => one.raw_event);
      const time = new Date().toISOString();
      const line = (text: string) => `<38>1 ${time} bastion sshd 4711 - - ${text}`;
      const framed = Array.from({ length: 50 }, (_, n) => line(`ends with its line: ${n}`));
      // Octets are no characters, and a counted message may have several lines.
      const counted = Array.from({ length: 50 }, (_, n) => line(`is counted: größer,\n${n}`));
      const connections = [
        framed.map((one) => `${one}\n`),
        counted.map((one) => `${Buffer.byteLength(one)} ${one}`),
        // Each frame is looked at by itself.
        [
          `${line("first of both")}\n`,
          `${Buffer.byteLength(line("second of both"))} ${line("second of both")}`,
        ],
      ];
      expect(await seen()).toEqual([]);
      await Promise.all(connections.map((frames) => sendSyslog(frames.join(""))));
      const sent = [...framed, ...counted, line("first of both"), line("second of both")].sort();
      await expect.poll(async () => (await seen()).sort(), { timeout: 60_000, interval: 500 }).toEqual(sent);
    },
  );

  // A machine that stalls for a third of a second loses three advertisements, and then the address rightly moves once
  // more; what is wrong moves it each time.
  it("moves the VIP when the holder's HAProxy stops, and serves on", { retry: 2 }, async () => {
    const { api } = entry(topology, config);
    const held = (keeper: (typeof topology.keepalived)[number]) =>
      shell(reach, holdsVip(keeper, topology)).then(
        () => true,
        () => false,
      );
    const began = Math.floor(Date.now() / 1000);
    const holders = await Promise.all(topology.keepalived.map(held));
    expect(holders.filter(Boolean)).toHaveLength(1);
    const proxy = topology.haproxy[holders.indexOf(true)];
    const other = topology.keepalived[holders.indexOf(false)];
    if (proxy === undefined || other === undefined) throw new Error("the pair is not a pair");
    await docker.getContainer(proxy.name).stop({ t: 1 });
    try {
      await expect.poll(() => held(other), { timeout: 30_000 }).toBe(true);
      await expect
        .poll(
          async () =>
            (await fetch(`${api}/v1/health`, { signal: AbortSignal.timeout(1000) }).catch(() => undefined))
              ?.status,
          { timeout: 30_000 },
        )
        .toBe(200);
    } finally {
      await docker.getContainer(proxy.name).start();
    }
    try {
      // It comes back as a backup: the address stays where it is.
      let said = "";
      await expect
        .poll(async () => (said = await succeeds("verify", "-s", stackName)), { timeout: 60_000 })
        .toContain("held by");
      expect(said).toContain(`held by ${other.node.name}`);
    } catch (error) {
      for (const { name } of [...topology.haproxy, ...topology.keepalived]) {
        const asked = ["logs", "--timestamps", "--since", String(began), name];
        const { stdout, stderr } = spawnSync("docker", asked, { encoding: "utf8" });
        console.log(`${name} since ${began}:\n${stdout}${stderr}`);
      }
      throw error;
    }
  });

  it("shows readers what it acknowledged, once each, whatever comes in and whatever restarts", async () => {
    const { api, ingest } = entry(topology, config);
    const minted = await succeeds("secret", "token", "-s", stackName, "--tenant", "mixture");
    const outcome = await feedThroughUpheaval({ api, ingest, token: minted.trim() }, docker, topology);
    const { acknowledged, undecided, ...settlement } = outcome;
    console.log(`${acknowledged} random events acknowledged, ${undecided} posts without an answer`);
    expect(settlement).toEqual({ lost: [], twice: [], uninvited: [], repeated: [] });
    expect(acknowledged).toBeGreaterThan(100);
    for (const replica of topology.clickhouse) {
      const stored = await inContainer(reach, replica, [
        "clickhouse-client",
        "--query",
        `SELECT uniqExact(event_id) FROM ${names.database}.${names.eventsTable} WHERE tenant_id = 'mixture'`,
      ]);
      expect(Number(stored), replica.name).toBeGreaterThanOrEqual(acknowledged);
    }
  });

  it("keeps the failover contract under load, by the fast half of it", async () => {
    const file = join(state, "chaos.json");
    const said = await succeeds(
      ...(["chaos/chaos", "--fast", "-s", stackName, "--break-stack", stackName, "--json", file] as const),
    );
    console.log(said.trim());
    const { results } = JSON.parse(readFileSync(file, "utf8")) as { results: Result[] };
    expect(results).toHaveLength(6);
    for (const { scenario, measured, broken } of results) {
      expect(broken, scenario).toEqual([]);
      expect(measured, scenario).toMatchObject({ lost: [], twice: [], uninvited: [], manualSteps: [] });
      expect(measured?.acknowledged, scenario).toBeGreaterThan(0);
    }
    // Nothing of it stays, and nothing is left paused or down.
    const left = await docker.listContainers({ all: true, filters: { label: [`${chaosLabel}=${label}`] } });
    expect(left).toEqual([]);
    const states = (await inventory(docker, label)).containers.map(({ state: running }) => running);
    expect(new Set(states)).toEqual(new Set(["running"]));
  });

  it("brings back a replica of each service that has lost its data", async () => {
    const [clickhouse, broker, zookeeper, proxy] = [
      topology.clickhouse[1]!,
      topology.kafka[2]!,
      topology.zookeeper[0]!,
      topology.haproxy[0]!,
    ];
    const stored = (replica: Replica) =>
      inContainer(reach, replica, [
        ...["clickhouse-client", "--query"],
        `SELECT uniqExact(event_id) FROM ${names.database}.${names.eventsTable}`,
      ]);
    const before = Number(await stored(clickhouse));
    const file = join(state, "lost.log");
    const sent = lines.slice(0, 500);
    writeFileSync(file, sent.join("\n"));
    const said = await succeeds("send", file, "-s", stackName, "--tenant", "lost");
    expect(said).toContain(`${sent.length} of ${sent.length} lines acknowledged`);
    // At once: of what is in Kafka some is stored, some has a second replica, some is committed.
    for (const name of [clickhouse.name, broker.name, zookeeper.name, proxy.name]) {
      await docker.getContainer(name).remove({ force: true, v: true });
    }
    for (const name of [
      `${clickhouse.name}-data`,
      `${broker.name}-data`,
      `${zookeeper.name}-data`,
      `${zookeeper.name}-log`,
      `${proxy.name}-config`,
    ]) {
      await docker.getVolume(name).remove();
    }
    // It ends with 0 only if every check passes, with its probe event on all replicas.
    const up = await succeeds("up", "-s", stackName);
    expect(up).toContain(`${clickhouse.alias} had lost ${names.eventsTable}`);
    for (const replica of topology.clickhouse) {
      await expect
        .poll(async () => Number(await stored(replica)), { timeout: 60_000, message: replica.name })
        .toBe(before + sent.length + 1);
    }
  });

  it("changes nothing the second time", async () => {
    const said = await succeeds("up", "-s", stackName);
    expect(said).toContain("nothing changed");
    console.log(
      said
        .split("\n")
        .filter((line) => /: \d+\.\d s$|Ready after/.test(line))
        .join("\n"),
    );
  });

  it("protects nodes, network and data from any plan that would replace or delete them", () => {
    const { checkpoint } = JSON.parse(
      readFileSync(join(state, ".pulumi/stacks/siem-ha", `${stackName}.json`), "utf8"),
    ) as { checkpoint: { latest: { resources: { urn: string; type: string; protect?: boolean }[] } } };
    const kept = checkpoint.latest.resources
      .filter((resource) => resource.protect === true)
      .map((resource) => resource.urn.split("::").at(-1));
    expect(kept.sort()).toEqual(
      [
        "network",
        ...topology.nodes.map((node) => node.alias),
        ...topology.zookeeper.flatMap(({ alias }) => [`${alias}-data`, `${alias}-log`]),
        ...[...topology.kafka, ...topology.clickhouse].map(({ alias }) => `${alias}-data`),
      ].sort(),
    );
  });

  it("keeps no secret in plain text in its state", () => {
    const text = readFileSync(join(state, ".pulumi/stacks/siem-ha", `${stackName}.json`), "utf8");
    expect(text).toContain("ciphertext");
    expect(text).not.toMatch(/insecure-password|password_sha256_hex/);
  });

  it("leaves nothing behind", async () => {
    expect(await succeeds("down", "-s", stackName, "--yes")).toContain("everything is gone");
    expect(await inventory(docker, label)).toEqual({ containers: [], volumes: [], networks: [] });
    expect(await allVolumes()).toEqual(volumesBefore);
  });
});
