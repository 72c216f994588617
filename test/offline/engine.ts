// One run of the real engine on the small stack, in a process of its own: `npm run up` has one run a process too,
// and several inline programs in one process were seen to end early, which the engine takes for "delete everything".
// Usage: tsx test/offline/engine.ts up|preview|refresh|destroy, with the request as JSON on standard input.

import { text } from "node:stream/consumers";
import * as command from "@pulumi/command";
import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import type { PulumiFn } from "@pulumi/pulumi/automation/index.js";
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
  readonly env?: string;
  readonly trigger?: string;
  readonly update?: string;
  readonly volumeLabel?: string;
  readonly brokenGuest?: boolean;
  readonly unknownField?: boolean;
}

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
    const busybox = new docker.RemoteImage("image", { name: image, keepLocally: true }, { provider });
    const network = new docker.Network(
      "net",
      {
        name: `${id}-net`,
        driver: "bridge",
        ipamConfigs: [{ subnet: "172.31.213.0/24", gateway: "172.31.213.1", ipRange: "172.31.213.64/26" }],
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
        image: busybox.imageId,
        hostname: "node-1",
        command: ["tail", "-f", "/dev/null"],
        restart: "always",
        memory: options.memory ?? 32,
        memorySwap: options.memory ?? 32,
        cpus: "0.5",
        networksAdvanced: [{ name: network.name, ipv4Address: "172.31.213.11", aliases: ["kafka-1"] }],
        ports: [{ internal: 8080, external: 42813, ip: "127.0.0.1" }],
        labels: [label],
        capabilities: { adds: ["CAP_NET_ADMIN"] },
        init: true,
        ...(options.unknownField === true && { gpus: "all" }),
      },
      opts,
    );
    const guest = new docker.Container(
      "guest",
      {
        name: `${id}-guest`,
        image: busybox.imageId,
        networkMode: pulumi.interpolate`container:${anchor.id}`,
        command:
          options.brokenGuest === true
            ? ["/no/such/command"]
            : [
                "sh",
                "-c",
                "trap 'echo stopped > /data/stopped; exit 0' TERM; cat /run/secret > /data/seen; while :; do sleep 1; done",
              ],
        envs: [`MODE=${options.env ?? "one"}`],
        destroyGraceSeconds: 10,
        labels: [label],
        volumes: [{ volumeName: volume.name, containerPath: "/data" }],
        uploads: [{ file: "/run/secret", content: pulumi.secret(secret), permissions: "0400" }],
        healthcheck: {
          tests: ["CMD", "test", "-f", "/data/seen"],
          interval: "1s",
          timeout: "5s",
          retries: 30,
        },
        wait: true,
        waitTimeout: 60,
      },
      opts,
    );
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
      imageId: busybox.imageId,
      stdout: gate.stdout,
    };
  };
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
  switch (operation) {
    case "up": {
      const { summary, outputs } = await stack.up();
      console.log(JSON.stringify({ changes: summary.resourceChanges, outputs }));
      return;
    }
    case "preview":
      console.log(JSON.stringify({ changes: (await stack.preview()).changeSummary }));
      return;
    case "refresh":
      console.log(JSON.stringify({ changes: (await stack.refresh()).summary.resourceChanges }));
      return;
    case "destroy":
      console.log(JSON.stringify({ changes: (await stack.destroy()).summary.resourceChanges }));
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
