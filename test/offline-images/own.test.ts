// Our own images: a tag changes exactly when what it holds changes, a bundle runs, and the VIP never outlives Keepalived.

import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { baseImages, publicImages } from "../../components/images.ts";
import { buildImage, imageTag } from "../../images/build.ts";
import { ensureImages } from "../../offline/images/build.ts";
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
  until,
  withoutDocker,
  withoutRights,
} from "./docker.ts";

const repository = join(import.meta.dirname, "../..");
const server = `
import fastify from "fastify";
import { answer } from "../answer.ts";
const app = fastify();
app.get("/health", () => answer);
process.on("SIGTERM", () => void app.close().then(() => process.exit(0)));
void app.listen({ host: "0.0.0.0", port: 8091 });
`;

describe("own images", () => {
  const root = mkdtempSync(join(tmpdir(), `${stack}-`));
  const write = (file: string, text: string): void => writeFileSync(join(root, file), text);
  beforeAll(() => {
    mkdirSync(join(root, "services/api"), { recursive: true });
    cpSync(join(repository, "images"), join(root, "images"), { recursive: true });
    symlinkSync(join(repository, "node_modules"), join(root, "node_modules"));
    write("services/api/server.ts", server);
    write("services/answer.ts", 'export const answer = "well";\n');
    write("services/unused.ts", "export {};\n");
    write("package-lock.json", "{}\n");
  });
  afterAll(() => rmSync(root, { recursive: true, force: true }));

  it("are tagged by what goes into them, and by nothing else", () => {
    const tag = imageTag("api", root);
    expect(tag).toMatch(/^siem-ha\/api:[0-9a-f]{12}$/);
    write("services/unused.ts", "export const changed = true;\n");
    expect(imageTag("api", root)).toBe(tag);
    write("services/answer.ts", 'export const answer = "better";\n');
    const changed = imageTag("api", root);
    expect(changed).not.toBe(tag);
    write("package-lock.json", '{"name":"x"}\n');
    expect(imageTag("api", root)).not.toBe(changed);
  });

  it("can't be tagged without their sources", () => {
    expect(() => imageTag("ingestor", root)).toThrow("services/ingestor/server.ts does not exist");
  });

  describe.skipIf(withoutDocker())("in Docker", () => {
    let built: string | undefined;
    beforeAll(
      () => ensureImages([...Object.values(baseImages), publicImages.anchor], (line) => console.log(line)),
      900_000,
    );
    afterEach(() => cleanUp());
    afterAll(() => {
      if (built !== undefined) tryDocker("image", "rm", built);
    });

    it("run one bundled file as an ordinary user and end by SIGTERM", async () => {
      const lines: string[] = [];
      built = buildImage("api", (line) => lines.push(line), root);
      expect(buildImage("api", (line) => lines.push(line), root)).toBe(built);
      expect(lines).toHaveLength(1);
      const net = network();
      const api = start(
        "api",
        ...withoutRights,
        "--read-only",
        `--network=${net}`,
        "--network-alias=api",
        built,
      );
      const probe = ["wget", "-qO-", "http://api:8091/health"];
      await until(api, () => once(`--network=${net}`, publicImages.anchor, ...probe).output, /better/, 30);
      expect(inside(api, "id -u")).toBe("1000");
      const started = Date.now();
      docker("stop", "--time=20", api);
      expect(Date.now() - started).toBeLessThan(10_000);
      expect(docker("inspect", "--format", "{{.State.ExitCode}}", api)).toBe("0");
    }, 120_000);

    it.each(["api", "ingestor"] as const)(
      "%s loads all of its packages before it asks for its settings",
      (name) => {
        // A bundle can lack a file that a package reads beside its code; that shows only at the start.
        const { code, output } = once(
          ...withoutRights,
          buildImage(name, (line) => console.log(line)),
        );
        expect(output).toMatch(/can't start[^]*JWT_SECRET is missing/);
        expect(code).not.toBe(0);
      },
      120_000,
    );

    it("keepalived takes the VIP, gives it up when stopped, and clears it after having been killed", async () => {
      const image = buildImage("keepalived", (line) => console.log(line));
      const config = join(root, "keepalived");
      mkdirSync(config, { recursive: true });
      const vip = "198.18.77.222";
      writeFileSync(
        join(config, "keepalived.conf"),
        `global_defs {\n  vrrp_version 3\n  script_user root\n}\n` +
          `vrrp_instance VI {\n  state BACKUP\n  interface eth0\n  virtual_router_id 51\n  priority 254\n  advert_int 0.1\n` +
          `  unicast_peer {\n    198.18.77.3\n  }\n` +
          `  virtual_ipaddress {\n    # not 10.0.0.1\n    ${vip}/24 dev eth0\n  }\n}\n`,
      );
      const node = start(
        "node",
        `--network=${network("--subnet=198.18.77.0/24")}`,
        publicImages.anchor,
        "tail",
        "-f",
        "/dev/null",
      );
      const keepalived = start(
        "ka",
        ...withoutRights,
        "--cap-add=NET_ADMIN",
        "--cap-add=NET_RAW",
        `--network=container:${node}`,
        "--tmpfs=/run",
        `--volume=${join(config, "keepalived.conf")}:/etc/keepalived/keepalived.conf:ro`,
        image,
      );
      const addresses = (): string => inside(node, "ip -4 -o addr show eth0");
      await until(keepalived, addresses, /198\.18\.77\.222/, 20);
      docker("stop", keepalived);
      expect(addresses()).not.toContain(vip);
      expect(logs(keepalived)).toContain("sent 0 priority");

      docker("start", keepalived);
      await until(keepalived, addresses, /198\.18\.77\.222/, 20);
      docker("kill", keepalived);
      expect(addresses()).toContain(vip);
      docker("start", keepalived);
      await until(keepalived, () => logs(keepalived), /taking 198\.18\.77\.222\/24 off eth0/, 20);
      await until(keepalived, addresses, /198\.18\.77\.222/, 20);
    }, 120_000);
  });
});
