// docker:index/network:Network. Every input forces a replacement.

import type Docker from "dockerode";
import type { Props, ResourceKind } from "../server.ts";
import type { Daemon } from "./daemon.ts";
import { daemonMessage, orGone, whileBusy } from "./daemon.ts";
import { plain, rules } from "./table.ts";

interface Inputs {
  readonly name: string;
  readonly driver?: string;
  readonly internal?: boolean;
  readonly ipamDriver: string;
  readonly ipamConfigs?: readonly {
    readonly subnet?: string;
    readonly gateway?: string;
    readonly ipRange?: string;
    readonly auxAddress?: Record<string, string>;
  }[];
  readonly labels?: readonly { readonly label: string; readonly value: string }[];
}

/** What of a network is decided without a daemon. */
export const networkRules = rules(
  "docker.Network",
  {
    name: { shape: "string" },
    driver: { shape: "string", computed: true },
    internal: { shape: "boolean", computed: true },
    ipamDriver: { shape: "string", fill: "default" },
    ipamConfigs: {
      shape: {
        list: { fields: { subnet: "string", gateway: "string", ipRange: "string", auxAddress: "map" } },
      },
      computed: true,
    },
    labels: { shape: { list: { fields: { label: "string", value: "string" } } } },
  },
  ["name"],
);

/** What Docker says of a network, as the real plugin records it. */
export function observed(found: Docker.NetworkInspectInfo): Props {
  return {
    __meta: JSON.stringify({ schema_version: "1" }),
    name: found.Name,
    driver: found.Driver,
    internal: found.Internal,
    attachable: found.Attachable,
    ingress: found.Ingress,
    ipv6: found.EnableIPv6,
    ipamDriver: found.IPAM?.Driver,
    ipamOptions: found.IPAM?.Options ?? {},
    ipamConfigs: (found.IPAM?.Config ?? []).map((config) => ({
      subnet: config.Subnet,
      gateway: config.Gateway,
      ipRange: config.IPRange,
      auxAddress: config.AuxiliaryAddresses,
    })),
    labels: Object.entries(found.Labels ?? {}).map(([label, value]) => ({ label, value })),
    options: found.Options ?? {},
    scope: found.Scope,
  };
}

/** The network type on one daemon. */
export function networkKind(daemon: Daemon): ResourceKind {
  const inspect = (id: string): Promise<Docker.NetworkInspectInfo> => daemon.docker.getNetwork(id).inspect();
  return {
    ...networkRules,

    async create(news) {
      const inputs = plain(news) as unknown as Inputs;
      try {
        const network = await daemon.docker.createNetwork({
          Name: inputs.name,
          CheckDuplicate: true,
          ...(inputs.driver !== undefined && { Driver: inputs.driver }),
          Internal: inputs.internal ?? false,
          Labels: Object.fromEntries((inputs.labels ?? []).map(({ label, value }) => [label, value])),
          IPAM: {
            Driver: inputs.ipamDriver,
            Config: (inputs.ipamConfigs ?? []).map(({ subnet, gateway, ipRange, auxAddress }) => ({
              ...(subnet !== undefined && { Subnet: subnet }),
              ...(gateway !== undefined && { Gateway: gateway }),
              ...(ipRange !== undefined && { IPRange: ipRange }),
              ...(auxAddress !== undefined && { AuxiliaryAddresses: auxAddress }),
            })),
          },
        });
        return { id: network.id, state: observed(await inspect(network.id)) };
      } catch (error) {
        throw new Error(`Unable to create network: ${daemonMessage(error)}`, { cause: error });
      }
    },

    async read(id) {
      const found = await orGone(inspect(id));
      return found === undefined ? undefined : observed(found);
    },

    update: (_id, state, news): Promise<Props> => Promise.resolve({ ...state, ...plain(news) }),

    async delete(id) {
      await whileBusy(`network ${id}`, 30, () => daemon.docker.getNetwork(id).remove());
    },
  };
}
