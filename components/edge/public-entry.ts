// The entry from outside the VPC: a Network Load Balancer over both load balancers, whoever holds the virtual IP.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { entryPorts } from "../network/rules.ts";

export interface PublicEntryArgs {
  readonly config: AwsConfig;
  readonly stack: string;
  readonly vpcId: pulumi.Input<string>;
  /** Subnets it has an address in, one a zone: public ones if it is public. */
  readonly subnetIds: readonly pulumi.Input<string>[];
  readonly securityGroupId: pulumi.Input<string>;
  /** Name of each load balancer's node → id of its instance. */
  readonly targets: Readonly<Record<string, pulumi.Input<string>>>;
  /** What it can't work without, such as the way to the internet. */
  readonly after: readonly pulumi.Resource[];
}

/** What HAProxy is asked, and through which entry. */
const healthPaths = { api: "/v1/health", ingest: "/health" } as const;
/** TLS 1.2 and 1.3 only. */
const tlsPolicy = "ELBSecurityPolicy-TLS13-1-2-2021-06";

/**
 * Exists only if the configuration has `entry.loadBalancer`. Clients' addresses reach HAProxy; with a certificate it
 * ends TLS. An Elastic IP at a machine would not do: its answers would leave through NAT.
 */
export class PublicEntry extends pulumi.ComponentResource {
  readonly dnsName: pulumi.Output<string>;
  readonly apiUrl: pulumi.Output<string>;
  readonly ingestUrl: pulumi.Output<string>;

  constructor(name: string, args: PublicEntryArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:edge:PublicEntry", name, {}, opts);
    const { config, stack } = args;
    const { loadBalancer } = config.entry;
    if (loadBalancer === undefined) {
      throw new Error("a public entry needs entry.loadBalancer in the configuration, which is not there");
    }
    const tags = { Name: `${stack}-public-entry` };
    const balancer = new aws.lb.LoadBalancer(
      name,
      {
        loadBalancerType: "network",
        internal: !loadBalancer.public,
        subnets: [...args.subnetIds],
        securityGroups: [args.securityGroupId],
        // With one load balancer down, both zones' addresses still lead to the other.
        enableCrossZoneLoadBalancing: true,
        enableDeletionProtection: config.tier === "prod",
        tags,
      },
      { parent: this, dependsOn: [...args.after] },
    );
    const { certificateArn } = loadBalancer;
    const url: Record<string, pulumi.Output<string>> = {};
    for (const [what, { listener, target }] of Object.entries(entryPorts(loadBalancer))) {
      const group = new aws.lb.TargetGroup(
        `${name}-${what}`,
        {
          vpcId: args.vpcId,
          targetType: "instance",
          protocol: "TCP",
          port: target,
          preserveClientIp: "true",
          deregistrationDelay: 30,
          connectionTermination: true,
          healthCheck: {
            protocol: "HTTP",
            port: "traffic-port",
            path: healthPaths[what as keyof typeof healthPaths],
            // Any answer is HAProxy's, so it lives: what is behind it is the same for both.
            matcher: "200-599",
            interval: 10,
            timeout: 5,
            healthyThreshold: 2,
            unhealthyThreshold: 2,
          },
          tags: { Name: `${stack}-${what}` },
        },
        { parent: this },
      );
      for (const [alias, targetId] of Object.entries(args.targets)) {
        new aws.lb.TargetGroupAttachment(
          `${name}-${what}-${alias}`,
          { targetGroupArn: group.arn, targetId, port: target },
          { parent: this },
        );
      }
      new aws.lb.Listener(
        `${name}-${what}`,
        {
          loadBalancerArn: balancer.arn,
          port: listener,
          ...(certificateArn === undefined
            ? { protocol: "TCP" }
            : { protocol: "TLS", certificateArn, sslPolicy: tlsPolicy, alpnPolicy: "HTTP1Only" }),
          defaultActions: [{ type: "forward", targetGroupArn: group.arn }],
          tags: { Name: `${stack}-${what}` },
        },
        { parent: this },
      );
      const scheme = certificateArn === undefined ? "http" : "https";
      url[what] = pulumi.interpolate`${scheme}://${balancer.dnsName}:${listener}`;
    }
    this.dnsName = balancer.dnsName;
    this.apiUrl = required(url, "api");
    this.ingestUrl = required(url, "ingest");
    this.registerOutputs({ dnsName: this.dnsName });
  }
}

function required(urls: Record<string, pulumi.Output<string>>, key: string): pulumi.Output<string> {
  const url = urls[key];
  if (url === undefined) throw new Error(`the public entry has no port for ${key}`);
  return url;
}
