// How a client on this machine reaches the platform, and what it does there first.

import { type SiemConfig } from "../components/config.ts";
import { ports } from "../components/ports.ts";
import { statsUser } from "../components/render/haproxy.ts";
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

/**
 * Where everything is, and commands as they are typed for this stack. The line of the example is of this minute: the API
 * shows the last day where nobody asks for more.
 */
export function firstSteps({ api, ingest, stats }: Entry, stack: string, now: Date): string {
  const flag = stack === "local" ? "" : `-s ${stack} `;
  const [, day, month, , time] = now.toUTCString().split(" ");
  const date = `${month} ${String(Number(day)).padStart(2)} ${time}`;
  return `  API      ${api}
  ingest   ${ingest}
  stats    ${stats}   (user ${statsUser}; password: npm run secret -- ${flag}statsPassword)

Send log lines:  npm run send -- ${flag}FILE
Or one event, with a token of tenant "demo" that is good for an hour:

  TOKEN=$(npm run --silent token -- ${flag}--tenant demo)
  curl -H "Authorization: Bearer $TOKEN" -H 'Content-Type: text/plain' \\
    -d '${date} web-1 sshd[1]: Failed password for root from 192.0.2.7 port 4711 ssh2' ${ingest}/v1/events
  curl -H "Authorization: Bearer $TOKEN" '${api}/v1/events?limit=5'
`;
}
