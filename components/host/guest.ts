// A container that lives on a node: joins the anchor's namespace, with the house's limits on every one.

import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { names } from "../topology.ts";
import { type Host, type Place } from "./host.ts";

export interface GuestArgs {
  readonly place: Place;
  /** The container's name in Docker. */
  readonly containerName: string;
  /** `anchor` for the VIP pair, which is one unit with its anchor on every target. @default the node's namespace */
  readonly joins?: "anchor";
  readonly image: pulumi.Input<string>;
  readonly environment?: Readonly<Record<string, string>>;
  /** Variables with secrets, only for images that can't read files. */
  readonly secretEnvironment?: Readonly<Record<string, pulumi.Output<string>>>;
  /** @default the image's own */
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
  /** File → text. A changed text replaces the container. */
  readonly files?: Readonly<Record<string, pulumi.Input<string>>>;
  readonly volumes?: readonly {
    readonly volume: docker.Volume;
    readonly path: string;
    readonly readOnly?: boolean;
  }[];
  /** Beside the stack's own. @default none */
  readonly labels?: Readonly<Record<string, string>>;
  /** In-memory directories: path → mount options. */
  readonly tmpfs?: Readonly<Record<string, string>>;
  /** Capabilities it can't do without, as `CAP_…`. @default none */
  readonly capabilities?: readonly string[];
  /** Memory limit, MB; swap is not given beyond it. */
  readonly memoryMb: number;
  /** How much of a busy processor it gets, beside others (services/cpu.ts). @default Docker's 1024 */
  readonly cpuShares?: number;
  /**
   * Cheap liveness command. Gates do the waiting; this only shows a dead process to people.
   * @default the image's own healthcheck, if it has one
   */
  readonly liveness?: readonly string[];
  /** Seconds between SIGTERM and SIGKILL when it is removed. */
  readonly graceSeconds: number;
}

/** Makes the container. Nothing of the host is mounted into it but named volumes. */
export function guest(name: string, args: GuestArgs, opts: pulumi.CustomResourceOptions): docker.Container {
  const { host } = args.place;
  const plain = Object.entries(args.environment ?? {}).map(([key, value]) => `${key}=${value}`);
  const secret = Object.entries(args.secretEnvironment ?? {}).map(
    ([key, value]) => pulumi.interpolate`${key}=${value}`,
  );
  return new docker.Container(
    name,
    {
      name: args.containerName,
      image: args.image,
      networkMode: args.place.networkMode(args.joins ?? "node"),
      envs: [...plain, ...secret],
      ...(args.entrypoint === undefined ? {} : { entrypoints: [...args.entrypoint] }),
      ...(args.command === undefined ? {} : { command: [...args.command] }),
      uploads: Object.entries(args.files ?? {}).map(([file, content]) => ({ file, content })),
      volumes: (args.volumes ?? []).map(({ volume, path, readOnly }) => ({
        volumeName: volume.name,
        containerPath: path,
        readOnly: readOnly ?? false,
      })),
      ...(args.tmpfs === undefined ? {} : { tmpfs: { ...args.tmpfs } }),
      restart: "always",
      capabilities: { adds: [...(args.capabilities ?? [])], drops: ["ALL"] },
      securityOpts: ["no-new-privileges"],
      logDriver: "json-file",
      logOpts: { "max-size": "10m", "max-file": "3" },
      memory: args.memoryMb,
      memorySwap: args.memoryMb,
      ...(args.cpuShares === undefined ? {} : { cpuShares: args.cpuShares }),
      ...(args.liveness === undefined
        ? {}
        : {
            // Docker fills what is zero here from the image's HEALTHCHECK, and Pulumi takes that for a change.
            healthcheck: {
              tests: ["CMD", ...args.liveness],
              interval: "1m0s",
              timeout: "10s",
              startPeriod: "5s",
              retries: 3,
            },
          }),
      wait: false,
      destroyGraceSeconds: args.graceSeconds,
      labels: Object.entries({ [names.label]: host.stack, ...args.labels }).map(([label, value]) => ({
        label,
        value,
      })),
    },
    {
      ...opts,
      ...tiedTo(host),
      deleteBeforeReplace: true,
      replaceOnChanges: ["healthcheck"],
    },
  );
}

/**
 * Ties a resource to its host: it is made through the host's daemon; it is gone when the machine is, and nobody tries
 * to delete it from a dead one; and a machine that is replaced gets it again. All three are needed: `deletedWith`
 * knows nothing of replacements, `replaceWith` only of the machine's own, and the trigger catches the rest.
 */
export function tiedTo(
  host: Host,
): Pick<pulumi.CustomResourceOptions, "provider" | "deletedWith" | "replaceWith" | "replacementTrigger"> {
  const { provider, machine } = host;
  return machine === undefined
    ? { provider }
    : { provider, deletedWith: machine, replaceWith: [machine], replacementTrigger: machine.id };
}

/**
 * A named volume. Nothing about one may ever change: a changed label deletes its data. With `keep` it holds
 * data: a plan that would delete it fails before anything is touched, and only `npm run down` lifts that.
 */
export function volume(
  name: string,
  args: { readonly host: Host; readonly volumeName: string; readonly keep: boolean },
  opts: pulumi.CustomResourceOptions,
): docker.Volume {
  return new docker.Volume(
    name,
    { name: args.volumeName, labels: [{ label: names.label, value: args.host.stack }] },
    {
      ...opts,
      ...tiedTo(args.host),
      ignoreChanges: ["labels", "driver", "driverOpts"],
      // A machine's data lies on a disk of its own, which is protected instead, and outlives the machine.
      protect: args.keep && args.host.machine === undefined,
      retainOnDelete: args.keep && args.host.machine !== undefined,
    },
  );
}
