// Replicas with data that end again and again: what is on their disks does not let them start.

import { dockerOn } from "../components/host/host.ts";
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

/** Why this replica does not run, and what to do; undefined if it does, or is only being started. */
export async function crashLoop(reach: Reach, replica: Replica, stack: string): Promise<string | undefined> {
  const docker = dockerOn(replica.node);
  const format = "{{.RestartCount}} {{.State.Status}} {{.State.StartedAt}}";
  const said = await shell(reach, `${docker} inspect --format '${format}' ${replica.name}`).catch(() => "");
  if (!loops(said)) return undefined;
  // The line that tells is rarely the last one: a stack trace follows.
  const line = await shell(
    reach,
    `${docker} logs --tail 200 ${replica.name} 2>&1 | grep -iE 'error|exception|fatal|cannot|unable' | grep -vE '^[[:space:]]*at |[Ee]xiting' | tail -n 1 | cut -c 1-300`,
  ).catch(() => "");
  return `${replica.name} ends again and again${line === "" ? "" : `; it says: ${line}`}. If it is its data that is broken, and the others are well: ${rebuildCommand(stack, replica)}`;
}

/** As a person types it. */
export function rebuildCommand(stack: string, replica: Replica): string {
  return `npm run rebuild -- ${stack === "local" ? "" : `-s ${stack} `}${replica.alias}`;
}
