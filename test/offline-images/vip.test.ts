// The address on two nodes for real: Keepalived's image with its keeper, the witness's image, and cuts between them.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { baseImages, publicImages } from "../../components/images.ts";
import { ports } from "../../components/ports.ts";
import {
  keeperFiles,
  renderKeepalived,
  renderKeeperSettings,
  vipUser,
} from "../../components/render/keepalived.ts";
import { plan } from "../../components/topology.ts";
import { buildImage } from "../../images/build.ts";
import { ensureImages } from "../../offline/images/build.ts";
import {
  cleanUp,
  docker,
  inside,
  logs,
  network,
  start,
  stack,
  tryDocker,
  until,
  withoutDocker,
  withoutRights,
} from "./docker.ts";

const net = "198.18.78";
const vip = "172.25.0.222";
const cloudAddress = `${net}.100`;
const witnessToken = "witness-token-of-the-tests-0123456789abcdef";
const topology = plan({
  machines: { address: (role, zone) => `${net}.${{ lb: 10, stream: 20, store: 30 }[role] + zone}`, vip },
});
const pair = topology.keepalived;

/** Metadata and EC2 in one: hands out keys, keeps where each table points, and writes down every change. */
const cloud = `
const routes = {};
require("http").createServer((request, response) => {
  let body = "";
  request.on("data", (chunk) => (body += chunk)).on("end", () => {
    if (request.url.endsWith("/api/token")) return response.end("token");
    if (request.url.endsWith("/security-credentials/")) return response.end("role");
    if (request.url.includes("/security-credentials/"))
      return response.end(JSON.stringify({ AccessKeyId: "A", SecretAccessKey: "S", Token: "T", Expiration: new Date(Date.now() + 3600000).toISOString() }));
    const call = new URLSearchParams(body);
    if (call.get("Action") === "ReplaceRoute") {
      routes[call.get("RouteTableId")] = call.get("NetworkInterfaceId");
      console.log("routes " + JSON.stringify(routes));
    }
    const items = Object.entries(routes).map(([id, to]) => "<item><routeTableId>" + id + "</routeTableId><routeSet><item><destinationCidrBlock>${vip}/32</destinationCidrBlock><networkInterfaceId>" + to + "</networkInterfaceId></item></routeSet></item>");
    response.end("<R><routeTableSet>" + items.join("") + "</routeTableSet></R>");
  });
}).listen(80, "0.0.0.0");
`;

describe.skipIf(withoutDocker())("the address on two nodes", () => {
  const root = mkdtempSync(join(tmpdir(), `${stack}-vip-`));
  const nodes: string[] = [];
  const keepers: string[] = [];
  let cloudContainer = "";
  let witness = "";
  const write = (folder: string, name: string, text: string): void => {
    mkdirSync(join(root, folder), { recursive: true, mode: 0o755 });
    writeFileSync(join(root, folder, name), text, { mode: 0o644 });
  };
  const holders = () =>
    nodes
      .map((node) => inside(node, "ip -4 -o addr show eth0").includes(`${vip}/32`))
      .flatMap((has, i) => (has ? [i + 1] : []));
  const routes = () =>
    logs(cloudContainer)
      .split("\n")
      .filter((line) => line.startsWith("routes "))
      .at(-1) ?? "";
  /** All tables, whatever order the calls came in. */
  const allPointTo = (eni: string) => (routes().match(new RegExp(eni, "g")) ?? []).length === 2;
  /** Cuts what a node sends to another, VRRP's own packets too: it goes to a card that nobody has. */
  const cut = (from: number, to: string) =>
    neighbour(from, "replace", to, "lladdr", "02:00:00:00:00:01", "nud", "permanent");
  const rejoin = (from: number, to: string) => neighbour(from, "del", to);
  const neighbour = (from: number, action: string, to: string, ...more: string[]) =>
    docker("exec", keepers[from - 1] ?? "", "ip", "neigh", action, to, "dev", "eth0", ...more);
  const eventually = async (what: string, check: () => boolean, seconds = 20): Promise<number> => {
    const began = Date.now();
    while (!check()) {
      if (Date.now() - began > seconds * 1000) {
        const said = keepers.map((keeper) => logs(keeper).split("\n").slice(-25).join("\n")).join("\n---\n");
        throw new Error(`after ${seconds} s: ${what}; holders ${holders().join()}, ${routes()}\n${said}`);
      }
      await sleep(50);
    }
    return Date.now() - began;
  };

  beforeAll(async () => {
    await ensureImages([...Object.values(baseImages), publicImages.anchor], (line) => console.log(line));
    const images = {
      keepalived: buildImage("keepalived", console.log),
      witness: buildImage("witness", console.log),
    };
    const bridge = network(`--subnet=${net}.0/24`);
    write("cloud", "cloud.js", cloud);
    cloudContainer = start(
      "cloud",
      ...[`--network=${bridge}`, `--ip=${cloudAddress}`, `--volume=${join(root, "cloud")}:/cloud:ro`],
      ...[baseImages.node, "node", "/cloud/cloud.js"],
    );
    write("witness", "token", witnessToken);
    witness = start(
      "witness",
      ...[
        ...withoutRights,
        `--network=${bridge}`,
        `--ip=${net}.13`,
        `--volume=${join(root, "witness")}:/run/secrets:ro`,
      ],
      ...["--env=WITNESS_TOKEN_FILE=/run/secrets/token", images.witness],
    );
    for (const keeper of pair) {
      const { index, address } = keeper.node;
      const node = start(
        `node-${index}`,
        `--network=${bridge}`,
        `--ip=${address}`,
        publicImages.anchor,
        "tail",
        "-f",
        "/dev/null",
      );
      nodes.push(node);
      write(`keeper-${index}`, "keepalived.conf", renderKeepalived(topology, keeper, "eth0"));
      write(
        `settings-${index}`,
        "vip.conf",
        renderKeeperSettings({
          node: keeper.node.alias,
          rank: index === 1 ? "first" : "later",
          address,
          vip,
          peers: pair.filter((peer) => peer !== keeper).map((peer) => peer.node.address),
          port: ports.witness.number,
          witness: `http://${net}.13:${ports.witness.number}`,
          cloud: {
            region: "eu-central-1",
            dnsSuffix: "amazonaws.com",
            routeTables: { main: "rtb-1", private: "rtb-2" },
            networkInterface: `eni-${index}`,
            topic: "arn:aws:sns:eu-central-1:123456789012:alarms",
            metrics: "siem-ha/test",
          },
        }),
      );
      write(`settings-${index}`, "witness-token", witnessToken);
      keepers.push(
        start(
          `keepalived-${index}`,
          ...withoutRights,
          ...["NET_ADMIN", "NET_RAW", "SETGID", "SETUID"].map((right) => `--cap-add=${right}`),
          ...[`--network=container:${node}`, "--tmpfs=/run:rw,mode=0755", "--memory=128m"],
          `--volume=${join(root, `keeper-${index}`, "keepalived.conf")}:/etc/keepalived/keepalived.conf:ro`,
          `--volume=${join(root, `settings-${index}`)}:/etc/siem-ha:ro`,
          ...[`--env=AWS_ENDPOINT_URL=http://${cloudAddress}`, `--env=METADATA_URL=http://${cloudAddress}`],
          images.keepalived,
        ),
      );
      // The first of the pair is to have it, so that every test knows where it begins.
      if (index === 1)
        await until(node, () => inside(node, "ip -4 -o addr show eth0"), /172\.25\.0\.222/, 30);
    }
  }, 900_000);
  afterAll(() => {
    cleanUp();
    rmSync(root, { recursive: true, force: true });
  });

  it("is held by one of them, and every table points to it", async () => {
    await eventually("no routes", () => allPointTo("eni-1"));
    expect(holders()).toEqual([1]);
    expect(keeperFiles.settings).toBe("/etc/siem-ha/vip.conf");
  }, 60_000);

  it("is kept by an account of its own without rights, and HTTPS calls could be checked", () => {
    const [keeper = ""] = keepers;
    const lines = inside(
      keeper,
      "for p in /proc/[0-9]*; do echo \"$(tr '\\0' ' ' < $p/cmdline) $(grep -E '^(Uid|CapEff)' $p/status | tr -s '\\n\\t' ' ')\"; done",
    );
    const own = lines.split("\n").filter((line) => /vip-keeper|socat/.test(line) && line.includes("Uid"));
    const keeping = own.filter((line) => line.includes(`Uid: ${vipUser.uid} ${vipUser.uid}`));
    expect(keeping.length).toBeGreaterThanOrEqual(2);
    for (const line of keeping) expect(line).toContain("CapEff: 0000000000000000");
    expect(inside(keeper, "wc -c < /etc/ssl/certs/ca-certificates.crt")).toMatch(/^\d{5,}$/);
  });

  it("moves with its routes when the holder stops, and does not come back by itself", async () => {
    docker("stop", "--time=10", keepers[0] ?? "");
    const took = await eventually("not moved", () => allPointTo("eni-2"));
    expect(holders()).toEqual([2]);
    console.log(`planned takeover: routes moved ${took} ms after the stop was over`);
    // The hook did it, not the reconciler that comes by every ten seconds.
    expect(logs(keepers[1] ?? "")).not.toContain("pointed to");
    docker("start", keepers[0] ?? "");
    await sleep(3000);
    expect(holders()).toEqual([2]);
    expect(allPointTo("eni-2")).toBe(true);
  }, 60_000);

  it("stays with the lease's holder when the two don't see each other", async () => {
    // Node 2 has address and lease. Cut off from it, node 1 claims the address too, as VRRP must.
    cut(1, `${net}.12`);
    cut(2, `${net}.11`);
    const claimed = await eventually("never claimed", () =>
      logs(keepers[0] ?? "").includes("which is alive"),
    );
    await eventually("two holders", () => holders().join() === "2");
    console.log(`both claimed it: settled ${claimed} ms after the cut`);
    expect(allPointTo("eni-2")).toBe(true);
    // And it stays so: the loser does not try again while the lease is held.
    await sleep(3000);
    expect(holders()).toEqual([2]);
    rejoin(1, `${net}.12`);
    rejoin(2, `${net}.11`);
    await eventually("never back", () => logs(keepers[0] ?? "").includes("may hold"), 30);
    await sleep(2000);
    expect(holders()).toEqual([2]);
    expect(allPointTo("eni-2")).toBe(true);
  }, 120_000);

  it("leaves a holder that is cut off from everybody, and the other takes routes and all", async () => {
    cut(2, `${net}.11`);
    cut(2, `${net}.13`);
    cut(1, `${net}.12`);
    const took = await eventually("not taken over", () => allPointTo("eni-1"));
    await eventually("two holders", () => holders().join() === "1");
    console.log(`holder cut off: routes moved ${took} ms after the cut`);
    expect(logs(keepers[1] ?? "")).toContain("neither the witness nor another load balancer can be reached");
    for (const to of [`${net}.11`, `${net}.13`]) rejoin(2, to);
    rejoin(1, `${net}.12`);
    await sleep(4000);
    expect(holders()).toEqual([1]);
    expect(allPointTo("eni-1")).toBe(true);
  }, 120_000);

  it("can still move when the witness is gone and the two see each other", async () => {
    docker("stop", "--time=5", witness);
    await sleep(3000);
    expect(holders()).toEqual([1]);
    docker("stop", "--time=10", keepers[0] ?? "");
    await eventually("not moved", () => allPointTo("eni-2"));
    expect(holders()).toEqual([2]);
    docker("start", witness);
    docker("start", keepers[0] ?? "");
    await sleep(8000);
    expect(holders()).toEqual([2]);
  }, 120_000);

  it("starts a keeper that was killed again", async () => {
    const [, keeper = ""] = keepers;
    const pid = inside(keeper, "pgrep -f '^/bin/bash /usr/local/bin/vip-keeper' | head -1");
    expect(tryDocker("exec", "--user", String(vipUser.uid), keeper, "kill", "-9", pid).code).toBe(0);
    await eventually("not started again", () => {
      const now = inside(keeper, "pgrep -f '^/bin/bash /usr/local/bin/vip-keeper' | head -1");
      return /^\d+$/.test(now) && now !== pid;
    });
    await sleep(2000);
    expect(holders()).toEqual([2]);
    // What the killed one left behind has not kept the port from its successor.
    expect(logs(keeper)).not.toMatch(/Address (already )?in use/);
    expect(inside(keeper, "pgrep -c socat")).toBe("1");
  }, 60_000);
});
