// What a machine may do on AWS: publish its own host key, be reached through Session Manager, and what it is given.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type Node } from "../topology.ts";

export interface MachineRoleArgs {
  readonly stack: string;
  readonly node: Node;
  /** ARN of the parameter that the machine publishes its host key in. */
  readonly hostKeyArn: pulumi.Input<string>;
  /** Further policies, by what they are for: IAM documents as JSON. @default none */
  readonly policies?: Readonly<Record<string, pulumi.Input<string>>> | undefined;
}

/** A role of its own for each machine, so that none can speak for another. */
export class MachineRole extends pulumi.ComponentResource {
  /** Name of the instance profile. */
  readonly profile: pulumi.Output<string>;
  /** Rights that must stand before the machine starts. */
  readonly ready: readonly pulumi.Resource[];

  constructor(name: string, args: MachineRoleArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:host:MachineRole", name, {}, opts);
    const { node, stack } = args;
    const tags = { Name: `${stack}-${node.alias}` };
    const path = `/siem-ha/${stack}/`;
    const role = new aws.iam.Role(
      name,
      {
        path,
        description: `siem-ha ${stack}: the machine ${node.alias}`,
        assumeRolePolicy: JSON.stringify({
          Version: "2012-10-17",
          Statement: [
            { Effect: "Allow", Principal: { Service: "ec2.amazonaws.com" }, Action: "sts:AssumeRole" },
          ],
        }),
        tags,
      },
      { parent: this },
    );
    const documents: Record<string, pulumi.Input<string>> = {
      machine: pulumi.output(args.hostKeyArn).apply(machinePolicy),
      ...args.policies,
    };
    this.ready = Object.entries(documents).map(
      ([purpose, policy]) =>
        new aws.iam.RolePolicy(`${name}-${purpose}`, { role: role.name, policy }, { parent: role }),
    );
    this.profile = new aws.iam.InstanceProfile(name, { path, role: role.name, tags }, { parent: role }).name;
    this.registerOutputs();
  }
}

/**
 * The rights of every machine. Session Manager's actions know no resources of their own (`*` is what AWS documents for
 * them); Amazon's ready-made policy for it would let each machine read every parameter of the account.
 */
export function machinePolicy(hostKeyArn: string): string {
  const [, partition, , region, account] = hostKeyArn.split(":");
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      { Sid: "PublishHostKey", Effect: "Allow", Action: "ssm:PutParameter", Resource: hostKeyArn },
      {
        Sid: "SessionManager",
        Effect: "Allow",
        Action: "ssm:UpdateInstanceInformation",
        Resource: `arn:${partition}:ec2:${region}:${account}:instance/*`,
      },
      {
        Sid: "SessionManagerChannels",
        Effect: "Allow",
        Action: [
          "ssmmessages:CreateControlChannel",
          "ssmmessages:CreateDataChannel",
          "ssmmessages:OpenControlChannel",
          "ssmmessages:OpenDataChannel",
        ],
        Resource: "*",
      },
    ],
  });
}
