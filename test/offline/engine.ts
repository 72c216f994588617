// One run of the real engine on the small stack, in a process of its own: `npm run up` has one run a process too,
// and several inline programs in one process were seen to end early, which the engine takes for "delete everything".
// Usage: tsx test/offline/engine.ts up|preview|refresh|destroy, with the request as JSON on standard input.

import { text } from "node:stream/consumers";
import * as command from "@pulumi/command";
import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import type { EngineEvent, PulumiFn } from "@pulumi/pulumi/automation/index.js";
import { LocalWorkspace } from "@pulumi/pulumi/automation/index.js";
import { ensurePulumiCli } from "../../offline/cli.ts";

export const image = "busybox:1.36.1";
export const secret = "correct-horse-battery";

export interface Request {
  /** Prefix of every Docker name, and value of the label. */
  readonly id: string;
  /** Pulumi's home and backend. */
  readonly home: string;
  readonly options: Options;
}

export interface Options {
  /** @default the daemon of this machine */
  readonly host?: string;
  readonly memory?: number;
  readonly restart?: string;
  readonly subnet?: string;
  readonly env?: string;
  readonly upload?: string;
  readonly guestLabel?: string;
  readonly startPeriod?: string;
  readonly tmpfs?: string;
  readonly cpuShares?: number;
  readonly trigger?: string;
  readonly update?: string;
  readonly volumeLabel?: string;
  readonly brokenGuest?: boolean;
  readonly unknownField?: boolean;
  /** Protects the anchor, as the nodes' are. */
  readonly protect?: boolean;
  /** A port of the anchor on the loopback interface. */
  readonly port?: number;
  /** A third container, with everything in it that must not be written so. */
  readonly sloppy?: boolean;
}

/** An image with a healthcheck of its own, made by the test. */
export const healthImage = (id: string): string => `${id}:health`;

function program(id: string, options: Options): PulumiFn {
  const label = { label: "siem-ha.stack", value: id };
  // The Automation API takes promises only.
  // eslint-disable-next-line @typescript-eslint/require-await
  return async () => {
    const provider = new docker.Provider("local", {
      host: options.host ?? "unix:///var/run/docker.sock",
      disableDockerDaemonCheck: true,
    });
    const opts = { provider, deleteBeforeReplace: true };
    const image = new docker.RemoteImage("image", { name: healthImage(id), keepLocally: true }, { provider });
    const subnet = options.subnet ?? "172.31.213";
    const network = new docker.Network(
      "net",
      {
        name: `${id}-net`,
        driver: "bridge",
        ipamConfigs: [
          {
            subnet: `${subnet}.0/24`,
            gateway: `${subnet}.1`,
            ipRange: `${subnet}.64/26`,
            auxAddress: { vip: `${subnet}.222` },
          },
        ],
        labels: [label],
      },
      opts,
    );
    const volume = new docker.Volume(
      "data",
      { name: `${id}-data`, labels: [label, { label: "generation", value: options.volumeLabel ?? "1" }] },
      { provider },
    );
    const anchor = new docker.Container(
      "anchor",
      {
        name: `${id}-anchor`,
        image: image.imageId,
        hostname: "node-1",
        command: ["tail", "-f", "/dev/null"],
        init: true,
        restart: options.restart ?? "always",
        memory: options.memory ?? 32,
        memorySwap: options.memory ?? 32,
        networksAdvanced: [
          { name: network.name, ipv4Address: `${subnet}.11`, aliases: ["node-1", "kafka-1"] },
        ],
        hosts: [{ host: "siem.vip", ip: `${subnet}.222` }],
        ports: [
          { internal: 9443, external: 42814, ip: "127.0.0.1", protocol: "tcp" },
          { internal: 8080, external: options.port ?? 42813, ip: "127.0.0.1", protocol: "tcp" },
        ],
        labels: [label],
        capabilities: { drops: ["ALL"] },
        securityOpts: ["no-new-privileges"],
        logDriver: "json-file",
        logOpts: { "max-size": "1m", "max-file": "1" },
        ...(options.unknownField === true && { gpus: "all" }),
      },
      { ...opts, ...(options.protect === true && { protect: true }) },
    );
    const guest = new docker.Container(
      "guest",
      {
        name: `${id}-guest`,
        image: image.imageId,
        networkMode: pulumi.interpolate`container:${anchor.id}`,
        command:
          options.brokenGuest === true
            ? ["/no/such/command"]
            : [
                "sh",
                "-c",
                "trap 'echo stopped > /data/stopped; exit 0' TERM; cat /run/secret > /data/seen; while :; do sleep 1; done",
              ],
        envs: [`MODE=${options.env ?? "one"}`, "OTHER=1"],
        destroyGraceSeconds: 10,
        labels: [label, { label: "mark", value: options.guestLabel ?? "1" }],
        volumes: [{ volumeName: volume.name, containerPath: "/data", readOnly: false }],
        tmpfs: { "/scratch": options.tmpfs ?? "size=1m" },
        uploads: [
          { file: "/run/secret", content: pulumi.secret(secret), permissions: "0400" },
          { file: "/etc/plain", content: options.upload ?? "plain" },
        ],
        healthcheck: {
          tests: ["CMD", "test", "-f", "/data/seen"],
          interval: "1m0s",
          timeout: "10s",
          startPeriod: options.startPeriod ?? "5s",
          retries: 3,
        },
        memory: 32,
        memorySwap: 32,
        ...(options.cpuShares !== undefined && { cpuShares: options.cpuShares }),
        capabilities: { adds: ["CAP_CHOWN", "CAP_DAC_OVERRIDE"], drops: ["ALL"] },
        securityOpts: ["no-new-privileges"],
        wait: false,
      },
      opts,
    );
    if (options.sloppy === true) {
      new docker.Container(
        "sloppy",
        {
          name: `${id}-sloppy`,
          image: image.imageId,
          networkMode: "none",
          command: ["tail", "-f", "/dev/null"],
          memory: 32,
          cpus: "0.50",
          capabilities: { adds: ["NET_ADMIN"] },
          healthcheck: { tests: ["CMD", "true"], interval: "60s", timeout: "10s", retries: 3 },
          labels: [label],
        },
        opts,
      );
    }
    const gate = new command.local.Command("gate", {
      create: 'cat; echo "create:$TOKEN:$PULUMI_COMMAND_STDOUT"',
      update: options.update ?? 'echo "update:$PULUMI_COMMAND_STDOUT"',
      delete: "true",
      stdin: "in ",
      environment: { TOKEN: pulumi.secret(secret) },
      triggers: [guest.id, options.trigger ?? "1"],
    });
    return {
      anchor: anchor.id,
      guest: guest.id,
      address: anchor.networkDatas.apply((datas) => datas[0]?.ipAddress),
      imageId: image.imageId,
      stdout: gate.stdout,
    };
  };
}

/** What the engine does with a resource, and the inputs that made it. */
export interface Step {
  readonly op: string;
  readonly because: readonly string[];
}

async function main(operation: string | undefined): Promise<void> {
  const { id, home, options } = JSON.parse(await text(process.stdin)) as Request;
  const cli = await ensurePulumiCli((line) => console.error(line));
  const stack = await LocalWorkspace.createOrSelectStack(
    { stackName: "offline", projectName: "offline-kit", program: program(id, options) },
    {
      pulumiCommand: cli.command,
      pulumiHome: home,
      workDir: home,
      projectSettings: { name: "offline-kit", runtime: "nodejs", backend: { url: `file://${home}` } },
      envVars: {
        PULUMI_CONFIG_PASSPHRASE: "test",
        PULUMI_BACKEND_URL: `file://${home}`,
        PULUMI_SKIP_UPDATE_CHECK: "true",
      },
    },
  );
  const steps: Record<string, Step> = {};
  const onEvent = ({ resourcePreEvent }: EngineEvent): void => {
    if (resourcePreEvent === undefined) return;
    const { urn, op, detailedDiff } = resourcePreEvent.metadata;
    // A replacement is several steps; "replace" stands for them all.
    if (op === "same" || op === "refresh" || /^(create|delete)-replace/.test(op)) return;
    const because = Object.keys(detailedDiff ?? {}).map((path) => path.replace(/[.[].*/, ""));
    steps[urn.split("::").at(-1) ?? ""] = { op, because: [...new Set(because)].sort() };
  };
  switch (operation) {
    case "up": {
      const { summary, outputs } = await stack.up({ onEvent });
      console.log(JSON.stringify({ changes: summary.resourceChanges, steps, outputs }));
      return;
    }
    case "preview":
      console.log(JSON.stringify({ changes: (await stack.preview({ onEvent })).changeSummary, steps }));
      return;
    case "refresh":
      console.log(JSON.stringify({ changes: (await stack.refresh()).summary.resourceChanges, steps }));
      return;
    case "destroy":
      console.log(JSON.stringify({ changes: (await stack.destroy()).summary.resourceChanges, steps }));
      return;
    default:
      throw new Error(`the operation must be up, preview, refresh or destroy, but is ${String(operation)}`);
  }
}

if (process.argv[1]?.endsWith("engine.ts") === true) {
  try {
    await main(process.argv[2]);
    process.exit();
  } catch (error) {
    console.error((error as Error).message);
    process.exit(1);
  }
}
