// The Docker daemon as the supervisor uses it: what is there, what happens, and the few things that it does.

import { createInterface } from "node:readline";
import { cpuShares } from "../../components/services/cpu.ts";
import { names } from "../../components/topology.ts";
import { type Container } from "./decide.ts";
import { type DockerApi, DockerError } from "./docker-api.ts";
import { type ContainerEvent } from "./fates.ts";
import { addressLabel, holdLabel, holdUntilLabel } from "./labels.ts";

/** Something happened; `event` is missing where it is about a hold, or a container that was frozen or thawed. */
export interface Happening {
  readonly event?: ContainerEvent;
  /** When, nanoseconds since 1970, as Docker counts. */
  readonly nano: number;
}

interface RawEvent {
  readonly Type: string;
  readonly Action: string;
  readonly Actor: { readonly ID: string; readonly Attributes: Readonly<Record<string, string>> };
  readonly timeNano: number;
}

interface Volume {
  readonly Name: string;
  readonly Labels: Readonly<Record<string, string>> | null;
}

interface Endpoint {
  readonly IPAddress: string;
  readonly IPPrefixLen: number;
  /** Empty where the network has no way out. */
  readonly Gateway: string;
}

interface Inspected {
  readonly Id: string;
  readonly Name: string;
  /** Id of its image. */
  readonly Image: string;
  readonly State: { readonly Status: string; readonly StartedAt: string; readonly FinishedAt: string };
  readonly HostConfig: { readonly NetworkMode: string };
  readonly NetworkSettings: { readonly Networks: Readonly<Record<string, Endpoint>> | null };
  readonly Config: { readonly Labels: Readonly<Record<string, string>> | null };
}

/** How long an orphaned or hanging container may take to end. Its clients have lost it already. */
const graceSeconds = 2;

export class Engine {
  readonly #docker: DockerApi;
  readonly #stack: string;
  readonly #self: string;
  readonly #only: string | undefined;

  /**
   * @param self start of this process's own container id
   * @param only name of the one container that it looks at. @default all of the stack's but its own
   */
  constructor(docker: DockerApi, stack: string, self: string, only?: string) {
    this.#docker = docker;
    this.#stack = stack;
    this.#self = self;
    this.#only = only;
  }

  /** The stack's containers on this host that it is to look at. */
  async containers(): Promise<Container[]> {
    const listed = (await this.#docker.call("GET", "/containers/json", {
      all: "1",
      filters: JSON.stringify({ label: [`${names.label}=${this.#stack}`] }),
    })) as { readonly Id: string; readonly Names: readonly string[] }[];
    const found = await Promise.all(
      listed
        .filter(({ Id, Names }) => this.#looksAt(Id, Names[0]?.slice(1)))
        .map(async ({ Id }) => {
          try {
            return describe((await this.#docker.call("GET", `/containers/${Id}/json`)) as Inspected);
          } catch (error) {
            // Gone since it was listed.
            if (error instanceof DockerError && error.status === 404) return undefined;
            throw error;
          }
        }),
    );
    return found.filter((container) => container !== undefined);
  }

  /** Until when somebody is at work on this stack, milliseconds since 1970; 0 for nobody. Removes what is over. */
  async heldUntil(now: number): Promise<number> {
    const { Volumes } = (await this.#docker.call("GET", "/volumes", {
      filters: JSON.stringify({ label: [`${holdLabel}=${this.#stack}`] }),
    })) as { readonly Volumes: readonly Volume[] | null };
    const ends = (Volumes ?? []).map(({ Name, Labels }) => ({
      name: Name,
      until: Number(Labels?.[holdUntilLabel] ?? 0) * 1000,
    }));
    for (const { name } of ends.filter(({ until }) => !(until > now))) {
      await this.#docker.call("DELETE", `/volumes/${encodeURIComponent(name)}`).catch(() => undefined);
    }
    return Math.max(0, ...ends.map(({ until }) => until).filter((until) => until > now));
  }

  /**
   * What happens to the stack's containers and holds, from then on, without an end.
   * @throws where the daemon goes away.
   */
  async *happenings(sinceNano: number): AsyncGenerator<Happening> {
    const stream = await this.#docker.stream("/events", {
      since: (sinceNano / 1e9).toFixed(9),
      filters: JSON.stringify({
        type: ["container", "volume"],
        event: ["kill", "die", "stop", "start", "pause", "unpause", "destroy", "create"],
      }),
    });
    for await (const line of createInterface({ input: stream, crlfDelay: Infinity })) {
      if (line.trim() === "") continue;
      const { Type, Action, Actor, timeNano } = JSON.parse(line) as RawEvent;
      if (Type === "volume") {
        yield { nano: timeNano };
        continue;
      }
      if (Actor.Attributes[names.label] !== this.#stack) continue;
      if (!this.#looksAt(Actor.ID, Actor.Attributes["name"])) continue;
      if (Action === "create") continue;
      if (Action === "pause" || Action === "unpause") {
        yield { nano: timeNano };
        continue;
      }
      yield {
        nano: timeNano,
        event: {
          action: Action as ContainerEvent["action"],
          id: Actor.ID,
          at: timeNano / 1e6,
          ...(Actor.Attributes["signal"] === undefined ? {} : { signal: Number(Actor.Attributes["signal"]) }),
        },
      };
    }
    throw new Error("Docker's events have ended");
  }

  #looksAt(id: string, name: string | undefined): boolean {
    return !id.startsWith(this.#self) && (this.#only === undefined || name === this.#only);
  }

  async start(container: Container): Promise<void> {
    await this.#docker.call("POST", `/containers/${container.id}/start`);
  }

  async restart(container: Container): Promise<void> {
    await this.#docker.call("POST", `/containers/${container.id}/restart`, { t: String(graceSeconds) });
  }

  /**
   * Takes the container's address off the network that it shared.
   * @returns whether the address was there.
   */
  release(container: Container, anchor: Container): Promise<boolean> {
    const [cidr = "", device = ""] = (container.address ?? "").split(" ");
    return this.#inNetworkOf(anchor, ["ip", "address", "delete", cidr, "dev", device]);
  }

  /** Whether the network that Docker made for a running container still has its address and its way out. */
  async isRouted(container: Container): Promise<boolean> {
    if (container.network === undefined) return true;
    const { address, gateway } = container.network;
    const exec = { Cmd: ["ip", "route"], AttachStdout: true, Tty: true };
    const { Id } = (await this.#docker.call("POST", `/containers/${container.id}/exec`, {}, exec)) as {
      readonly Id: string;
    };
    const start = { Detach: false, Tty: true };
    const routes = `${await this.#docker.text("POST", `/exec/${Id}/start`, start)}\n`.replace(/\s+/g, " ");
    return routes.includes(` src ${address.split("/")[0]!} `) && routes.includes(`default via ${gateway} `);
  }

  /** Gives it both again. What else was set on the interface is left as it is. */
  async route({ name, network, ...container }: Container): Promise<void> {
    if (network === undefined) return;
    const script =
      'ip link set eth0 up; ip address add "$1" dev eth0 2> /dev/null; ip route replace default via "$2" dev eth0';
    const command = ["sh", "-c", script, "route", network.address, network.gateway];
    if (!(await this.#inNetworkOf({ name, ...container }, command)))
      throw new Error(`ip gave ${name} no route`);
  }

  /**
   * Runs a command in a container that lives only for that and may do nothing else than change this one's network.
   * @returns whether it succeeded.
   */
  async #inNetworkOf(anchor: Container, command: readonly string[]): Promise<boolean> {
    const { Id } = (await this.#docker.call(
      "POST",
      "/containers/create",
      {},
      {
        Image: anchor.image,
        Entrypoint: command,
        Cmd: [],
        User: "0",
        HostConfig: {
          NetworkMode: `container:${anchor.id}`,
          CapDrop: ["ALL"],
          CapAdd: ["NET_ADMIN"],
          SecurityOpt: ["no-new-privileges"],
          Memory: 16 * 1024 * 1024,
          CpuShares: cpuShares.addressRelease,
          LogConfig: { Type: "none" },
        },
      },
    )) as { readonly Id: string };
    try {
      await this.#docker.call("POST", `/containers/${Id}/start`);
      const { StatusCode } = (await this.#docker.call("POST", `/containers/${Id}/wait`)) as {
        readonly StatusCode: number;
      };
      return StatusCode === 0;
    } finally {
      await this.#docker.call("DELETE", `/containers/${Id}`, { force: "1" });
    }
  }
}

function describe(inspected: Inspected): Container {
  const { Id, Name, Image, State, HostConfig, NetworkSettings, Config } = inspected;
  const mode = HostConfig.NetworkMode;
  const address = Config.Labels?.[addressLabel];
  const [endpoint, ...others] = Object.values(NetworkSettings.Networks ?? {});
  return {
    id: Id,
    image: Image,
    name: Name.replace(/^\//, ""),
    state: State.Status as Container["state"],
    startedAt: timeOf(State.StartedAt),
    finishedAt: timeOf(State.FinishedAt),
    hostNetwork: mode === "host",
    ...(mode.startsWith("container:") ? { joins: mode.slice("container:".length) } : {}),
    ...(address === undefined ? {} : { address }),
    // With several networks nobody knows which has the way out.
    ...(endpoint === undefined || others.length > 0 || !endpoint.Gateway || !endpoint.IPAddress
      ? {}
      : {
          network: {
            address: `${endpoint.IPAddress}/${endpoint.IPPrefixLen}`,
            gateway: endpoint.Gateway,
          },
        }),
  };
}

/** Docker's zero time is the year 1. */
function timeOf(text: string): number {
  return Math.max(0, Date.parse(text));
}
