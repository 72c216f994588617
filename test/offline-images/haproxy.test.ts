// The load balancer's own answers and limits, with the real HAProxy on a loopback interface of its own: half requests that
// fill one entry touch neither the others nor Keepalived's check, and no answer of its own breaks the API's form.

import { mkdtempSync, rmSync, writeFileSync, chmodSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { baseImages, publicImages } from "../../components/images.ts";
import { ports } from "../../components/ports.ts";
import { connections, renderHaproxy, renderStatsUsers } from "../../components/render/haproxy.ts";
import { ownAnswers } from "../../components/render/own-answers.ts";
import { plan } from "../../components/topology.ts";
import { ensureImages } from "../../offline/images/build.ts";
import { cleanUp, logs, once, start, stack, until, withoutDocker, withoutRights } from "./docker.ts";

/** Every node is an address of the loopback interface, so the replicas can be servers of the test. */
const topology = plan({ net: "127.0.0", syslog: true });
const [api, ingestor] = [topology.api[0]!, topology.ingestor[0]!];

/** What the clients have: requests, and half requests from so many addresses, each of 200. */
const tools = `
const net = require("node:net"), http = require("node:http");
setTimeout(() => { console.error("too slow"); process.exit(1); }, 60_000).unref();
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const ask = (port, path = "/", { method = "GET", host = "127.0.0.1", ms = 2_000, broken = false } = {}) => new Promise((resolve) => {
  const asked = http.request({ host, port, path, method, agent: false, timeout: ms, localAddress: "127.0.9.9" }, (answer) => {
    let text = "";
    answer.on("data", (chunk) => (text += chunk)).on("end", () =>
      resolve({ status: answer.statusCode, type: answer.headers["content-type"], again: answer.headers["retry-after"], text }));
  });
  asked.on("timeout", () => asked.destroy()).on("error", () => resolve({ status: 0 }));
  if (!broken) return asked.end();
  // One chunk, and when it is on its way something that is none.
  asked.setHeader("transfer-encoding", "chunked");
  asked.write("abc");
  setTimeout(() => asked.socket.write("no chunk\\r\\n"), 300);
});
const say = (port, text) => new Promise((resolve) => {
  const socket = net.connect({ host: "127.0.0.1", port, localAddress: "127.0.9.9" });
  let said = "";
  socket.on("data", (data) => (said += data)).on("error", () => {}).on("close", () =>
    resolve([said.split(" ")[1], /^content-type: (.*)\\r$/im.exec(said)?.[1]]));
  socket.write(text);
});
const half = (port, localAddress) => {
  const socket = net.connect({ host: "127.0.0.1", port, localAddress });
  const state = { socket, closed: false };
  socket.on("error", () => {}).on("close", () => (state.closed = true));
  socket.write("GET / HTTP/1.1\\r\\nhost: x\\r\\n");
  return state;
};
const flood = (port, count) => Array.from({ length: count }, (_, n) => half(port, "127.0.8." + (1 + Math.floor(n / 200))));
const open = (sockets) => sockets.filter(({ closed }) => !closed).length;
`;

describe.skipIf(withoutDocker())("HAProxy", () => {
  const directory = mkdtempSync(join(tmpdir(), `${stack}-haproxy-`));
  let proxy = "";
  /** Runs a script beside HAProxy, in its network, and returns what it printed as JSON. */
  const beside = <T>(script: string): T => {
    const { code, output } = once(
      ...["--memory=512m", `--network=container:${proxy}`, baseImages.node],
      ...[
        "node",
        "-e",
        `${tools}(async () => { console.log(JSON.stringify(await (async () => {${script}})())); process.exit(); })()`,
      ],
    );
    if (code !== 0) throw new Error(`${output}\n${logs(proxy).split("\n").slice(-10).join("\n")}`);
    return JSON.parse(output) as T;
  };

  beforeAll(async () => {
    await ensureImages([...Object.values(baseImages), publicImages.haproxy], console.log);
    const config = renderHaproxy(topology).replace("timeout server 50s", "timeout server 1s");
    writeFileSync(join(directory, "10-users.cfg"), renderStatsUsers("PASSWORD"));
    writeFileSync(join(directory, "20-haproxy.cfg"), config);
    chmodSync(directory, 0o755);
    proxy = start(
      "haproxy",
      // Its ports are below 1024 too, and nothing else is in this network.
      ...[
        ...withoutRights,
        "--memory=256m",
        "--network=none",
        "--sysctl=net.ipv4.ip_unprivileged_port_start=0",
      ],
      "--tmpfs=/var/run/haproxy:rw,mode=0770,uid=99,gid=99",
      ...[`--volume=${directory}:/check:ro`, publicImages.haproxy],
      ...["haproxy", "-W", "-db", "-f", "/check"],
    );
    await until(
      proxy,
      () =>
        once(
          `--network=container:${proxy}`,
          publicImages.anchor,
          ...["wget", "-qO-", `http://127.0.0.1:${ports.haproxyHealth.number}/`],
        ).output,
      /ok/,
    );
  }, 900_000);
  afterAll(() => {
    cleanUp();
    rmSync(directory, { recursive: true, force: true });
  });

  const others = `[
    await ask(${ports.haproxyHealth.number}), await ask(${ports.haproxyStats.number}, "/stats"),
    await ask(${ports.haproxyIngest.number}, "/v1/events"),
  ].map(({ status }) => status)`;

  it("answers its health check and at the other entries while one is full of half requests", () => {
    // More than all of HAProxy takes: without a share of its own this entry would have stopped every other.
    const seen = beside<{ full: number[]; others: number[][] }>(`
      const sockets = flood(${ports.haproxyApi.number}, ${connections.all + 500});
      await sleep(2_000);
      const full = [], others = [];
      for (let again = 0; again < 3; again++) {
        full.push((await ask(${ports.haproxyApi.number}, "/", { ms: 500 })).status);
        others.push(${others});
      }
      full.push((await ask(${ports.haproxyApi.number}, "/", { ms: 500 })).status);
      return { full, others };`);
    expect(seen.others).toEqual(Array(3).fill([200, 401, 503]));
    expect(seen.full).toEqual([0, 0, 0, 0]);
  }, 120_000);

  it("answers its health check while every public entry is full, and has the file descriptors for it", () => {
    const entries = [ports.haproxyApi, ports.haproxyIngest, ports.syslog].map(({ number }) => number);
    const seen = beside<{ full: number[]; health: number[]; stats: number }>(`
      const entries = ${JSON.stringify(entries)};
      for (const port of entries) flood(port, 1_800);
      await sleep(2_000);
      const health = [];
      for (let again = 0; again < 5; again++) health.push((await ask(${ports.haproxyHealth.number})).status);
      const stats = (await ask(${ports.haproxyStats.number}, "/stats")).status;
      const full = [];
      for (const port of entries.slice(0, 2)) full.push((await ask(port, "/", { ms: 500 })).status);
      return { full, health, stats };`);
    expect(seen).toEqual({ full: [0, 0], health: Array(5).fill(200), stats: 401 });
    expect(logs(proxy)).not.toMatch(/[Tt]oo many open files|FD limit|[Cc]annot/);
  }, 120_000);

  it("gives one address so many connections of an entry, and others theirs", () => {
    const seen = beside<{ open: number; status: number; later: number }>(`
      const sockets = Array.from({ length: ${connections.fromOne + 100} }, () => half(${ports.haproxyIngest.number}, "127.0.7.7"));
      await sleep(1_500);
      const result = { open: open(sockets), status: (await ask(${ports.haproxyIngest.number})).status };
      for (const { socket } of sockets) socket.destroy();
      await sleep(500);
      const again = half(${ports.haproxyIngest.number}, "127.0.7.7");
      await sleep(500);
      return { ...result, later: open([again]) };`);
    expect(seen).toEqual({ open: connections.fromOne, status: 503, later: 1 });
  }, 120_000);

  it("answers in the services' form where it answers itself", () => {
    interface Answer {
      readonly status: number;
      readonly type: string;
      readonly again?: string;
      readonly text: string;
    }
    const entry = { api: ports.haproxyApi.number, ingest: ports.haproxyIngest.number };
    const seen = beside<Record<string, Answer>>(`
      const all = {};
      const both = async (name, broken = false) => {
        for (const [service, port] of Object.entries(${JSON.stringify(entry)})) {
          const method = service === "api" ? "GET" : "POST";
          all[service + name] = await ask(port, "/v1/events", { method, ms: 8_000, broken });
        }
      };
      await both("503");
      // Healthy, and gone or silent as soon as it is asked anything else.
      let silent = false;
      const serve = (host, port) => http.createServer((request, answer) => {
        if (request.url.endsWith("health")) answer.end("ok");
        else if (!silent) request.socket.destroy();
      }).listen(port, host);
      serve("${api.node.address}", ${api.port});
      serve("${ingestor.node.address}", ${ingestor.port});
      await sleep(4_000);
      await both("502");
      silent = true;
      await both("504");
      await both("400", true);
      return all;`);
    for (const [service, answers] of Object.entries(ownAnswers)) {
      for (const [status, [error, message]] of Object.entries<readonly [string, string]>(answers)) {
        const answer = seen[service + status]!;
        expect([answer.status, answer.type], service + status).toEqual([Number(status), "application/json"]);
        expect(JSON.parse(answer.text)).toEqual({ error, message });
        expect(answer.again).toBe(Number(status) < 500 ? undefined : "2");
      }
    }
  }, 120_000);

  it("answers what is no request with its own pages, as the documentation says", () => {
    const seen = beside<string[][]>(`
      const half = "GET / HTTP/1.1\\r\\nhost: x\\r\\n";
      return Promise.all([
        "no HTTP\\r\\n\\r\\n",
        half + "x: " + "a".repeat(16_000) + "\\r\\n\\r\\n",
        half,
        "GET / HTTP/1.0\\r\\ncontent-length: 1\\r\\n\\r\\na",
        half + "transfer-encoding: gzip, chunked\\r\\n\\r\\n",
      ].map((text) => say(${ports.haproxyIngest.number}, text)));`);
    expect(seen).toEqual(["400", "400", "408", "413", "422"].map((status) => [status, "text/html"]));
  }, 120_000);
});
