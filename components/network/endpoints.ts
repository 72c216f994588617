// EC2's API inside the VPC: moving the virtual IP must not depend on a NAT gateway, nor on the zone that has it.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { balancers } from "../topology.ts";

export interface EndpointsArgs {
  readonly config: AwsConfig;
  readonly stack: string;
  readonly vpcId: pulumi.Input<string>;
  /** Private subnets in the order of the zones. */
  readonly privateSubnetIds: readonly pulumi.Input<string>[];
  readonly securityGroupId: pulumi.Input<string>;
}

/** In dev too: its one NAT gateway stands in a zone whose loss is just what the failover is for. */
export class Endpoints extends pulumi.ComponentResource {
  /** What a load balancer has to wait for before it can move the virtual IP. */
  readonly ready: readonly pulumi.Resource[];

  constructor(name: string, args: EndpointsArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:network:Endpoints", name, {}, opts);
    const { config, stack } = args;
    const api = new aws.ec2.VpcEndpoint(
      `${name}-ec2`,
      {
        vpcId: args.vpcId,
        serviceName: `com.amazonaws.${config.region}.ec2`,
        vpcEndpointType: "Interface",
        privateDnsEnabled: true,
        // The zones of the load balancers: one each, and nobody else calls this API.
        subnetIds: args.privateSubnetIds.slice(0, balancers),
        securityGroupIds: [args.securityGroupId],
        policy: pulumi
          .all([
            aws.getPartitionOutput({}, { parent: this }).partition,
            aws.getCallerIdentityOutput({}, { parent: this }).accountId,
          ])
          .apply(([partition, account]) =>
            renderEndpointPolicy(`arn:${partition}:ec2:${config.region}:${account}:route-table/*`),
          ),
        tags: { Name: `${stack}-ec2` },
      },
      { parent: this },
    );
    this.ready = [api];
    this.registerOutputs();
  }
}

/** The IAM document of the endpoint: all that goes through is to look at routes, and to move the account's own. */
export function renderEndpointPolicy(routeTables: string): string {
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "LookAtRoutes",
        Effect: "Allow",
        Principal: "*",
        Action: "ec2:DescribeRouteTables",
        Resource: "*",
      },
      {
        Sid: "MoveRoutes",
        Effect: "Allow",
        Principal: "*",
        Action: "ec2:ReplaceRoute",
        Resource: routeTables,
      },
    ],
  });
}
