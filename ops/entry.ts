// How a client on this machine reaches the platform, and with what token.

import { type SiemConfig } from "../components/config.ts";
import { ports } from "../components/ports.ts";
import { type Topology } from "../components/topology.ts";

export interface Entry {
  readonly api: string;
  readonly ingest: string;
  readonly stats: string;
  /** False where Docker runs in a virtual machine and only a load balancer's published ports can be reached. */
  readonly throughVip: boolean;
}

/** On Linux the VIP is reachable directly; elsewhere the first load balancer's published ports are. */
export function entry(topology: Topology, config: SiemConfig, platform = process.platform): Entry {
  const offset = config.local.portOffset;
  const throughVip = platform === "linux";
  const url = (port: number) =>
    throughVip ? `http://${topology.vip.address}:${port}` : `http://127.0.0.1:${port + offset}`;
  return {
    api: url(ports.haproxyApi.number),
    ingest: url(ports.haproxyIngest.number),
    stats: `${url(ports.haproxyStats.number)}/stats`,
    throughVip,
  };
}
