// Who may work on a stack, when others live, died, or had their process number given away.

import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Held, inTurn, type Owner, startOf, take } from "../../ops/lock.ts";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "siem-ha-lock-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

/** Somebody's file, as that process would have written it. */
function claim(owner: Partial<Owner> & { pid: number }): void {
  const whole: Owner = {
    hostname: hostname(),
    started: startOf(owner.pid) ?? "some time",
    command: "npm run up",
    since: "2026-01-01T00:00:00.000Z",
    ...owner,
  };
  writeFileSync(join(folder, `${owner.pid}.json`), JSON.stringify(whole));
}

const parent = process.ppid;

describe("take", () => {
  it("is given, and given back", async () => {
    const release = await take(folder, "npm run up");
    expect(readdirSync(folder)).toEqual([expect.stringMatching(`^${process.pid}-.*\\.json$`)]);
    release();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("refuses by name while another process lives, and leaves its file", async () => {
    claim({ pid: parent });
    await expect(take(folder, "npm run down")).rejects.toThrow(
      new RegExp(`npm run up is at work since 2026-01-01.*process ${parent} on ${hostname()}`),
    );
    await expect(take(folder, "npm run down")).rejects.toBeInstanceOf(Held);
    expect(readdirSync(folder)).toEqual([`${parent}.json`]);
  });

  it("ignores a dead process, one whose number was given away, and half a file", async () => {
    const child = spawn(process.execPath, ["-e", ""]);
    await new Promise((resolve) => child.once("close", resolve));
    claim({ pid: child.pid ?? 0 });
    claim({ pid: parent, started: "another time" });
    writeFileSync(join(folder, "1.json"), '{"pid":');
    (await take(folder, "npm run up"))();
    expect(readdirSync(folder)).toEqual([]);
  });

  it("refuses somebody of the same number on another machine, and leaves its file", async () => {
    claim({ pid: process.pid, hostname: "elsewhere" });
    await expect(take(folder, "npm run up")).rejects.toThrow(`process ${process.pid} on elsewhere`);
    expect(readdirSync(folder)).toEqual([`${process.pid}.json`]);
  });

  it("can't tell about another machine, and so refuses", async () => {
    claim({ pid: 4711, hostname: "elsewhere" });
    await expect(take(folder, "npm run up")).rejects.toThrow(/process 4711 on elsewhere/);
  });
});

describe("inTurn", () => {
  it("waits for its turn and says so once", async () => {
    claim({ pid: parent });
    const told: number[] = [];
    const order: string[] = [];
    const waiting = inTurn(
      folder,
      "second",
      ({ pid }) => {
        told.push(pid);
        order.push("waits");
        rmSync(join(folder, `${parent}.json`));
      },
      () => {
        order.push("works");
        return Promise.resolve(7);
      },
    );
    expect(await waiting).toBe(7);
    expect(told).toEqual([parent]);
    expect(order).toEqual(["waits", "works"]);
    expect(readdirSync(folder)).toEqual([]);
  });

  it("gives it back after an error", async () => {
    const failing = inTurn(
      folder,
      "one",
      () => undefined,
      () => Promise.reject(new Error("no")),
    );
    await expect(failing).rejects.toThrow("no");
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe("take, by many processes at the same moment", () => {
  it("never lets two in", async () => {
    const script = `
      import { take } from ${JSON.stringify(join(import.meta.dirname, "../../ops/lock.ts"))};
      import { mkdirSync, rmdirSync } from "node:fs";
      let entered = 0;
      while (entered < 3) {
        try {
          const release = await take(process.argv[2], "npm run up");
          mkdirSync(process.argv[2] + "/inside");
          await new Promise((resolve) => setTimeout(resolve, 5));
          rmdirSync(process.argv[2] + "/inside");
          release();
          entered++;
        } catch (error) {
          if (error.code !== undefined) throw error;
        }
      }
      process.stdout.write(String(entered));`;
    const file = join(folder, "many.mts");
    writeFileSync(file, script);
    const one = () =>
      new Promise<{ code: number | null; out: string; err: string }>((resolve) => {
        const child = spawn(process.execPath, ["--import", "tsx", file, join(folder, "lock")]);
        let out = "";
        let err = "";
        child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
        child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString()));
        child.once("close", (code) => resolve({ code, out, err }));
      });
    for (const { code, out, err } of await Promise.all([one(), one(), one()])) {
      expect(err).toBe("");
      expect([code, out]).toEqual([0, "3"]);
    }
  });
});
