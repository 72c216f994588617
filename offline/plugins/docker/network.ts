// docker:index/network:Network. Every input forces a replacement.

import type { Props, ResourceKind } from "../server.ts";
import type { Fields } from "../shape.ts";
import type { Daemon } from "./daemon.ts";
import { daemonMessage, orGone, whileBusy } from "./daemon.ts";
import { replacedRules } from "./naming.ts";

interface Inputs {
  readonly name: string;
  readonly driver?: string;
  readonly attachable?: boolean;
  readonly ingress?: boolean;
  readonly internal?: boolean;
  readonly ipv6?: boolean;
  readonly ipamDriver?: string;
  readonly ipamOptions?: Record<string, string>;
  readonly ipamConfigs?: readonly {
    readonly subnet?: string;
    readonly gateway?: string;
    readonly ipRange?: string;
    readonly auxAddress?: Record<string, string>;
  }[];
  readonly labels?: readonly { readonly label: string; readonly value: string }[];
  readonly options?: Record<string, string>;
}

const fields: Fields = {
  name: "string",
  driver: "string",
  attachable: "boolean",
  ingress: "boolean",
  internal: "boolean",
  ipv6: "boolean",
  ipamDriver: "string",
  ipamOptions: "map",
  ipamConfigs: {
    list: { fields: { subnet: "string", gateway: "string", ipRange: "string", auxAddress: "map" } },
  },
  labels: { list: { fields: { label: "string", value: "string" } } },
  options: "map",
};

/** What of a network is decided without a daemon. */
export const networkRules = replacedRules("docker.Network", fields, ["labels", "ipamConfigs"]);

/** The network type on one daemon. */
export function networkKind(daemon: Daemon): ResourceKind {
  return {
    ...networkRules,

    async create(news) {
      const inputs = news as unknown as Inputs;
      try {
        const network = await daemon.docker.createNetwork({
          Name: inputs.name,
          CheckDuplicate: true,
          Driver: inputs.driver ?? "bridge",
          Internal: inputs.internal ?? false,
          Attachable: inputs.attachable ?? false,
          Ingress: inputs.ingress ?? false,
          EnableIPv6: inputs.ipv6 ?? false,
          Options: inputs.options ?? {},
          Labels: Object.fromEntries((inputs.labels ?? []).map(({ label, value }) => [label, value])),
          IPAM: {
            Driver: inputs.ipamDriver ?? "default",
            Options: inputs.ipamOptions ?? {},
            Config: (inputs.ipamConfigs ?? []).map(({ subnet, gateway, ipRange, auxAddress }) => ({
              ...(subnet !== undefined && { Subnet: subnet }),
              ...(gateway !== undefined && { Gateway: gateway }),
              ...(ipRange !== undefined && { IPRange: ipRange }),
              ...(auxAddress !== undefined && { AuxiliaryAddresses: auxAddress }),
            })),
          },
        });
        const found = (await network.inspect()) as { Id: string; Driver: string; Scope: string };
        return { id: found.Id, state: { ...news, driver: found.Driver, scope: found.Scope } };
      } catch (error) {
        throw new Error(`Unable to create network: ${daemonMessage(error)}`, { cause: error });
      }
    },

    async read(id, state) {
      const found = await orGone(
        daemon.docker.getNetwork(id).inspect() as Promise<{ Driver: string; Scope: string }>,
      );
      return found === undefined ? undefined : { ...state, driver: found.Driver, scope: found.Scope };
    },

    update: (_id, state, news): Promise<Props> => Promise.resolve({ ...state, ...news }),

    async delete(id) {
      await whileBusy(`network ${id}`, 30, () => daemon.docker.getNetwork(id).remove());
    },
  };
}
