// The rendered configs checked by the programs that will read them: what they refuse, a golden file can't know.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { renderConfigWriter } from "../../components/edge/load-balancers.ts";
import { parseConfig } from "../../components/config.ts";
import { renderHaproxy, renderStatsUsers } from "../../components/render/haproxy.ts";
import { renderMigration } from "../../components/render/clickhouse.ts";
import { renderTopics, renderTopicsCheck } from "../../components/render/kafka.ts";
import { zookeeperCommand } from "../../components/render/zookeeper.ts";
import { renderKeepalived } from "../../components/render/keepalived.ts";
import { renderGate } from "../../components/services/gate.ts";
import { plan } from "../../components/topology.ts";
import { publicImages } from "../../components/images.ts";
import { imageTag } from "../../images/build.ts";

const topology = plan();
const directory = mkdtempSync(join(tmpdir(), "siem-ha-checkers-"));
afterAll(() => rmSync(directory, { recursive: true }));

const hasImage = (image: string) => spawnSync("docker", ["image", "inspect", image]).status === 0;
/** Runs a checker of an image on a directory of this machine; the image is the one the stack runs. */
const check = (image: string, files: Record<string, string>, command: string[]) => {
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
  const mount = [`${directory}:/check:ro`];
  return spawnSync(
    "docker",
    [
      "run",
      "--rm",
      "--network",
      "none",
      "--user",
      "0",
      "-v",
      ...mount,
      "--entrypoint",
      command[0] ?? "",
      image,
    ].concat(command.slice(1)),
    { encoding: "utf8" },
  );
};
const skipWithout = (image: string) => {
  const missing = !hasImage(image);
  if (missing) console.log(`skipped: image ${image} is not on this machine`);
  return missing;
};

describe.skipIf(skipWithout(publicImages.haproxy))("haproxy -c", () => {
  const files = { "10-users.cfg": renderStatsUsers("PASSWORD"), "20-haproxy.cfg": renderHaproxy(topology) };
  const command = ["haproxy", "-c", "-f", "/check/10-users.cfg", "-f", "/check/20-haproxy.cfg"];
  it.each([
    ["", files],
    [", with syslog", { ...files, "20-haproxy.cfg": renderHaproxy(plan({ syslog: true })) }],
  ])("accepts the rendered configuration%s", (_name, rendered) => {
    const result = check(publicImages.haproxy, rendered, command);
    expect(result.stderr + result.stdout).not.toMatch(/ALERT|WARNING/);
    expect(result.status).toBe(0);
  });
  it("refuses a broken one, so the check can fail", () => {
    const broken = { ...files, "20-haproxy.cfg": files["20-haproxy.cfg"].replace("balance", "ballance") };
    expect(check(publicImages.haproxy, broken, command).status).not.toBe(0);
  });
});

describe.skipIf(skipWithout(imageTag("keepalived")))("keepalived -t", () => {
  const image = imageTag("keepalived");
  const command = ["keepalived", "-t", "-f", "/check/keepalived.conf"];
  it.each(topology.keepalived.map((keeper) => [keeper.alias, keeper] as const))(
    "accepts %s",
    (_name, keeper) => {
      const result = check(image, { "keepalived.conf": renderKeepalived(topology, keeper, "eth0") }, command);
      // Without eth0 (the check has no network), and without the files that its container makes before it starts,
      // Keepalived says so and goes on; any other complaint is ours.
      const complaints = (result.stderr + result.stdout)
        .split("\n")
        .filter(
          (line) =>
            line !== "" && !/eth0|interface|not running|no_new_privs|realpath\(\) error 2 /i.test(line),
        );
      expect(complaints.filter((line) => /unknown|invalid|missing|error/i.test(line))).toEqual([]);
    },
  );
  it("refuses a broken one, so the check can fail", () => {
    const keeper = topology.keepalived[0];
    if (keeper === undefined) throw new Error("no keepalived");
    const broken = renderKeepalived(topology, keeper, "eth0").replace("nopreempt", "nopreemptt");
    const result = check(image, { "keepalived.conf": broken }, command);
    expect(result.stderr + result.stdout).toMatch(/nopreemptt/);
  });
});

describe("sh -n", () => {
  const [haproxy] = topology.haproxy;
  if (haproxy === undefined) throw new Error("no haproxy");
  it.each([
    ["topics", renderTopics(parseConfig({ target: "local" }).kafka)],
    ["check of the topics", renderTopicsCheck(parseConfig({ target: "local" }).kafka)],
    ["migration", renderMigration(topology)],
    ["config writer", renderConfigWriter(haproxy, { config: "c", pair: "p" }, "s")],
    ["ZooKeeper's command", zookeeperCommand.at(-1) ?? ""],
    ["gate", renderGate({ probe: "true", what: "x" })],
  ])("parses %s", (_name, text) => {
    execFileSync("sh", ["-n"], { input: text });
  });
});

describe("a gate", () => {
  const sh = (text: string) => spawnSync("sh", ["-c", text], { encoding: "utf8" });
  it("passes when its probe does", () => {
    expect(sh(renderGate({ probe: "true", what: "x", seconds: 5 })).status).toBe(0);
  });
  it.each([
    ["passes where there is no next replica", "Error response from daemon: No such container: x", 0],
    ["waits where nobody says whether there is one", "ssh: connect to host i-0 port 22: timed out", 1],
  ])("%s", (_what, says, status) => {
    const next = plan().kafka[1];
    if (next === undefined) throw new Error("no kafka-2");
    const gate = renderGate({ probe: "false", what: "x", next, seconds: 0 });
    expect(sh(`docker() { echo '${says}' >&2; return 1; }\n${gate}`).status).toBe(status);
  });
  it("fails after its time, saying what it waited for and what the probe said last", () => {
    const result = sh(
      renderGate({ probe: "echo not yet; false", what: "kafka-1 to be in sync", seconds: 1 }),
    );
    expect(result.status).toBe(1);
    expect(result.stderr).toMatch(/waited 1 s for kafka-1 to be in sync; the last check said: not yet/);
  });
});
