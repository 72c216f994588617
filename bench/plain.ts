// The same program without Pulumi's engine, state and plugins: every resource it registers is made with plain
// `docker` and `sh` as soon as what it depends on is there. What `up` is measured against.
// Command line: npx tsx bench/plain.ts <stack>; prints how many seconds it took until the last gate had passed.

import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import * as pulumi from "@pulumi/pulumi";
import { project, secretKeys } from "../components/config.ts";
import { root, stackValues } from "../ops/workspace.ts";

const run = promisify(execFile);

async function docker(...args: string[]): Promise<string> {
  return (await run("docker", args)).stdout.trim();
}

interface ContainerInputs {
  readonly name: string;
  readonly image: string;
  readonly hostname?: string;
  readonly networkMode?: string;
  readonly networksAdvanced?: readonly { name: string; ipv4Address: string; aliases: readonly string[] }[];
  readonly hosts?: readonly { host: string; ip: string }[];
  readonly ports?: readonly { external: number; internal: number; ip: string }[];
  readonly envs?: readonly string[];
  readonly command?: readonly string[];
  readonly uploads?: readonly { file: string; content: string }[];
  readonly volumes?: readonly { volumeName: string; containerPath: string; readOnly: boolean }[];
  readonly tmpfs?: Readonly<Record<string, string>>;
  readonly capabilities: { readonly adds?: readonly string[]; readonly drops: readonly string[] };
  readonly memory: number;
  readonly labels: readonly { label: string; value: string }[];
  readonly healthcheck?: { readonly tests: readonly string[]; readonly interval: string };
}

async function runContainer(given: ContainerInputs): Promise<string> {
  const each = <T>(items: readonly T[] | undefined, option: (item: T) => string[]) =>
    (items ?? []).flatMap(option);
  const [network] = given.networksAdvanced ?? [];
  const id = await docker(
    "create",
    ...["--name", given.name, "--restart", "always", "--security-opt", "no-new-privileges"],
    ...["--memory", `${given.memory}m`, "--memory-swap", `${given.memory}m`],
    ...(given.hostname === undefined ? [] : ["--hostname", given.hostname]),
    ...(given.networkMode === undefined ? [] : ["--network", given.networkMode]),
    ...(network === undefined
      ? []
      : [
          ...["--network", network.name, "--ip", network.ipv4Address],
          ...network.aliases.flatMap((alias) => ["--network-alias", alias]),
        ]),
    ...each(given.hosts, ({ host, ip }) => ["--add-host", `${host}:${ip}`]),
    ...each(given.ports, ({ external, internal, ip }) => ["--publish", `${ip}:${external}:${internal}`]),
    ...each(given.envs, (env) => ["--env", env]),
    ...each(given.volumes, (volume) => [
      "--volume",
      `${volume.volumeName}:${volume.containerPath}${volume.readOnly ? ":ro" : ""}`,
    ]),
    ...each(Object.entries(given.tmpfs ?? {}), ([path, options]) => ["--tmpfs", `${path}:${options}`]),
    ...each(given.capabilities.drops, (right) => ["--cap-drop", right]),
    ...each(given.capabilities.adds, (right) => ["--cap-add", right]),
    ...each(given.labels, ({ label, value }) => ["--label", `${label}=${value}`]),
    ...(given.healthcheck === undefined
      ? []
      : ["--health-cmd", given.healthcheck.tests.slice(1).join(" "), "--health-interval", "1m"]),
    given.image,
    ...(given.command ?? []),
  );
  if ((given.uploads ?? []).length > 0) {
    const directory = mkdtempSync(join(tmpdir(), "siem-ha-plain-"));
    try {
      for (const { file, content } of given.uploads ?? []) {
        const path = join(directory, basename(file));
        writeFileSync(path, content, { mode: 0o644 });
        // An archive carries the directories that are not in the image.
        await run("sh", [
          "-c",
          'tar -C "$1" --owner 0 --group 0 --transform "s|^|$3/|" -cf - "$2" | docker cp - "$4":/',
          "sh",
          directory,
          basename(file),
          dirname(file).slice(1),
          id,
        ]);
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  }
  await docker("start", id);
  return id;
}

async function runCommand(given: Record<string, unknown>): Promise<void> {
  const running = run("sh", ["-c", String(given["create"])], {
    cwd: root,
    env: {
      ...process.env,
      ...(given["environment"] as Record<string, string> | undefined),
      SIEM_HA_ROOT: root,
    },
    maxBuffer: 64 * 1024 * 1024,
  });
  running.child.stdin?.end((given["stdin"] as string | undefined) ?? "");
  await running;
}

async function make(type: string, inputs: Record<string, unknown>): Promise<{ id: string; state: object }> {
  const label = ((inputs["labels"] ?? []) as { label: string; value: string }[]).flatMap((one) => [
    "--label",
    `${one.label}=${one.value}`,
  ]);
  switch (type) {
    case "docker:index/network:Network": {
      const [ipam] = inputs["ipamConfigs"] as {
        subnet: string;
        gateway: string;
        ipRange: string;
        auxAddress: Record<string, string>;
      }[];
      if (ipam === undefined) throw new Error("a network without addresses");
      const reserved = Object.entries(ipam.auxAddress).flatMap(([name, address]) => [
        "--aux-address",
        `${name}=${address}`,
      ]);
      const id = await docker(
        ...["network", "create", "--subnet", ipam.subnet, "--gateway", ipam.gateway],
        ...["--ip-range", ipam.ipRange, ...reserved, ...label, String(inputs["name"])],
      );
      return { id, state: inputs };
    }
    case "docker:index/volume:Volume":
      return { id: await docker("volume", "create", ...label, String(inputs["name"])), state: inputs };
    case "docker:index/remoteImage:RemoteImage": {
      const imageId = await docker("image", "inspect", "--format", "{{.Id}}", String(inputs["name"]));
      return { id: imageId, state: { ...inputs, imageId } };
    }
    case "docker:index/container:Container":
      return { id: await runContainer(inputs as unknown as ContainerInputs), state: inputs };
    case "command:local:Command":
      await runCommand(inputs);
      return { id: String(inputs["create"]).length.toString(), state: { ...inputs, stdout: "", stderr: "" } };
    case "pulumi:providers:docker":
      return { id: "provider", state: inputs };
    default:
      throw new Error(`plain docker knows nothing of ${type}`);
  }
}

/** Secrets come wrapped, as they go to the engine. */
function unwrapped(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(unwrapped);
  if (typeof value !== "object" || value === null) return value;
  if ("4dabf18193072939515e22adb298388d" in value) return unwrapped((value as { value?: unknown }).value);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, unwrapped(inner)]));
}

const stackName = process.argv[2] ?? "";
const values: Record<string, string> = {};
for (const [key, value] of Object.entries(stackValues(stackName))) {
  values[`${project}:${key}`] = typeof value === "string" ? value : JSON.stringify(value);
}
for (const key of Object.keys(secretKeys)) values[`${project}:${key}`] = randomBytes(32).toString("hex");
pulumi.runtime.setAllConfig(
  values,
  Object.keys(secretKeys).map((key) => `${project}:${key}`),
);
const began = performance.now();
await pulumi.runtime.setMocks(
  {
    newResource: async ({ type, inputs }) =>
      type.startsWith("siem:") || type === "pulumi:pulumi:Stack"
        ? { id: "", state: {} }
        : make(type, unwrapped(inputs) as Record<string, unknown>),
    call: ({ token }) => {
      throw new Error(`the program calls ${token}`);
    },
  },
  project,
  stackName,
  false,
);
await import(pathToFileURL(join(root, "index.ts")).href);
await pulumi.runtime.disconnect();
process.stdout.write(`${((performance.now() - began) / 1000).toFixed(2)}\n`);
process.exit();
