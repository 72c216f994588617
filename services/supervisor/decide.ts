// What the supervisor of a host does about the containers it sees: a pure function of what is, and of how what is dead
// came to die. It holds no connection and no clock.

/** A container of the stack, as Docker describes it. */
export interface Container {
  readonly id: string;
  readonly name: string;
  /** Id of its image. */
  readonly image: string;
  /** Docker's word for its state. */
  readonly state: "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead";
  /** Its last start and its last end, milliseconds since 1970; 0 for never. */
  readonly startedAt: number;
  readonly finishedAt: number;
  /** Id or name of the container whose network it shares. @default its network is its own */
  readonly joins?: string;
  /** It uses the machine's own network, which outlives it. */
  readonly hostNetwork: boolean;
  /** What Docker gave its own network: without a gateway there is no way out to expect. @default no such network */
  readonly network?: { readonly address: string; readonly gateway: string };
  /** The address that its node must not have without it, as `172.25.0.222/24 eth0`. @default none */
  readonly address?: string;
}

/** How a container came to its last end. */
export type Fate =
  /** Somebody asked it to end: `docker stop`, a signal to terminate, a deploy. It stays down. */
  | "stopped"
  /** `docker kill`: after that Docker's restart policy does nothing. */
  | "killed"
  /** By itself, or nobody saw it. Docker starts it again, unless it could not. */
  | "ended";

/** What is known of containers beyond what Docker says, by id. */
export interface Memory {
  readonly fates: ReadonlyMap<string, Fate>;
  /** Since when frozen containers are frozen, milliseconds since 1970. */
  readonly frozen: ReadonlyMap<string, number>;
  /** Which end, or which freeze, of a container its address has been taken off for: id → when it was. */
  readonly released: ReadonlyMap<string, number>;
  /** Starts that failed or did not last. */
  readonly failures: ReadonlyMap<string, Failure>;
  /** The same of addresses that could not be taken off. */
  readonly stuck: ReadonlyMap<string, Failure>;
  /** Running containers whose network has lost its address or its way out. */
  readonly unrouted: ReadonlySet<string>;
  /** How often the clock had been set back when each was started. @default 0 */
  readonly eras: ReadonlyMap<string, number>;
}

export interface Failure {
  /** How many in a row. */
  readonly count: number;
  /** When the next try may be, milliseconds since 1970. */
  readonly until: number;
}

export interface World extends Memory {
  readonly now: number;
  readonly containers: readonly Container[];
  /** Until when a deploy or an operator is at work. */
  readonly heldUntil: number;
}

export interface Action {
  readonly do: "start" | "restart" | "release" | "route";
  readonly container: Container;
  /** The container whose network it shares. */
  readonly anchor?: Container;
  /** Of a release: the end or the freeze that it is for. */
  readonly since?: number;
  readonly why: string;
}

export interface Decision {
  readonly actions: readonly Action[];
  /** When to look again though nothing happens, milliseconds since 1970. @default when something happens */
  readonly again?: number;
  /** What it can't help, for people. */
  readonly complaints: readonly string[];
}

/** Whoever removes or replaces a container by force kills it first; it is gone before this is over. */
export const killedDelayMs = 500;
/** Docker itself starts what ended by itself, with a growing delay of its own. */
export const endedDelayMs = 3_000;
/** Whoever restarts an anchor may be about to restart its guests too. */
export const rejoinDelayMs = 250;

const longestBackOffMs = 60_000;
const longestStuckMs = 2_000;

/** How long after so many failures in a row the next start may be. */
export function backOffMs(failures: number): number {
  return Math.min(500 * 2 ** failures, longestBackOffMs);
}

/** The same of taking an address off: as long as it stays, two nodes may have it. */
export function stuckMs(failures: number): number {
  return Math.min(100 * 2 ** failures, longestStuckMs);
}

/** Decides about everything at once. */
export function decide(world: World): Decision {
  const { containers, fates, frozen, released, failures, stuck, unrouted, eras, heldUntil, now } = world;
  const actions: Action[] = [];
  const complaints: string[] = [];
  const later: number[] = [];
  /** What is said to be yet to come was before the clock was set back, and nobody knows how long ago. */
  const past = (at: number): number => (at > now ? 0 : at);
  const notBefore = (failure: Failure | undefined, longestMs: number): number =>
    failure === undefined || failure.until > now + longestMs ? 0 : failure.until;
  const eraOf = ({ id }: Container): number => eras.get(id) ?? 0;
  const startedBefore = (one: Container, other: Container): boolean =>
    eraOf(one) === eraOf(other) ? one.startedAt < other.startedAt : eraOf(one) < eraOf(other);
  /** Acts once the time has come. */
  const act = (at: number, action: Action): void => {
    const due = Math.max(at, notBefore(failures.get(action.container.id), longestBackOffMs), heldUntil);
    if (due <= now) actions.push(action);
    else later.push(due);
  };
  const find = (joined: string) =>
    containers.find(({ id, name }) => id === joined || name === joined || id.startsWith(joined));

  for (const container of containers) {
    const { id, name, state, joins, address } = container;
    const anchor = joins === undefined ? undefined : find(joins);
    const fate = fates.get(id) ?? "ended";
    const ended = state === "exited" || state === "dead";

    // Two nodes with one address are worse than anything that a hold protects from. A frozen keeper of it says nothing
    // to the other load balancer either.
    const since = ended ? container.finishedAt : state === "paused" ? frozen.get(id) : undefined;
    if (
      since !== undefined &&
      address !== undefined &&
      // A frozen anchor's network still answers for the address.
      (anchor?.state === "running" || anchor?.state === "paused") &&
      released.get(id) !== since
    ) {
      const why = `${name} ${ended ? "has ended" : "is frozen"} and may have left it behind`;
      const due = notBefore(stuck.get(id), longestStuckMs);
      if (due <= now) actions.push({ do: "release", container, anchor, since, why });
      else later.push(due);
    }
    if (joins !== undefined && anchor === undefined) {
      complaints.push(`${name} shares the network of a container that is gone; npm run up makes it anew`);
      continue;
    }
    if (ended && fate !== "stopped" && (anchor === undefined || anchor.state === "running")) {
      const delay = fate === "killed" ? killedDelayMs : endedDelayMs;
      // What could not start because its anchor was down has waited long enough.
      const since = Math.max(past(container.finishedAt), past(anchor?.startedAt ?? 0));
      const why =
        fate === "killed"
          ? "it was killed, and Docker does not restart what was killed"
          : anchor === undefined || anchor.startedAt < container.finishedAt
            ? "it has ended, and Docker has not restarted it"
            : `it could not start while ${anchor.name} was down`;
      act(since + delay, { do: "start", container, ...(anchor === undefined ? {} : { anchor }), why });
      continue;
    }
    if (state === "running" && unrouted.has(id)) {
      act(now, { do: "route", container, why: "its interface was taken down, or somebody changed it" });
    }
    // The network of an anchor ends with it; whoever joined it before is left with a loopback interface.
    if (
      (state === "running" || state === "paused") &&
      anchor?.state === "running" &&
      !anchor.hostNetwork &&
      startedBefore(container, anchor)
    ) {
      act(past(anchor.startedAt) + rejoinDelayMs, {
        do: "restart",
        container,
        anchor,
        why: `${anchor.name} was started again, and it is still in the network that ended with the last one`,
      });
    }
  }
  const again = later.length === 0 ? undefined : Math.min(...later);
  return { actions, complaints, ...(again === undefined ? {} : { again }) };
}
