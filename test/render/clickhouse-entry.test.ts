// ClickHouse's first process, run as it is: it waits for a ZooKeeper that serves, and only for so long as it is let. On
// data that a server would take for less than it is, none starts.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, it } from "vitest";
import { ports } from "../../components/ports.ts";
import { clickhouseData, renderClickhouseEntry } from "../../components/render/clickhouse-entry.ts";
import { plan } from "../../components/topology.ts";

// Every address of 127.0.0.0/8 is this machine's.
const topology = plan({ net: "127.88.7" });
const open: { close(): unknown }[] = [];
afterEach(() => {
  for (const each of open.splice(0)) each.close();
});

/** A ZooKeeper, as far as `srvr` goes. */
async function zookeeper(slot: number, answer: () => string): Promise<Server> {
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", (asked: Buffer) => socket.end(asked.toString() === "srvr\n" ? answer() : "?"));
  });
  open.push(server);
  server.listen(ports.zookeeperClient.number, topology.zookeeper[slot - 1]?.node.address);
  await once(server, "listening");
  return server;
}

/** The script, with a word in the place of the server. */
function begin(change: (text: string) => string = (text) => text) {
  const text = change(renderClickhouseEntry(topology).replace("exec /entrypoint.sh", "exec echo started"));
  const child: ChildProcess = spawn("bash", ["-c", text], { stdio: ["ignore", "pipe", "pipe"] });
  open.push({ close: () => child.kill("SIGKILL") });
  const said: string[] = [];
  for (const stream of [child.stdout, child.stderr])
    stream?.on("data", (chunk: Buffer) => said.push(chunk.toString().trim()));
  return { child, said, ended: once(child, "close") as Promise<[number | null]> };
}

it("waits for a ZooKeeper that serves: one that only answers is not enough", async () => {
  let answer = "This ZooKeeper instance is not currently serving requests\n";
  let asked = 0;
  await zookeeper(3, () => {
    asked++;
    return answer;
  });
  const { said, ended } = begin();
  await expect.poll(() => asked, { timeout: 20_000 }).toBeGreaterThan(1);
  expect(said).toEqual([]);
  answer = "Zookeeper version: 3.9.3\nMode: follower\nNode count: 5\n";
  expect((await ended)[0]).toBe(0);
  expect(said).toEqual(["started"]);
});

it("starts at once where one serves already", async () => {
  await zookeeper(2, () => "Mode: leader\n");
  const { said, ended } = begin();
  await ended;
  expect(said).toEqual(["started"]);
});

it("starts no server that would forget a table, and names its file", async () => {
  await zookeeper(1, () => "Mode: leader\n");
  const data = mkdtempSync(join(tmpdir(), "siem-ha-entry-"));
  open.push({ close: () => rmSync(data, { recursive: true }) });
  const on = (text: string) => text.replaceAll(clickhouseData, data);
  mkdirSync(join(data, "metadata/dev"), { recursive: true });
  writeFileSync(join(data, "metadata/dev/whole.sql"), "ATTACH TABLE whole …");
  const whole = begin(on);
  expect((await whole.ended)[0]).toBe(0);
  expect(whole.said).toEqual(["started"]);
  // In current servers' databases the files stand there.
  mkdirSync(join(data, "store/8f1/8f1c"), { recursive: true });
  const file = join(data, "store/8f1/8f1c/events_replicated.sql");
  writeFileSync(file, "");
  const emptied = begin(on);
  expect((await emptied.ended)[0]).toBe(1);
  expect(emptied.said).toEqual([`error: ${file} is empty; a server that starts would forget that table`]);
});

it("starts without, and says so, when none comes", async () => {
  const { said, ended } = begin((text) => text.replaceAll("120", "1"));
  expect((await ended)[0]).toBe(0);
  expect(said.sort()).toEqual(["no ZooKeeper has served for 1 s: starting without", "started"]);
});

it("ends when it is stopped while it waits", async () => {
  const { child, said, ended } = begin((text) => text.replace("until\n", "echo waiting\nuntil\n"));
  await expect.poll(() => said, { timeout: 20_000 }).toContain("waiting");
  child.kill("SIGTERM");
  expect((await ended)[0]).toBe(0);
  expect(said).toEqual(["waiting"]);
});
