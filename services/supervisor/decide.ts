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
  /** Starts that failed or did not last: how many in a row, and when the next may be. */
  readonly failures: ReadonlyMap<string, { readonly count: number; readonly until: number }>;
}

export interface World extends Memory {
  readonly now: number;
  readonly containers: readonly Container[];
  /** Until when a deploy or an operator is at work. */
  readonly heldUntil: number;
}

export interface Action {
  readonly do: "start" | "restart" | "release";
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

/** Taken off any sooner, the address would be nowhere until the other load balancer misses this one. */
export const releaseDelayMs = 400;

/** How long after so many failures in a row the next start may be. */
export function backOffMs(failures: number): number {
  return Math.min(500 * 2 ** failures, 60_000);
}

/** Decides about everything at once. */
export function decide(world: World): Decision {
  const { containers, fates, frozen, released, failures, heldUntil, now } = world;
  const actions: Action[] = [];
  const complaints: string[] = [];
  const later: number[] = [];
  /** Acts once the time has come. */
  const act = (at: number, action: Action): void => {
    const due = Math.max(at, failures.get(action.container.id)?.until ?? 0, heldUntil);
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
      anchor?.state === "running" &&
      released.get(id) !== since
    ) {
      const why = `${name} ${ended ? "has ended" : "is frozen"} and may have left it behind`;
      const due = since + releaseDelayMs;
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
      const since = Math.max(container.finishedAt, anchor?.startedAt ?? 0);
      const why =
        fate === "killed"
          ? "it was killed, and Docker does not restart what was killed"
          : anchor === undefined || anchor.startedAt < container.finishedAt
            ? "it has ended, and Docker has not restarted it"
            : `it could not start while ${anchor.name} was down`;
      act(since + delay, { do: "start", container, ...(anchor === undefined ? {} : { anchor }), why });
      continue;
    }
    // The network of an anchor ends with it; whoever joined it before is left with a loopback interface.
    if (
      (state === "running" || state === "paused") &&
      anchor?.state === "running" &&
      !anchor.hostNetwork &&
      container.startedAt < anchor.startedAt
    ) {
      act(anchor.startedAt + rejoinDelayMs, {
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
