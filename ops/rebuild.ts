// `npm run rebuild`: empties the data of one replica of ZooKeeper, Kafka or ClickHouse and makes it anew from the others.

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Command } from "commander";
import { labelOf, type SiemConfig, topologyOf } from "../components/config.ts";
import { dockerOn } from "../components/host/host.ts";
import { clickhouseInSync } from "../components/services/clickhouse.ts";
import { zookeeperProbe } from "../components/services/zookeeper.ts";
import { type Replica, type Topology } from "../components/topology.ts";
import { partitionsOn } from "./broker.ts";
import { waitingParts } from "./clickhouse-parts.ts";
import { alone, confirm, parse } from "./command.ts";
import { statefulReplicas, rebuildCommand } from "./crash-loops.ts";
import { connect, type Reach, reachOf, shell } from "./daemon.ts";
import { withHold } from "./hold.ts";
import { dataVolumesOf } from "./preflight.ts";
import { ensurePulumi } from "./toolchain.ts";
import { openStack, root, stackConfig } from "./workspace.ts";

const print = (line: string) => process.stdout.write(`${line}\n`);

/** What Node is to run then: `up`, which makes the replica anew. */
export function upArguments(stackName: string): string[] {
  return [join(root, "ops/run.mjs"), "ops/up.ts", "-s", stackName];
}

/** @throws naming those that there are */
export function replicaOf(topology: Topology, alias: string): Replica {
  const found = statefulReplicas(topology).find((replica) => replica.alias === alias);
  if (found !== undefined) return found;
  throw new Error(
    `there is no replica with data called ${alias}; there are: ${statefulReplicas(topology)
      .map((replica) => replica.alias)
      .join(", ")}. Nothing was touched.`,
  );
}

/** Why the others could not give it everything: each line is one reason. */
export async function objections(
  reach: Reach,
  { kafka }: Pick<SiemConfig, "kafka">,
  topology: Topology,
  replica: Replica,
): Promise<string[]> {
  const othersOf = (all: readonly Replica[]) => all.filter((other) => other.alias !== replica.alias);
  const failing = async (
    others: readonly Replica[],
    what: string,
    look: (other: Replica) => Promise<unknown>,
  ) =>
    (
      await Promise.all(
        others.map((other) =>
          look(other).then(
            () => [],
            () => [`${other.alias} ${what}`],
          ),
        ),
      )
    ).flat();
  if (topology.zookeeper.includes(replica)) {
    return failing(othersOf(topology.zookeeper), "does not serve: together they are no quorum", (other) =>
      shell(reach, zookeeperProbe(other)),
    );
  }
  if (topology.kafka.includes(replica)) {
    const found = await Promise.all(
      othersOf(topology.kafka).map(async (other) => {
        const all = await partitionsOn(reach, other).catch(() => undefined);
        if (all === undefined) return [`${other.alias} does not answer`];
        const alone = all.filter(
          ({ leader, inSync }) =>
            leader < 0 || inSync.filter((id) => id !== replica.slot).length < kafka.minInsyncReplicas,
        );
        return alone.length === 0
          ? []
          : [
              `${other.alias} knows ${alone.length} partitions with fewer than ${kafka.minInsyncReplicas} in-sync replicas beside ${replica.alias}, such as one of ${alone[0]!.topic}`,
            ];
      }),
    );
    return found.flat();
  }
  const others = othersOf(topology.clickhouse);
  const behind = await failing(others, "does not answer, can't be written, or has not caught up", (other) =>
    shell(reach, clickhouseInSync(other)),
  );
  if (behind.length > 0) return behind;
  const waiting = await Promise.all(others.map((other) => waitingParts(reach, other)));
  return waiting.flatMap((parts, at) =>
    parts.map((part) => `${others[at]!.alias} waits for ${part}, which nobody else may have`),
  );
}

/** Removes the container and all that is in its volumes. The volumes stay: nothing about one may change. */
async function empty(reach: Reach, topology: Topology, replica: Replica): Promise<void> {
  const docker = dockerOn(replica.node);
  const all = [topology.zookeeper, topology.kafka, topology.clickhouse].find((one) => one.includes(replica))!;
  const other = all.find((one) => one !== replica)!;
  const image = await shell(
    reach,
    `${dockerOn(other.node)} inspect --format '{{.Config.Image}}' ${other.name}`,
  );
  await shell(reach, `${docker} rm --force --volumes ${replica.name} >/dev/null 2>&1 || true`);
  const volumes = dataVolumesOf(topology).filter((volume) => volume.startsWith(`${replica.name}-`));
  const mounts = volumes.map((volume) => `-v ${volume}:/empty/${volume}`).join(" ");
  await shell(
    reach,
    `${docker} run --rm --network none --user 0 ${mounts} --entrypoint find ${image} /empty -mindepth 2 -delete`,
  );
}

async function rebuild(stackName: string, alias: string, yes: boolean): Promise<void> {
  const config = stackConfig(stackName);
  const topology = topologyOf(config);
  const replica = replicaOf(topology, alias);
  const stack = await openStack(stackName, await ensurePulumi(print, config.target));
  const reach = await reachOf(config, stack);
  const against = await objections(reach, config, topology, replica);
  if (against.length > 0) {
    throw new Error(
      `The others can't give ${alias} all that it has:\n${against.map((line) => `  ${line}`).join("\n")}\nMend that first; docs/operations.md, "A disk that is lost", says what is left where nobody has it. Nothing was touched.`,
    );
  }
  print(`This deletes what ${alias} has stored, and lets it fetch everything from the others.`);
  if (!yes) await confirm(`Rebuild ${alias}?`, alias, `${rebuildCommand(stackName, replica)} --yes`);
  const work = () => empty(reach, topology, replica);
  await (config.target === "local"
    ? withHold(connect(config.local.dockerHost), labelOf(config, stackName), work)
    : work());
  print(`${alias} is empty; npm run up makes it anew`);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const program = new Command("rebuild")
    .description("empties one replica's data and makes it anew, if the others have all of it")
    .argument("<replica>", "zookeeper-1, kafka-2, clickhouse-3, …")
    .option("-s, --stack <name>", "the stack", "local")
    .option("-y, --yes", "don't ask", false)
    .action(async (alias: string, { stack, yes }: { stack: string; yes: boolean }) => {
      await alone({
        name: "npm run rebuild",
        stack,
        whereItStands: () => `Interrupted. npm run up -- -s ${stack} makes ${alias} anew if it is gone.`,
        run: () => rebuild(stack, alias, yes),
        next: () => {
          const options = { cwd: root, stdio: "inherit" } as const;
          process.exitCode = spawnSync(process.execPath, upArguments(stack), options).status ?? 1;
        },
      });
    });
  await parse(program);
  process.exit();
}
