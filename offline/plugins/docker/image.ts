// docker:index/remoteImage:RemoteImage: an image that is here already, or is pulled.

import type { Props, ResourceKind } from "../server.ts";
import type { Fields } from "../shape.ts";
import { refuse } from "../shape.ts";
import type { Daemon } from "./daemon.ts";
import { daemonMessage, orGone, whileBusy } from "./daemon.ts";
import { compare } from "./naming.ts";

interface Found {
  readonly Id: string;
  readonly RepoDigests?: readonly string[];
}

const fields: Fields = {
  name: "string",
  keepLocally: "boolean",
  forceRemove: "boolean",
  pullTriggers: { list: "string" },
  triggers: "map",
};

/** The image type on one daemon. */
export function imageKind(daemon: Daemon): ResourceKind {
  const inspect = (name: string): Promise<Found | undefined> =>
    orGone(daemon.docker.getImage(name).inspect() as Promise<Found>);

  const observed = (found: Found): Props => ({ imageId: found.Id, repoDigest: found.RepoDigests?.[0] ?? "" });

  async function present(name: string): Promise<Found> {
    const found = await inspect(name);
    if (found !== undefined) return found;
    await daemon.pull(name);
    const pulled = await inspect(name);
    if (pulled === undefined) throw new Error(`Unable to find or pull image ${name}`);
    return pulled;
  }

  return {
    derived: ["imageId", "repoDigest"],
    check: (news) => ({
      failures: [
        ...refuse(news, fields, "docker.RemoteImage"),
        ...(news.name === undefined
          ? [{ property: "name", reason: 'docker.RemoteImage needs a "name", such as "busybox:1.36.1"' }]
          : []),
      ],
    }),
    // One image can carry two names, so nothing has to go before its replacement comes.
    diff: (state, news) => ({
      ...compare(state, news, Object.keys(fields), ["keepLocally", "forceRemove"]),
      deleteBeforeReplace: false,
    }),

    async create(news) {
      const name = String(news.name);
      const found = await present(name);
      return { id: `${found.Id}${name}`, state: { ...news, ...observed(found) } };
    },

    async read(_id, state) {
      const found = await inspect(String(state.name));
      return found === undefined ? undefined : { ...state, ...observed(found) };
    },

    async update(_id, _state, news) {
      return { ...news, ...observed(await present(String(news.name))) };
    },

    async delete(_id, state) {
      if (state.keepLocally === true) return;
      const image = daemon.docker.getImage(String(state.name));
      try {
        await whileBusy(`image ${String(state.name)}`, 5, () =>
          image.remove({ force: state.forceRemove === true }),
        );
      } catch (error) {
        throw new Error(`Unable to remove Docker image: ${daemonMessage(error)}`, { cause: error });
      }
    },
  };
}
