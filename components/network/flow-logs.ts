// Who spoke with whom in the VPC, kept for an investigation. Only prod has it: every gigabyte costs.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";

export interface FlowLogsArgs {
  readonly stack: string;
  readonly vpcId: pulumi.Input<string>;
  /** Key of the log group; its policy must let CloudWatch Logs use it. @default AWS's own key */
  readonly kmsKeyArn?: pulumi.Input<string> | undefined;
  /** One of the numbers of days that CloudWatch knows. @default a quarter of a year */
  readonly retentionDays?: 30 | 60 | 90 | 180 | 365;
}

/** Flows are gathered for this long into one record, seconds: the longest, so the fewest records. */
const aggregation = 600;

export class FlowLogs extends pulumi.ComponentResource {
  constructor(name: string, args: FlowLogsArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:network:FlowLogs", name, {}, opts);
    const { stack } = args;
    const caller = { parent: this };
    const logs = new aws.cloudwatch.LogGroup(
      name,
      {
        name: `/siem-ha/${stack}/flow-logs`,
        retentionInDays: args.retentionDays ?? 90,
        ...(args.kmsKeyArn === undefined ? {} : { kmsKeyId: args.kmsKeyArn }),
        tags: { Name: `${stack}-flow-logs` },
      },
      { parent: this },
    );
    const role = new aws.iam.Role(
      name,
      {
        description: `Writes the flow logs of the stack ${stack}`,
        assumeRolePolicy: pulumi
          .all([
            aws.getCallerIdentityOutput({}, caller).accountId,
            aws.getPartitionOutput({}, caller).partition,
          ])
          .apply(([account, partition]) => renderFlowLogTrust(account, partition)),
        tags: { Name: `${stack}-flow-logs` },
      },
      { parent: this },
    );
    const policy = new aws.iam.RolePolicy(
      name,
      { role: role.id, policy: logs.arn.apply(renderFlowLogPolicy) },
      { parent: this },
    );
    new aws.ec2.FlowLog(
      name,
      {
        vpcId: args.vpcId,
        trafficType: "ALL",
        maxAggregationInterval: aggregation,
        logDestination: logs.arn,
        iamRoleArn: role.arn,
        tags: { Name: `${stack}-flow-logs` },
      },
      { parent: this, dependsOn: [policy] },
    );
    this.registerOutputs();
  }
}

/** Only flow logs of this account may take the role. */
export function renderFlowLogTrust(account: string, partition: string): string {
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "FlowLogsOfThisAccount",
        Effect: "Allow",
        Principal: { Service: "vpc-flow-logs.amazonaws.com" },
        Action: "sts:AssumeRole",
        Condition: {
          StringEquals: { "aws:SourceAccount": account },
          ArnLike: { "aws:SourceArn": `arn:${partition}:ec2:*:${account}:vpc-flow-log/*` },
        },
      },
    ],
  });
}

/** Write into the one group, which the stack has made. */
export function renderFlowLogPolicy(logGroup: string): string {
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "WriteFlowLogs",
        Effect: "Allow",
        Action: [
          "logs:CreateLogStream",
          "logs:DescribeLogGroups",
          "logs:DescribeLogStreams",
          "logs:PutLogEvents",
        ],
        Resource: `${logGroup}:*`,
      },
    ],
  });
}
