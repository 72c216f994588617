// The supervisor's image on real Docker: small anchors and guests crash, are killed and are stopped under its eyes.

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { baseImages, publicImages } from "../../components/images.ts";
import { names } from "../../components/topology.ts";
import { buildImage } from "../../images/build.ts";
import { ensureImages } from "../../offline/images/build.ts";
import { addressLabel, holdLabel, holdUntilLabel } from "../../services/supervisor/labels.ts";
import {
  cleanUp,
  docker,
  inside,
  logs,
  network,
  once,
  stack,
  start,
  tryDocker,
  withoutDocker,
  withoutRights,
} from "./docker.ts";

const net = "172.25.89";
const address = `${net}.222`;

describe.skipIf(withoutDocker())("the supervisor", () => {
  let anchor = "";
  let guests: string[] = [];
  let supervisor = "";
  let watchdog = "";
  const running = (container: string) =>
    tryDocker("inspect", "-f", "{{.State.Running}}", container).output === "true";
  /** It sees the network of the anchor that runs now, and not only a loopback interface. */
  const joined = (guest: string) =>
    running(guest) && inside(guest, "ip -4 addr show eth0").includes(`${net}.11/`);
  const allJoined = () => running(anchor) && guests.every(joined);
  const eventually = async (what: string, check: () => boolean, seconds = 30): Promise<void> => {
    const end = Date.now() + seconds * 1000;
    while (!check()) {
      if (Date.now() > end) {
        const states = [anchor, ...guests].map(
          (name) => `${name} ${running(name) ? "runs" : "does not run"}`,
        );
        throw new Error(`after ${seconds} s: ${what}\n${states.join("\n")}\n${logs(supervisor)}`);
      }
      await sleep(50);
    }
  };
  const idle = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"];
  const holds: string[] = [];
  const hold = (seconds: number): string => {
    const name = `${stack}-hold-${holds.length}`;
    const until = Math.floor(Date.now() / 1000) + seconds;
    docker(
      "volume",
      "create",
      "--label",
      `${holdLabel}=${stack}`,
      "--label",
      `${holdUntilLabel}=${until}`,
      name,
    );
    holds.push(name);
    return name;
  };

  beforeAll(async () => {
    await ensureImages([baseImages.debian, baseImages.node, publicImages.anchor], console.log);
    const image = buildImage("supervisor", console.log);
    const bridge = network(`--subnet=${net}.0/24`);
    anchor = start(
      "anchor",
      ...[...withoutRights, "--restart=always", `--network=${bridge}`, `--ip=${net}.11`],
      ...[publicImages.anchor, ...idle],
    );
    guests = [1, 2].map((number) =>
      start(
        `guest-${number}`,
        ...[...withoutRights, "--restart=always", `--network=container:${anchor}`],
        ...(number === 1 ? [`--label=${addressLabel}=${address}/24 eth0`] : []),
        ...[publicImages.anchor, ...idle],
      ),
    );
    const supervise = (name: string, ...envs: string[]) =>
      start(
        name,
        ...[...withoutRights, "--restart=always", "--network=none", "--read-only", "--memory=96m"],
        "--volume=/var/run/docker.sock:/var/run/docker.sock",
        ...[`--volume=${stack}-state:/var/lib/siem-ha`, `--env=STACK=${stack}`],
        ...[...envs.map((env) => `--env=${env}`), image],
      );
    supervisor = supervise("supervisor");
    watchdog = supervise("watchdog", `WATCHES=${supervisor}`, "STATE_FILE=/var/lib/siem-ha/watchdog.json");
    await eventually("it did not start", () => logs(supervisor).includes("watches over"));
    await eventually("no watchdog", () => logs(watchdog).includes(`watches over ${supervisor}`));
  }, 900_000);
  afterEach(() => {
    for (const name of holds.splice(0)) tryDocker("volume", "rm", name);
  });
  afterAll(() => {
    cleanUp();
    tryDocker("volume", "rm", `${stack}-state`);
  });

  const [first, second] = [() => guests[0] ?? "", () => guests[1] ?? ""];

  it("re-joins the guests of an anchor that was restarted", async () => {
    docker("restart", "--time=1", anchor);
    await eventually("not re-joined", allJoined);
  }, 60_000);

  it("starts an anchor that was killed, and re-joins its guests", async () => {
    docker("kill", anchor);
    await eventually("not re-joined", allJoined);
  }, 60_000);

  it("starts a guest that was killed", async () => {
    docker("kill", second());
    await eventually("not started", allJoined);
  }, 60_000);

  it("copes with an anchor and its guests that are killed together, and with a second crash while it mends", async () => {
    docker("kill", anchor, ...guests);
    await eventually("the anchor is down", () => running(anchor));
    docker("kill", anchor);
    await eventually("not mended", allJoined);
  }, 60_000);

  it("leaves alone what an operator has stopped, through its own restart and the anchor's", async () => {
    docker("stop", "--time=2", second());
    await sleep(4_000);
    expect(running(second())).toBe(false);
    docker("kill", supervisor);
    await eventually("the supervisor is not started", () => running(supervisor));
    docker("restart", "--time=1", anchor);
    await eventually("not re-joined", () => joined(first()));
    await sleep(4_000);
    expect(running(second())).toBe(false);
    docker("start", second());
    await eventually("not joined", allJoined);
  }, 60_000);

  it("is started by its watchdog where it was killed, and mends what was killed with it", async () => {
    docker("kill", supervisor, second());
    await eventually("the supervisor is not started", () => running(supervisor));
    await eventually("not started", allJoined);
    // That looks after nothing else.
    expect(logs(watchdog)).not.toContain(second());
  }, 60_000);

  it("starts its watchdog where that was killed", async () => {
    docker("kill", watchdog);
    await eventually("the watchdog is not started", () => running(watchdog));
  }, 60_000);

  it("stays down where an operator has stopped it, and no longer", async () => {
    docker("stop", "--time=2", supervisor);
    await sleep(4_000);
    expect(running(supervisor)).toBe(false);
    docker("start", supervisor);
    docker("kill", supervisor);
    await eventually("the supervisor is not started", () => running(supervisor));
  }, 60_000);

  it("stands back while somebody is at work, and mends what is left afterwards", async () => {
    const mark = hold(300);
    await eventually("does not stand back", () => /stands back/.test(logs(supervisor)));
    docker("kill", second());
    await sleep(4_000);
    expect(running(second())).toBe(false);
    docker("volume", "rm", mark);
    await eventually("not started", allJoined);
  }, 60_000);

  it("goes on when a hold is over that nobody took back", async () => {
    const mark = hold(3);
    docker("kill", second());
    expect(running(second())).toBe(false);
    await eventually("not started", allJoined);
    await eventually("the hold is still there", () => tryDocker("volume", "inspect", mark).code !== 0, 40);
  }, 90_000);

  it("takes the address off a node whose keeper of it was killed, even in a hold", async () => {
    const held = () => inside(anchor, "ip -4 addr show eth0").includes(`${address}/`);
    const add = ["ip", "addr", "add", `${address}/24`, "dev", "eth0"];
    once(`--network=container:${anchor}`, "--cap-add=NET_ADMIN", publicImages.anchor, ...add);
    expect(held()).toBe(true);
    // The other guest's end is none of its business.
    docker("kill", second());
    await eventually("not started", allJoined);
    expect(held()).toBe(true);
    hold(300);
    docker("kill", first());
    await eventually("still there", () => !held());
    expect(running(first())).toBe(false);
    for (const name of holds.splice(0)) docker("volume", "rm", name);
    await eventually("not started", allJoined);
  }, 60_000);

  it("gives an anchor its route and its address again, without a restart", async () => {
    const routes = () => inside(anchor, "ip route");
    const change = (line: string) =>
      once(
        ...[`--network=container:${anchor}`, "--cap-drop=ALL", "--cap-add=NET_ADMIN", "--user=0"],
        ...[publicImages.anchor, "sh", "-c", line],
      );
    const isWhole = () => routes().includes(`default via ${net}.1 `) && allJoined();
    const started = inside(anchor, "cat /proc/1/stat");
    expect(routes()).toContain(`default via ${net}.1 `);
    for (const fault of ["ip link set eth0 down; ip link set eth0 up", "ip address flush dev eth0"]) {
      expect(change(fault)).toMatchObject({ code: 0 });
      expect(routes()).not.toContain("default");
      await eventually(`no route after ${fault}`, isWhole, 100);
    }
    // Field 22 is when it started.
    expect(inside(anchor, "cat /proc/1/stat").split(" ")[21]).toBe(started.split(" ")[21]);
  }, 240_000);

  it("does nothing about containers of another stack, or about one that was removed", async () => {
    const other = `${stack}-other`;
    docker(
      "run",
      "--detach",
      "--name",
      other,
      "--label",
      `${names.label}=another`,
      publicImages.anchor,
      ...idle,
    );
    try {
      docker("kill", other);
      const gone = start("gone", ...withoutRights, publicImages.anchor, ...idle);
      docker("rm", "--force", gone);
      await sleep(4_000);
      expect(running(other)).toBe(false);
      expect(logs(supervisor)).not.toContain("can't start");
      expect(tryDocker("inspect", gone).code).not.toBe(0);
    } finally {
      docker("rm", "--force", other);
    }
  }, 60_000);
});
