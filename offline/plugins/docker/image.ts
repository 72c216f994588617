// docker:index/remoteImage:RemoteImage: an image that is here already, or is pulled.

import type { Props, ResourceKind } from "../server.ts";
import type { Daemon } from "./daemon.ts";
import { daemonMessage, orGone, whileBusy } from "./daemon.ts";
import { plain, rules } from "./table.ts";

interface Found {
  readonly Id: string;
  readonly RepoDigests?: readonly string[];
}

/** What of an image is decided without a daemon. One image can carry two names, so nothing has to go first. */
export const imageRules: Pick<ResourceKind, "check" | "diff" | "derived"> = (() => {
  const { check, diff } = rules(
    "docker.RemoteImage",
    { name: { shape: "string" }, keepLocally: { shape: "boolean", inPlace: true } },
    ["name"],
  );
  return {
    derived: ["imageId", "repoDigest"],
    check,
    diff: (state, news, olds) => ({ ...diff(state, news, olds), deleteBeforeReplace: false }),
  };
})();

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
    ...imageRules,

    async create(news) {
      const name = String(news.name);
      const found = await present(name);
      return { id: `${found.Id}${name}`, state: { ...plain(news), ...observed(found) } };
    },

    async read(_id, state) {
      const found = await inspect(String(state.name));
      return found === undefined ? undefined : { ...state, ...observed(found) };
    },

    async update(_id, _state, news) {
      return { ...plain(news), ...observed(await present(String(news.name))) };
    },

    async delete(_id, state) {
      if (state.keepLocally === true) return;
      const image = daemon.docker.getImage(String(state.name));
      try {
        await whileBusy(`image ${String(state.name)}`, 5, () => image.remove());
      } catch (error) {
        throw new Error(`Unable to remove Docker image: ${daemonMessage(error)}`, { cause: error });
      }
    },
  };
}
