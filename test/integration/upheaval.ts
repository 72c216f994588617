// Feeds random posts through the VIP while replicas of every kind are stopped, killed and started again.

import { setTimeout as sleep } from "node:timers/promises";
import type Docker from "dockerode";
import fc from "fast-check";
import { type Topology } from "../../components/topology.ts";
import {
  asked,
  type Client,
  isPassing,
  Ledger,
  post,
  postUntilDecided,
  readAll,
  type ReadEvent,
  type Settlement,
} from "../../ops/ledger.ts";
import { judge, type Mixed, mixtures } from "./mixture.ts";

/** One replica of each kind, gone by turns: gracefully, or at once. */
async function upheaval(docker: Docker, topology: Topology): Promise<void> {
  const restart = (name: string) => docker.getContainer(name).restart({ t: 15 });
  /** Nobody starts it again but the supervisor. */
  const crash = async (name: string) => {
    await docker.getContainer(name).kill();
    for (const deadline = Date.now() + 60_000; ; await sleep(100)) {
      if ((await docker.getContainer(name).inspect()).State.Running) return;
      if (Date.now() > deadline) throw new Error(`${name} was killed, and nobody started it again in 60 s`);
    }
  };
  const { ingestor, api, kafka, clickhouse, zookeeper, haproxy } = topology;
  const turns = [
    () => restart(ingestor[1]!.name),
    () => crash(ingestor[0]!.name),
    () => crash(clickhouse[1]!.name),
    () => restart(api[2]!.name),
    () => crash(kafka[2]!.name),
    () => crash(api[0]!.name),
    () => crash(zookeeper[0]!.name),
    () => restart(clickhouse[0]!.name),
    () => restart(haproxy[0]!.name),
  ];
  await sleep(1000);
  for (const turn of turns) {
    await turn();
    await sleep(2000);
  }
}

/** What is known of an event: its own id, or the one that stands in its line. */
const idOf = ({ event_id, raw_event }: { readonly event_id: string; readonly raw_event: string }): string =>
  event_id.startsWith("mix-") ? event_id : raw_event.slice(0, Math.max(raw_event.indexOf(" "), 0));

/** Reads the newest events over and over. @returns ids that one answer had more than once */
async function repeatedInOneAnswer(client: Client, isOver: () => boolean): Promise<string[]> {
  const repeated = new Set<string>();
  let answers = 0;
  const headers = { authorization: `Bearer ${client.token}` };
  for (; !isOver(); await sleep(200)) {
    const answer = await asked(`${client.api}/v1/events?limit=1000`, { headers }, 20_000);
    if (isPassing(answer.status)) continue;
    if (answer.status !== 200) throw new Error(`the API answered ${answer.status}: ${answer.text}`);
    answers++;
    const ids = (JSON.parse(answer.text) as { events: ReadEvent[] }).events.map(({ event_id }) => event_id);
    for (const [at, id] of ids.entries()) if (ids.indexOf(id) !== at) repeated.add(id);
  }
  if (answers < 10) throw new Error(`no more than ${answers} answers were looked at`);
  return [...repeated];
}

export interface Outcome extends Settlement {
  /** What one answer of the API had more than once, at any time. */
  readonly repeated: readonly string[];
  readonly acknowledged: number;
  /** Posts whose sender gave up: nobody knows of their events, and each may be there once. */
  readonly undecided: number;
}

/**
 * Posts until the upheaval is over, each post judged by its answer, some sent again although they were acknowledged;
 * then settles what was acknowledged against what the API shows.
 */
export async function feedThroughUpheaval(
  client: Client,
  docker: Docker,
  topology: Topology,
): Promise<Outcome> {
  const ledger = new Ledger();
  const taken: { readonly mixed: Mixed; readonly at: number }[] = [];
  let undecided = 0;
  let over = false;
  const one = fc.asyncProperty(mixtures, fc.nat(2), async (posts, repeats) => {
    for (const mixed of posts) {
      ledger.open(mixed.ids);
      // Who sends lines without ids can't repeat them without making new events.
      const answer = mixed.named ? await postUntilDecided(client, mixed) : await post(client, mixed);
      if (!mixed.named && isPassing(answer.status)) {
        undecided++;
        continue;
      }
      judge(mixed, answer);
      if (answer.status === 202) ledger.acknowledge(mixed.ids);
      else ledger.refuse(mixed.ids);
      if (!mixed.named || mixed.expected.status !== 202) continue;
      taken.push({ mixed, at: Date.now() });
      if (taken.length > 100) taken.shift();
      for (let again = 0; again < repeats; again++) {
        // In another second too: there an event without a time is another row.
        const old = taken.find(({ at }) => at < Date.now() - 1500);
        const repeated = again === 0 || old === undefined ? mixed : old.mixed;
        judge(repeated, await postUntilDecided(client, repeated));
      }
    }
  });
  let settled = false;
  const watched = repeatedInOneAnswer(client, () => settled);
  const turned = upheaval(docker, topology).finally(() => (over = true));
  // No shrinking: a smaller sample would meet another moment.
  const feed = async () => {
    do await fc.assert(one, { numRuns: 5, endOnFailure: true });
    while (!over);
  };
  const settle = async (): Promise<Settlement> => {
    await Promise.all([turned, feed()]);
    const shown = async () =>
      ledger.settle((await readAll(client)).map(idOf).filter((id) => id.startsWith("mix-")));
    const deadline = Date.now() + 120_000;
    while ((await shown()).lost.length > 0 && Date.now() < deadline) await sleep(1000);
    // Pages are no snapshot: what a copy stood for on one may have come itself before the next. Now all is there.
    return shown();
  };
  const settlement = await settle().finally(() => (settled = true));
  return { acknowledged: ledger.acknowledged, undecided, repeated: await watched, ...settlement };
}
