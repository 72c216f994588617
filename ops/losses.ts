// What `npm run down` is about to delete, in words.

import { instanceType, nameOf } from "./away.ts";
import { readable } from "./preflight.ts";
import { type recorded } from "./workspace.ts";

/** `1 machine`, `3 machines`; undefined where there are none. */
function counted(count: number, what: string): string | undefined {
  return count === 0 ? undefined : `${count} ${what}${count === 1 ? "" : "s"}`;
}

const lines = (...found: (string | undefined)[]) => found.filter((line) => line !== undefined);

/** What goes from one Docker daemon. */
export function lossesInDocker(args: {
  readonly containers: readonly unknown[];
  readonly networks: readonly { readonly name: string }[];
  readonly volumes: readonly string[];
  /** Bytes in each volume. */
  readonly sizes: ReadonlyMap<string, number>;
  /** Volumes that stay. */
  readonly kept: ReadonlySet<string>;
}): string[] {
  const going = args.volumes.filter((name) => !args.kept.has(name));
  const data = going.filter((name) => (args.sizes.get(name) ?? 0) > 0);
  const bytes = data.reduce((sum, name) => sum + (args.sizes.get(name) ?? 0), 0);
  const volumes = counted(going.length, "volume");
  return lines(
    counted(args.containers.length, "container"),
    volumes && `${volumes}, of which ${data.length} hold data: ${readable(bytes)}`,
    ...args.networks.map(({ name }) => `the network ${name}`),
  );
}

type Resource = Awaited<ReturnType<typeof recorded>>["resources"][number];

/** What goes on AWS: what carries data or a service by name, the rest by number. */
export function lossesOnAws(resources: readonly Resource[]): string[] {
  const ofType = (type: string) => resources.filter((resource) => resource.type === type);
  const instances = ofType(instanceType);
  const disks = ofType("aws:ebs/volume:Volume");
  const buckets = ofType("aws:s3/bucket:Bucket");
  const named = new Set([...instances, ...disks, ...buckets]);
  const machines = counted(instances.length, "machine");
  const volumes = counted(disks.length, "data volume");
  return lines(
    machines &&
      `${machines} with all that runs on them: ${instances
        .map(({ urn }) => nameOf(urn))
        .sort()
        .join(", ")}`,
    volumes &&
      `${volumes} of ${disks.reduce((sum, { inputs }) => sum + (inputs?.size ?? 0), 0)} GiB together`,
    ...buckets.map((bucket) => `the bucket ${bucket.id ?? nameOf(bucket.urn)} with all backups in it`),
    counted(
      resources.filter((each) => each.type.startsWith("aws:") && !named.has(each)).length,
      "other resource",
    )?.concat(" on AWS: network, addresses, roles, alarms, image repositories, …"),
  );
}
