// A stateless HTTP service: three replicas behind HAProxy, each on its own port. The API and the ingestor are two.

import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { type SiemConfig } from "../config.ts";
import { guest } from "../host/guest.ts";
import { dockerOn, type Nodes } from "../host/host.ts";
import { type OwnImage } from "../images.ts";
import { ports } from "../ports.ts";
import { type HttpReplica, names, type Topology } from "../topology.ts";
import { cpuShares } from "./cpu.ts";
import { gate } from "./gate.ts";
import { limitMb } from "./memory.ts";

export interface HttpServiceArgs {
  readonly nodes: Nodes;
  readonly replicas: readonly HttpReplica[];
  readonly image: Extract<OwnImage, "api" | "ingestor">;
  readonly config: SiemConfig["api"];
  readonly healthPath: string;
  readonly environment: Readonly<Record<string, string>>;
  /** Variables that differ between replicas. @default none */
  readonly environmentOf?: (replica: HttpReplica) => Readonly<Record<string, string>>;
  /** Secrets by the name of their variable; delivered as `<NAME>_FILE` unless the config says `env`. */
  readonly secrets: Readonly<Record<string, pulumi.Output<string>>>;
  readonly after: readonly pulumi.Resource[];
}

/** Shell: the replica answers its health check with 200. */
export function httpHealthy(replica: HttpReplica, path: string): string {
  return `${dockerOn(replica.node)} exec ${replica.node.name} timeout 3 wget -q -O - http://127.0.0.1:${replica.port}${path}`;
}

/** The ingestor's and the API's address lists, as their clients take them. */
export function brokerList(topology: Topology): string {
  return topology.kafka.map((broker) => `${broker.alias}:${ports.kafka.number}`).join(",");
}

/** Database URL naming every replica, so that the client fails over by itself. With a password only for `env` delivery. */
export function databaseUrl(topology: Topology, password?: string): string {
  // Addresses, because Docker knows a name only while its node runs, and asks others for one that it doesn't know: where
  // those don't answer, all of Node's threads for names wait for them, and no replica can be asked any more.
  const hosts = topology.clickhouse.map(({ node }) => `${node.address}:${ports.clickhouseHttp.number}`);
  const user = password === undefined ? names.databaseUser : `${names.databaseUser}:${password}`;
  return `http://${user}@${hosts.join(",")}/${names.database}`;
}

/** Where an ingestor takes syslog, and for whom; nothing where the configuration doesn't ask for it. */
export function syslogEnvironment(
  { syslogPort }: HttpReplica,
  { syslog }: SiemConfig["ingestor"],
): Record<string, string> {
  if (syslogPort === undefined || syslog === undefined) return {};
  return { SYSLOG_ADDR: `0.0.0.0:${syslogPort}`, SYSLOG_TENANT: syslog.tenant };
}

export class HttpService extends pulumi.ComponentResource {
  /** Resolves once every replica answers its health check. */
  readonly ready: pulumi.Resource;

  constructor(name: string, args: HttpServiceArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:services:HttpService", name, {}, opts);
    const { nodes, config } = args;
    const containers: docker.Container[] = [];
    const environment: Record<string, string> = { ...args.environment };
    const files: Record<string, pulumi.Output<string>> = {};
    if (config.secrets === "file") {
      for (const [variable, value] of Object.entries(args.secrets)) {
        const file = `/run/secrets/${variable.toLowerCase()}`;
        environment[`${variable}_FILE`] = file;
        files[file] = value;
      }
    }
    let before: readonly pulumi.Resource[] = args.after;
    for (const [index, replica] of args.replicas.entries()) {
      const place = nodes.at(replica.node);
      const url = `http://127.0.0.1:${replica.port}${args.healthPath}`;
      const container = guest(
        replica.alias,
        {
          place,
          containerName: replica.name,
          image: place.host.ownImage(args.image),
          environment: {
            ...environment,
            SERVER_ADDR: `0.0.0.0:${replica.port}`,
            ...args.environmentOf?.(replica),
          },
          ...(config.secrets === "env" ? { secretEnvironment: args.secrets } : {}),
          files,
          memoryMb: limitMb.httpService,
          cpuShares: cpuShares.httpService,
          ...(config.image === undefined
            ? {
                liveness: ["node", "-e", `fetch("${url}").then(()=>process.exit(0),()=>process.exit(1))`],
              }
            : {}),
          graceSeconds: 15,
        },
        { parent: this, dependsOn: [...before] },
      );
      containers.push(container);
      const next = args.replicas[index + 1];
      if (next !== undefined) {
        before = [
          gate(
            `${replica.alias}-gate`,
            {
              nodes,
              asks: [replica.node],
              probe: httpHealthy(replica, args.healthPath),
              what: `${replica.name} to be healthy`,
              containers: [container],
              next,
            },
            { parent: this },
          ),
        ];
      }
    }
    this.ready = gate(
      `${name}-ready`,
      {
        nodes,
        asks: args.replicas.map((replica) => replica.node),
        probe: args.replicas.map((replica) => httpHealthy(replica, args.healthPath)).join(" && "),
        what: `every replica of ${name} to be healthy`,
        containers,
      },
      { parent: this },
    );
    this.registerOutputs();
  }
}
