// docker:index/volume:Volume. Every input forces a replacement, and that deletes the data, as the real one does.

import type Docker from "dockerode";
import type { Props, ResourceKind } from "../server.ts";
import type { Daemon } from "./daemon.ts";
import { daemonMessage, orGone, whileBusy } from "./daemon.ts";
import { plain, rules } from "./table.ts";

interface Inputs {
  readonly name: string;
  readonly driver?: string;
  readonly driverOpts?: Record<string, string>;
  readonly labels?: readonly { readonly label: string; readonly value: string }[];
}

/** What of a volume is decided without a daemon. */
export const volumeRules = rules(
  "docker.Volume",
  {
    name: { shape: "string", computed: true },
    driver: { shape: "string", computed: true },
    driverOpts: { shape: "map" },
    labels: { shape: { list: { fields: { label: "string", value: "string" } } } },
  },
  ["name"],
);

/** What Docker says of a volume, as the real plugin records it. */
export function observed(found: Docker.VolumeInspectInfo): Props {
  return {
    __meta: JSON.stringify({ schema_version: "1" }),
    name: found.Name,
    driver: found.Driver,
    driverOpts: found.Options ?? {},
    labels: Object.entries(found.Labels ?? {}).map(([label, value]) => ({ label, value })),
    mountpoint: found.Mountpoint,
  };
}

/** The volume type on one daemon. */
export function volumeKind(daemon: Daemon): ResourceKind {
  return {
    ...volumeRules,

    async create(news) {
      const inputs = plain(news) as unknown as Inputs;
      try {
        await daemon.docker.createVolume({
          Name: inputs.name,
          ...(inputs.driver !== undefined && { Driver: inputs.driver }),
          DriverOpts: inputs.driverOpts ?? {},
          Labels: Object.fromEntries((inputs.labels ?? []).map(({ label, value }) => [label, value])),
        });
        const found = await daemon.docker.getVolume(inputs.name).inspect();
        return { id: found.Name, state: observed(found) };
      } catch (error) {
        throw new Error(`Unable to create volume: ${daemonMessage(error)}`, { cause: error });
      }
    },

    async read(id) {
      const found = await orGone(daemon.docker.getVolume(id).inspect());
      return found === undefined ? undefined : observed(found);
    },

    update: (_id, state, news) => Promise.resolve({ ...state, ...plain(news) }),

    async delete(id) {
      await whileBusy(`volume ${id}`, 30, () => daemon.docker.getVolume(id).remove());
    },
  };
}
