// The watcher of HAProxy, run for real on this machine: HAProxy is a server here, and the test holds its pipe.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

const script = join(import.meta.dirname, "../../images/keepalived/proxy-watcher.sh");
const withoutBash = spawnSync("bash", ["-c", "((BASH_VERSINFO[0] >= 5))"]).status !== 0;
if (withoutBash) console.warn("the tests of HAProxy's watcher are left out: bash 5 is missing");

describe.skipIf(withoutBash)("the watcher of HAProxy", () => {
  let directory: string;
  let server: Server;
  let watcher: ChildProcess;
  let holder: ChildProcess;
  let output = "";
  /** What HAProxy does with a connection. */
  let answer: (socket: Socket) => void;
  const ok = (socket: Socket) => socket.end("HTTP/1.0 200 OK\r\n\r\nok");
  const hangs = () => undefined;

  const down = () => readFileSync(join(directory, "proxy-down"), "utf8").trim();
  const eventually = async (wanted: "0" | "1") => {
    const end = Date.now() + 20_000;
    while (down() !== wanted) {
      if (Date.now() > end) throw new Error(`proxy-down is ${down()}, not ${wanted}\n${output}`);
      await sleep(20);
    }
  };
  /** HAProxy's container lives. */
  const hold = () => spawn("bash", ["-c", `exec 3<> "${join(directory, "alive")}"; exec sleep 600`]);

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), "siem-ha-watcher-"));
    spawnSync("mkfifo", [join(directory, "alive")]);
    writeFileSync(join(directory, "proxy-down"), "1");
    output = "";
    answer = ok;
    server = createServer((socket) => {
      socket.on("error", () => undefined).once("data", () => answer(socket));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as { port: number };
    holder = hold();
    watcher = spawn("bash", [script], {
      env: {
        ...process.env,
        VIP_STATE: directory,
        PROXY_ALIVE: join(directory, "alive"),
        PROXY_HEALTH_PORT: String(port),
        // This machine may be busy.
        PROXY_PATIENCE_MS: "1000",
      },
    });
    watcher.stderr?.setEncoding("utf8").on("data", (text: string) => (output += text));
    await eventually("0");
  });
  afterEach(() => {
    watcher.kill("SIGKILL");
    holder.kill("SIGKILL");
    server.close();
    rmSync(directory, { recursive: true, force: true });
  });

  it("notices a HAProxy that hangs, though its process lives, and one that goes on", async () => {
    answer = hangs;
    await eventually("1");
    expect(output).toContain("HAProxy hangs");
    answer = ok;
    await eventually("0");
    expect(watcher.exitCode).toBeNull();
  });

  it("takes nothing but 200 for an answer", async () => {
    answer = (socket) => socket.end("HTTP/1.0 503 Service Unavailable\r\n\r\n");
    await eventually("1");
    answer = (socket) => socket.destroy();
    await sleep(500);
    expect(down()).toBe("1");
  });

  it("asks again before it believes that one hangs", async () => {
    let asked = 0;
    answer = (socket) => (asked++ === 0 ? undefined : ok(socket));
    while (asked < 5) {
      expect(down()).toBe("0");
      await sleep(20);
    }
    expect(output).not.toContain("hangs");
  });

  it("notices one that died, and its successor", async () => {
    holder.kill("SIGKILL");
    await eventually("1");
    expect(output).toContain("HAProxy is gone");
    holder = hold();
    await eventually("0");
  });

  it("starts no process for a question", async () => {
    const children = `/proc/${watcher.pid}/task/${watcher.pid}/children`;
    let asked = 0;
    const seen = new Set<string>();
    answer = (socket) => {
      asked++;
      seen.add(readFileSync(children, "utf8"));
      ok(socket);
    };
    while (asked < 5) await sleep(20);
    expect([...seen]).toEqual([""]);
  });
});
