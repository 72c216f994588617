// Which daemon chaos may restart: the one behind the usual socket, and no other.

import { describe, expect, it } from "vitest";
import { daemonBehind, listeningAt } from "../../../ops/chaos/docker-daemon.ts";

describe("the daemon", () => {
  it("at another address is refused", async () => {
    const other = await daemonBehind("unix:///run/other/docker.sock");
    expect(other).toEqual({
      refusal:
        "only the daemon at unix:///var/run/docker.sock can be restarted, and the stack is on unix:///run/other/docker.sock",
    });
  });
});

describe("who listens at a path", () => {
  const table = [
    "Num       RefCount Protocol Flags    Type St Inode Path",
    "000000006: 00000002 00000000 00010000 0001 01 18212206 /var/run/docker.sock",
    "000000003: 00000002 00000000 00010000 0001 01 19218610 /run/other/docker.sock",
    // A connection that somebody has accepted there.
    "00000000f: 00000002 00000000 00000000 0001 03 19257010 /var/run/docker.sock",
    "00000000a: 00000003 00000000 00000000 0001 03 17",
  ].join("\n");
  it("is told by the sockets' numbers", () => {
    expect(listeningAt(["/var/run/docker.sock", "/run/docker.sock"], table)).toEqual(["18212206"]);
    expect(listeningAt(["/run/docker.sock"], table)).toEqual([]);
  });
});
