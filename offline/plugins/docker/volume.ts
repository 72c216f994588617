// docker:index/volume:Volume. Every input forces a replacement, and that deletes the data, as the real one does.

import type { Props, ResourceKind } from "../server.ts";
import type { Fields } from "../shape.ts";
import type { Daemon } from "./daemon.ts";
import { daemonMessage, orGone, whileBusy } from "./daemon.ts";
import { replacedRules } from "./naming.ts";

interface Inputs {
  readonly name: string;
  readonly driver?: string;
  readonly driverOpts?: Record<string, string>;
  readonly labels?: readonly { readonly label: string; readonly value: string }[];
}

interface Found {
  readonly Name: string;
  readonly Driver: string;
  readonly Mountpoint: string;
}

const fields: Fields = {
  name: "string",
  driver: "string",
  driverOpts: "map",
  labels: { list: { fields: { label: "string", value: "string" } } },
};

/** What of a volume is decided without a daemon. */
export const volumeRules = replacedRules("docker.Volume", fields, ["labels"]);

/** The volume type on one daemon. */
export function volumeKind(daemon: Daemon): ResourceKind {
  const observed = (found: Found): Props => ({ driver: found.Driver, mountpoint: found.Mountpoint });
  return {
    ...volumeRules,

    async create(news) {
      const inputs = news as unknown as Inputs;
      try {
        await daemon.docker.createVolume({
          Name: inputs.name,
          ...(inputs.driver !== undefined && { Driver: inputs.driver }),
          DriverOpts: inputs.driverOpts ?? {},
          Labels: Object.fromEntries((inputs.labels ?? []).map(({ label, value }) => [label, value])),
        });
        const found = (await daemon.docker.getVolume(inputs.name).inspect()) as Found;
        return { id: found.Name, state: { ...news, ...observed(found) } };
      } catch (error) {
        throw new Error(`Unable to create volume: ${daemonMessage(error)}`, { cause: error });
      }
    },

    async read(id, state) {
      const found = await orGone(daemon.docker.getVolume(id).inspect() as Promise<Found>);
      return found === undefined ? undefined : { ...state, ...observed(found) };
    },

    update: (_id, state, news) => Promise.resolve({ ...state, ...news }),

    async delete(id) {
      await whileBusy(`volume ${id}`, 30, () => daemon.docker.getVolume(id).remove());
    },
  };
}
