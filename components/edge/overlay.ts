// The virtual IP on AWS: an address outside the VPC's range, a route to it in every table, and who is told when
// the route can't be kept right. Keepalived's keeper moves the routes; this program makes them once.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { type KeeperCloud } from "../render/keepalived.ts";

export interface OverlayAddressArgs {
  readonly config: AwsConfig;
  /** Name of the stack: part of the metrics' namespace and of names in messages. */
  readonly stack: string;
  readonly vip: string;
  /** Name → id of every route table of the VPC; one without the route can't reach the address. */
  readonly routeTables: Readonly<Record<string, pulumi.Output<string>>>;
  /** The network interface that the routes are made with. @default none yet: `route` is called once it exists */
  readonly initialHolder?: pulumi.Input<string>;
  /** Who gets the alarms by e-mail. @default `config.alarmEmail` */
  readonly alarmEmail?: string | undefined;
}

export class OverlayAddress extends pulumi.ComponentResource {
  /** The topic that alarms go to: the keeper's own, and those of others who were given it. */
  readonly topicArn: pulumi.Output<string>;
  /** Encrypts the topic; whoever publishes must be allowed to use it. */
  readonly topicKeyArn: pulumi.Output<string>;
  readonly #args: OverlayAddressArgs;
  readonly #partition: pulumi.Output<aws.GetPartitionResult>;
  readonly #account: pulumi.Output<string>;
  #routed = false;

  constructor(name: string, args: OverlayAddressArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:edge:OverlayAddress", name, {}, opts);
    this.#args = args;
    const { stack, config } = args;
    this.#partition = aws.getPartitionOutput({}, { parent: this });
    this.#account = aws.getCallerIdentityOutput({}, { parent: this }).accountId;

    // AWS's own key for SNS lets no CloudWatch alarm through: its policy can't be changed.
    const key = new aws.kms.Key(
      `${name}-alarms`,
      {
        description: `Encrypts the alarms of siem-ha ${stack}`,
        enableKeyRotation: true,
        deletionWindowInDays: 7,
        policy: pulumi
          .all([this.#partition.partition, this.#account])
          .apply(([partition, account]) => JSON.stringify(alarmKeyPolicy(partition, account))),
        tags: { Name: `${stack}-alarms` },
      },
      { parent: this },
    );
    this.topicKeyArn = key.arn;
    const topic = new aws.sns.Topic(
      `${name}-alarms`,
      {
        displayName: `siem-ha ${stack}`,
        kmsMasterKeyId: key.arn,
        tags: { Name: `${stack}-alarms` },
      },
      { parent: this },
    );
    this.topicArn = topic.arn;
    new aws.sns.TopicPolicy(
      `${name}-alarms`,
      {
        arn: topic.arn,
        policy: pulumi
          .all([topic.arn, this.#account])
          .apply(([arn, account]) => JSON.stringify(alarmTopicPolicy(arn, account))),
      },
      { parent: this },
    );
    const email = args.alarmEmail ?? config.alarmEmail;
    if (email !== undefined) {
      new aws.sns.TopicSubscription(
        `${name}-alarm-email`,
        { topic: topic.arn, protocol: "email", endpoint: email },
        { parent: this },
      );
    }
    for (const alarm of keeperAlarms(args.vip)) {
      new aws.cloudwatch.MetricAlarm(
        `${name}-${alarm.name}`,
        {
          namespace: metricsNamespace(stack),
          metricName: alarm.metric,
          statistic: alarm.statistic,
          comparisonOperator: alarm.comparison,
          threshold: 1,
          period: 60,
          evaluationPeriods: alarm.minutes,
          treatMissingData: alarm.missing,
          alarmDescription: alarm.description,
          alarmActions: [topic.arn],
          okActions: [topic.arn],
          tags: { Name: `${stack}-${alarm.name}` },
        },
        { parent: this },
      );
    }
    if (args.initialHolder !== undefined) this.route(args.initialHolder);
    this.registerOutputs();
  }

  /**
   * Makes the routes, to this network interface. Where they point later is Keepalived's business: `up` never moves
   * them back.
   */
  route(initialHolder: pulumi.Input<string>): readonly aws.ec2.Route[] {
    if (this.#routed) throw new Error("the routes to the virtual IP are made once; route() was called again");
    this.#routed = true;
    return Object.entries(this.#args.routeTables).map(
      ([table, routeTableId]) =>
        new aws.ec2.Route(
          `vip-${table}`,
          {
            routeTableId,
            destinationCidrBlock: `${this.#args.vip}/32`,
            networkInterfaceId: initialHolder,
          },
          { parent: this, ignoreChanges: ["networkInterfaceId"], deleteBeforeReplace: true },
        ),
    );
  }

  /** What the load balancers' role must allow, and no more, as a policy document. */
  policy(): pulumi.Output<string> {
    const { routeTables, config, stack } = this.#args;
    return pulumi
      .all([this.#partition.partition, this.#account, this.topicArn, this.topicKeyArn, routeTables])
      .apply(([partition, account, topic, topicKey, tables]) =>
        JSON.stringify(
          keeperPolicy({
            routeTables: Object.values(tables).map(
              (id) => `arn:${partition}:ec2:${config.region}:${account}:route-table/${id}`,
            ),
            topic,
            topicKey,
            namespace: metricsNamespace(stack),
            region: config.region,
          }),
        ),
      );
  }

  /**
   * What the keeper on a node must know to make the routes follow the address.
   * @param networkInterface the node's own
   */
  cloud(networkInterface: pulumi.Input<string>): pulumi.Output<KeeperCloud> {
    const { config, stack, routeTables } = this.#args;
    return pulumi
      .all([this.#partition.dnsSuffix, this.topicArn, networkInterface, routeTables])
      .apply(([dnsSuffix, topic, ownInterface, tables]) => ({
        region: config.region,
        dnsSuffix,
        routeTables: tables,
        networkInterface: ownInterface,
        topic,
        metrics: metricsNamespace(stack),
      }));
  }
}

/** Namespace of the keeper's metrics in CloudWatch; its role may write to no other. */
export function metricsNamespace(stack: string): string {
  return `siem-ha/${stack}`;
}

interface KeeperAlarm {
  readonly name: string;
  readonly metric: "VipHolder" | "VipRoutesWrong" | "WitnessUnreachable";
  readonly statistic: "Maximum" | "Sum";
  readonly comparison: "LessThanThreshold" | "GreaterThanOrEqualToThreshold";
  readonly minutes: number;
  readonly missing: "breaching" | "notBreaching";
  readonly description: string;
}

/** What is watched from outside, so that a keeper that can't even send its alarm is noticed too. */
export function keeperAlarms(vip: string): readonly KeeperAlarm[] {
  return [
    {
      name: "vip-has-no-holder",
      metric: "VipHolder",
      statistic: "Sum",
      comparison: "LessThanThreshold",
      minutes: 3,
      missing: "breaching",
      description: `No load balancer has said for three minutes that it holds ${vip}: it is held by nobody, or its holder can't reach CloudWatch. Look at the logs of keepalived-1 and keepalived-2.`,
    },
    {
      name: "vip-routes-wrong",
      metric: "VipRoutesWrong",
      statistic: "Maximum",
      comparison: "GreaterThanOrEqualToThreshold",
      minutes: 2,
      missing: "notBreaching",
      description: `The holder of ${vip} can't make every route table point to itself: some subnets don't reach the address. The log of the holder's Keepalived names the tables and the cause.`,
    },
    {
      name: "vip-witness-unreachable",
      metric: "WitnessUnreachable",
      statistic: "Maximum",
      comparison: "GreaterThanOrEqualToThreshold",
      minutes: 5,
      missing: "notBreaching",
      description: `The holder of ${vip} hasn't reached the witness on lb-node-3 for five minutes. The address works, but losing another load balancer now takes it away.`,
    },
  ];
}

/** The keeper's rights. Describe calls can't be limited to a resource; everything else is. */
export function keeperPolicy(args: {
  readonly routeTables: readonly string[];
  readonly topic: string;
  readonly topicKey: string;
  readonly namespace: string;
  readonly region: string;
}) {
  return {
    Version: "2012-10-17",
    Statement: [
      { Sid: "MoveTheAddress", Effect: "Allow", Action: "ec2:ReplaceRoute", Resource: args.routeTables },
      {
        Sid: "SeeWhereItPoints",
        Effect: "Allow",
        Action: "ec2:DescribeRouteTables",
        Resource: "*",
        Condition: { StringEquals: { "aws:RequestedRegion": args.region } },
      },
      { Sid: "RaiseAlarms", Effect: "Allow", Action: "sns:Publish", Resource: args.topic },
      {
        Sid: "EncryptAlarms",
        Effect: "Allow",
        Action: ["kms:GenerateDataKey", "kms:Decrypt"],
        Resource: args.topicKey,
      },
      {
        Sid: "SayWhoHoldsIt",
        Effect: "Allow",
        Action: "cloudwatch:PutMetricData",
        Resource: "*",
        Condition: { StringEquals: { "cloudwatch:namespace": args.namespace } },
      },
    ],
  };
}

function alarmKeyPolicy(partition: string, account: string) {
  return {
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "AccountDecidesByIam",
        Effect: "Allow",
        Principal: { AWS: `arn:${partition}:iam::${account}:root` },
        Action: "kms:*",
        Resource: "*",
      },
      {
        Sid: "AlarmsOfThisAccount",
        Effect: "Allow",
        Principal: { Service: "cloudwatch.amazonaws.com" },
        Action: ["kms:GenerateDataKey*", "kms:Decrypt"],
        // A service that doesn't say for whom it works would lose its alarms; the topic's policy looks at the account.
        Resource: "*",
      },
    ],
  };
}

function alarmTopicPolicy(topic: string, account: string) {
  return {
    Version: "2012-10-17",
    Statement: [
      {
        Sid: "AlarmsOfThisAccount",
        Effect: "Allow",
        Principal: { Service: "cloudwatch.amazonaws.com" },
        Action: "sns:Publish",
        Resource: topic,
        Condition: { StringEquals: { "aws:SourceAccount": account } },
      },
      {
        Sid: "OnlyOverTls",
        Effect: "Deny",
        Principal: "*",
        Action: "sns:Publish",
        Resource: topic,
        Condition: { Bool: { "aws:SecureTransport": "false" } },
      },
    ],
  };
}
