// The recording stand-in of the Docker plugin: no daemon, but one world in which a machine must exist to be asked,
// an image must be on it to be run, and a container that is elsewhere can't be stopped.

import { createHash, randomBytes } from "node:crypto";
import type { Failure, Props, ResourceKind } from "../plugins/server.ts";
import { unknown } from "../plugins/server.ts";
import { containerRules } from "../plugins/docker/container.ts";
import { imageRules } from "../plugins/docker/image.ts";
import { networkRules } from "../plugins/docker/network.ts";
import { plain } from "../plugins/docker/table.ts";
import { volumeRules } from "../plugins/docker/volume.ts";
import { dockerVolumeType, type Thing, unreachable, type World } from "./world.ts";

export const containerType = "docker:index/container:Container";
const commandType = "command:local:Command";
const imageType = "docker:index/remoteImage:RemoteImage";
const networkType = "docker:index/network:Network";

/** Provider config, of which only the host matters here. */
export class Connection {
  #host: string | undefined;

  configure(config: Props): Promise<void> {
    this.#host =
      typeof config["host"] === "string" && config["host"] !== ""
        ? config["host"]
        : "unix:///var/run/docker.sock";
    return Promise.resolve();
  }

  get host(): string {
    if (this.#host === undefined) throw new Error("the Docker provider was used before it was configured");
    return this.#host;
  }
}

/** The real plugin checks the daemon when it is configured, unless told not to: then a preview needs the host. */
export function checkConfig(config: Props): Failure[] {
  const check = config["disableDockerDaemonCheck"];
  if (check === true || check === "true" || check === unknown) return [];
  return [
    {
      property: "disableDockerDaemonCheck",
      reason: "without it a preview connects to the host; set it to true",
    },
  ];
}

export function dockerKinds(world: World, connection: Connection): Record<string, ResourceKind> {
  /** Asks the daemon; what it answers is recorded, a refusal too. */
  function ask<T>(
    entry: {
      op: "create" | "read" | "update" | "delete";
      type: string;
      urn: string;
      id: string;
      inputs: Props;
    },
    work: (host: string) => { readonly id?: string; readonly state?: Props; readonly result: T },
  ): T {
    const { host } = connection;
    const name = entry.urn.split("::").at(-1) ?? "";
    try {
      const reason = unreachable(world, host);
      if (reason !== undefined) throw new Error(reason);
      const { id, state, result } = work(host);
      world.note({
        plugin: "docker",
        ...entry,
        name,
        host,
        id: id ?? entry.id,
        ...(state === undefined ? {} : { state }),
      });
      return result;
    } catch (error) {
      world.note({ plugin: "docker", ...entry, name, host, refused: (error as Error).message });
      throw error;
    }
  }

  const here = (host: string, type: string): Thing[] =>
    world.things().filter((thing) => thing.type === type && thing.host === host);

  /** An image is on a machine if it was pulled there, by the plugin or by a command that printed its id. */
  const has = (host: string, image: string): boolean =>
    world
      .things()
      .some(({ type, host: at, inputs, state }) =>
        type === commandType
          ? state["stdout"] === image &&
            (inputs["environment"] as Record<string, string> | undefined)?.["DOCKER_HOST"] === host
          : type === imageType && at === host && state["imageId"] === image,
      );

  function kind(
    type: string,
    rules: Pick<ResourceKind, "check" | "diff" | "derived"> & {
      /** What Docker does; throws what Docker would answer. */
      make(news: Props, host: string): { readonly id: string; readonly state: Props };
      /** @default it must be there to be removed */
      remove?(id: string, state: Props, host: string): void;
      /** The real plugin's delete does not ask the daemon. */
      forgets?(state: Props): boolean;
    },
  ): ResourceKind {
    return {
      ...(rules.derived === undefined ? {} : { derived: rules.derived }),
      check: (news, olds, context) => rules.check(news, olds, context),
      diff: (state, news, olds) => rules.diff(state, news, olds),
      create: (news, { urn }) =>
        settle(() =>
          ask({ op: "create", type, urn, id: "", inputs: news }, (host) => {
            const made = rules.make(news, host);
            return { ...made, result: made };
          }),
        ),
      read: (id, state) =>
        settle(() =>
          ask({ op: "read", type, urn: "", id, inputs: {} }, (host) => ({
            result: world.find(type, id, host) === undefined ? undefined : state,
          })),
        ),
      update: (id, state, news, { urn }) =>
        settle(() =>
          ask({ op: "update", type, urn, id, inputs: news }, (host) => {
            if (world.find(type, id, host) === undefined) throw new Error(`No such container: ${id}`);
            const now = { ...state, ...plain(news) };
            return { state: now, result: now };
          }),
        ),
      delete: (id, state, { urn }) =>
        settle(() => {
          if (rules.forgets?.(state) === true) return;
          ask({ op: "delete", type, urn, id, inputs: {} }, (host) => {
            if (rules.remove !== undefined) rules.remove(id, state, host);
            else if (world.find(type, id, host) === undefined) throw new Error(`No such object: ${id}`);
            return { result: undefined };
          });
        }),
    };
  }

  return {
    [containerType]: kind(containerType, {
      ...containerRules,
      make(news, host) {
        const name = String(news["name"]);
        if (here(host, containerType).some((other) => other.state["name"] === name)) {
          throw new Error(
            `Unable to create container: Error response from daemon: Conflict. The container name "/${name}" is already in use`,
          );
        }
        const image = String(news["image"]);
        if (image.startsWith("sha256:") && !has(host, image)) {
          throw new Error(`Unable to create container: Error response from daemon: No such image: ${image}`);
        }
        const joined = /^container:(.*)$/.exec((news["networkMode"] as string | undefined) ?? "")?.[1];
        if (joined !== undefined && world.find(containerType, joined, host) === undefined) {
          throw new Error(
            `Unable to start container: Error response from daemon: No such container: ${joined}`,
          );
        }
        return { id: randomBytes(32).toString("hex"), state: { ...plain(news), networkDatas: [] } };
      },
      // The real plugin's delete stops first if it was given a grace, and a stop of what is not there is an error.
      remove(id, state, host) {
        if (world.find(containerType, id, host) !== undefined) return;
        const verb = Number(state["destroyGraceSeconds"] ?? 0) > 0 ? "stopping" : "deleting";
        throw new Error(
          `Error ${verb} container ${id}: Error response from daemon: No such container: ${id}`,
        );
      },
    }),

    [dockerVolumeType]: kind(dockerVolumeType, {
      ...volumeRules,
      make: (news) => ({
        id: String(news["name"]),
        state: {
          driver: "local",
          ...plain(news),
          mountpoint: `/var/lib/docker/volumes/${String(news["name"])}/_data`,
        },
      }),
      // Its files are on the data disk, so a new machine has it too.
      remove: () => undefined,
    }),

    [networkType]: kind(networkType, {
      ...networkRules,
      make(news, host) {
        const name = String(news["name"]);
        if (here(host, networkType).some((other) => other.state["name"] === name)) {
          throw new Error(
            `Unable to create network: Error response from daemon: network with name ${name} already exists`,
          );
        }
        return {
          id: randomBytes(32).toString("hex"),
          state: { driver: "bridge", ...plain(news), scope: "local" },
        };
      },
      // The real plugin takes a network that is gone for removed.
      remove: () => undefined,
    }),

    [imageType]: kind(imageType, {
      ...imageRules,
      make(news) {
        const name = String(news["name"]);
        const imageId = `sha256:${createHash("sha256").update(name).digest("hex")}`;
        return {
          id: `${imageId}${name}`,
          state: { ...plain(news), imageId, repoDigest: `${name}@${imageId}` },
        };
      },
      forgets: (state) => state["keepLocally"] === true,
    }),
  };
}

/** The protocol wants promises; the work itself is done at once. */
function settle<T>(work: () => T): Promise<T> {
  return new Promise((resolve) => resolve(work()));
}
