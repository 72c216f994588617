// Why no Docker daemon answers, in words, for every way in which that can be.

import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createServer as createSocket } from "node:net";
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { ensureDockerEngine, refusalOf, usualSocket } from "../../ops/docker-engine.ts";
import { ensureDaemon } from "../../ops/toolchain.ts";

let folder = "";
const environment = { PATH: process.env["PATH"], DOCKER_HOST: process.env["DOCKER_HOST"] };
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "siem-ha-engine-"));
});
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => {
  for (const [name, value] of Object.entries(environment)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
});

const silent = () => undefined;

/** A `docker` that only says this. */
function fakeDocker(says: string, code: number): void {
  writeFileSync(join(folder, "docker"), `#!/bin/sh\necho '${says}' >&2\nexit ${code}\n`);
  chmodSync(join(folder, "docker"), 0o755);
  process.env["PATH"] = `${folder}:${environment.PATH}`;
}

/** A socket that somebody listens on while `work` runs. */
async function listening(path: string, work: () => Promise<void>): Promise<void> {
  const server = createServer((_, response) => response.end());
  await new Promise<void>((resolve) => server.listen(path, resolve));
  try {
    await work();
  } finally {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  }
}

describe("ensureDockerEngine", () => {
  it("says that there is no such socket, which setting names it, and what to do", async () => {
    await expect(ensureDockerEngine(silent, `unix://${folder}/absent.sock`)).rejects.toThrow(
      `No Docker daemon answers at unix://${folder}/absent.sock, which siem-ha:local dockerHost names: there is no socket ${folder}/absent.sock. Nothing was touched. Start that daemon, or take the setting away to use the one at ${usualSocket}.`,
    );
  });

  it("says that nobody listens on a socket that a dead daemon left", async () => {
    const path = join(folder, "dead.sock");
    spawnSync(process.execPath, [
      "-e",
      `require("net").createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, "SIGKILL"))`,
    ]);
    await expect(ensureDockerEngine(silent, `unix://${path}`)).rejects.toThrow(
      /nobody listens on the socket/,
    );
  });

  it("says that a file is no socket", async () => {
    const path = join(folder, "file.sock");
    writeFileSync(path, "");
    await expect(ensureDockerEngine(silent, `unix://${path}`)).rejects.toThrow(
      /nobody listens on the socket|is not a socket/,
    );
  });

  it("says how to be allowed", async () => {
    fakeDocker("Got permission denied while trying to connect to the Docker daemon socket", 1);
    const path = join(folder, "denied.sock");
    await listening(path, async () => {
      await expect(ensureDockerEngine(silent, `unix://${path}`)).rejects.toThrow(
        /you may not use it .*Nothing was touched. Run: sudo usermod -aG docker/,
      );
    });
  });

  it("passes on what a daemon that answers with an error says", async () => {
    fakeDocker("Error response from daemon: dial unix docker.raw.sock: connect: connection refused", 1);
    const path = join(folder, "proxy.sock");
    await listening(path, async () => {
      await expect(ensureDockerEngine(silent, `unix://${path}`)).rejects.toThrow(/docker.raw.sock: connect/);
    });
  });

  it("says that there is no docker command", async () => {
    const path = join(folder, "bare.sock");
    await listening(path, async () => {
      process.env["PATH"] = join(folder, "nothing");
      expect(await refusalOf(`unix://${path}`)).toBe("there is no docker command on PATH");
    });
  });

  it("has nothing to say when all is well", async () => {
    fakeDocker("", 0);
    const path = join(folder, "well.sock");
    await listening(path, () => ensureDockerEngine(silent, `unix://${path}`));
  });
});

describe("ensureDaemon", () => {
  it("refuses a DOCKER_HOST that is another daemon than the stack's", async () => {
    process.env["DOCKER_HOST"] = "tcp://192.0.2.1:2375";
    await expect(ensureDaemon(silent, usualSocket)).rejects.toThrow(
      /DOCKER_HOST is tcp:\/\/192.0.2.1:2375, but the stack is for unix:\/\/\/var\/run\/docker.sock. Nothing was touched/,
    );
  });

  it("sets DOCKER_HOST, so that a docker command set to another context asks the same daemon", async () => {
    fakeDocker("", 0);
    delete process.env["DOCKER_HOST"];
    const path = join(folder, "chosen.sock");
    const server = createSocket();
    await new Promise<void>((resolve) => server.listen(path, resolve));
    try {
      await ensureDaemon(silent, `unix://${path}`);
      expect(process.env["DOCKER_HOST"]).toBe(`unix://${path}`);
    } finally {
      server.close();
    }
  });
});
