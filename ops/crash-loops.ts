// Replicas with data that end again and again: what is on their disks does not let them start.

import { addressIn, dockerOn } from "../components/host/host.ts";
import { type Replica, type Topology } from "../components/topology.ts";
import { type Reach, shell } from "./daemon.ts";

/** Docker has started it so often by itself, and the last time is no longer ago than its longest pause, seconds. */
const restarts = 3;
const lately = 90;

/** The replicas of stateful services. */
export function statefulReplicas(topology: Topology): readonly Replica[] {
  return [...topology.zookeeper, ...topology.kafka, ...topology.clickhouse];
}

/** What a container's inspection says: `restarts status startedAt`. */
export function loops(said: string, now = Date.now()): boolean {
  const [count, status, started] = said.split(" ");
  if (Number(count) < restarts) return false;
  return status === "restarting" || now - Date.parse(started ?? "") < lately * 1000;
}

/** Those of the replicas that do not run, each with why, and what to do. Asks each daemon once. */
export async function crashLoops(
  reach: Reach,
  replicas: readonly Replica[],
  stack: string,
): Promise<ReadonlyMap<Replica, string>> {
  const format = "{{.Name}} {{.RestartCount}} {{.State.Status}} {{.State.StartedAt}}";
  const found = new Map<Replica, string>();
  const daemons = new Map<string, Replica[]>();
  for (const replica of replicas) {
    const daemon = addressIn(reach, replica.node);
    daemons.set(daemon, [...(daemons.get(daemon) ?? []), replica]);
  }
  const asked = [...daemons.values()].map(async (all) => {
    const docker = dockerOn(all[0]!.node);
    // One that is not there is another check's.
    const names = all.map(({ name }) => name).join(" ");
    const said = await shell(
      reach,
      `${docker} inspect --format '${format}' ${names} 2>/dev/null || true`,
    ).catch(() => "");
    for (const line of said.split("\n")) {
      const [name = "", ...rest] = line.split(" ");
      const replica = all.find((one) => `/${one.name}` === name);
      if (replica !== undefined && loops(rest.join(" ")))
        found.set(replica, await why(reach, replica, stack));
    }
  });
  await Promise.all(asked);
  return found;
}

async function why(reach: Reach, replica: Replica, stack: string): Promise<string> {
  // The line that tells is rarely the last one: a stack trace follows.
  const line = await shell(
    reach,
    `${dockerOn(replica.node)} logs --tail 200 ${replica.name} 2>&1 | grep -iE 'error|exception|fatal|cannot|unable' | grep -vE '^[[:space:]]*at |[Ee]xiting' | tail -n 1 | cut -c 1-300`,
  ).catch(() => "");
  return `${replica.name} ends again and again${line === "" ? "" : `; it says: ${line}`}. If it is its data that is broken, and the others are well: ${rebuildCommand(stack, replica)}`;
}

/** As a person types it. */
export function rebuildCommand(stack: string, replica: Replica): string {
  return `npm run rebuild -- ${stack === "local" ? "" : `-s ${stack} `}${replica.alias}`;
}
