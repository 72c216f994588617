// Keeps events for as long as the configuration says: beside each ClickHouse replica a shell that removes what is older.

import type * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { guest } from "../host/guest.ts";
import { type Nodes } from "../host/host.ts";
import { clickhouseData } from "../render/clickhouse-entry.ts";
import { renderClickhouseClient } from "../render/clickhouse.ts";
import { renderRetention } from "../render/retention.ts";
import { type Topology } from "../topology.ts";
import { limitMb } from "./memory.ts";

export interface RetentionArgs {
  readonly topology: Topology;
  readonly nodes: Nodes;
  /** Days that events are kept. */
  readonly days: number;
  readonly password: pulumi.Output<string>;
  /** What must be there before its first round: the tables. */
  readonly after: pulumi.Resource;
}

const script = "/etc/siem/retention.sh";

/**
 * One guest a replica. One would do, since what it removes is removed on all, but then somebody would have to say which;
 * and a server's own setting has to be made on each. It joins the replica's node, so it asks its own server, on loopback.
 */
export function retention(args: RetentionArgs, opts: pulumi.CustomResourceOptions): docker.Container[] {
  return args.topology.retention.map((replica) => {
    const place = args.nodes.at(replica.node);
    return guest(
      replica.alias,
      {
        place,
        containerName: replica.name,
        image: place.host.image("clickhouse"),
        // The image's own entry prepares a server's directories, which needs rights that this does not.
        entrypoint: ["sh"],
        command: [script],
        files: {
          [script]: renderRetention(args.days),
          "/etc/clickhouse-client/config.xml": args.password.apply(renderClickhouseClient),
        },
        // The image declares this path as a volume; nothing is ever written to it.
        tmpfs: { [clickhouseData]: "size=1m" },
        memoryMb: limitMb.retention,
        graceSeconds: 5,
      },
      { ...opts, dependsOn: args.after },
    );
  });
}
