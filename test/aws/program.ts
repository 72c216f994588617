// What must hold for the whole program on AWS, whichever stack: run under mocks with exact counts.

import { beforeAll, describe, expect, it } from "vitest";
import { type Registration, runProgram, testSecrets } from "../mocks.ts";
import { settings } from "./stack.ts";

/** Resources that do not depend on the tier. */
export const commonCounts = {
  "pulumi:providers:aws": 1,
  "pulumi:providers:docker": 9,
  "aws:ec2/vpc:Vpc": 1,
  "aws:ec2/vpcDhcpOptions:VpcDhcpOptions": 1,
  "aws:ec2/vpcDhcpOptionsAssociation:VpcDhcpOptionsAssociation": 1,
  "aws:ec2/internetGateway:InternetGateway": 1,
  // Public and private, three zones; in each private one, three reserved addresses.
  "aws:ec2/subnet:Subnet": 6,
  "aws:ec2/subnetCidrReservation:SubnetCidrReservation": 9,
  // One public, three private, and the VPC's own. Ways out of the first four, and the VIP in all five.
  "aws:ec2/routeTable:RouteTable": 4,
  "aws:ec2/defaultRouteTable:DefaultRouteTable": 1,
  "aws:ec2/routeTableAssociation:RouteTableAssociation": 6,
  "aws:ec2/route:Route": 4 + 5,
  "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": 1,
  // S3's gateway, EC2's interface.
  "aws:ec2/vpcEndpoint:VpcEndpoint": 2,
  "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint": 1,
  "aws:route53/zone:Zone": 2,
  // Nine nodes; names of slots: 10 on the load balancers, 6 on stream, 3 on store, the cluster; the VIP.
  "aws:route53/record:Record": 9 + 10 + 6 + 3 + 1 + 1,
  "aws:ec2/instance:Instance": 9,
  "aws:ec2/networkInterface:NetworkInterface": 9,
  "aws:ebs/volume:Volume": 9,
  "aws:ec2/volumeAttachment:VolumeAttachment": 9,
  "aws:iam/instanceProfile:InstanceProfile": 9,
  "aws:ssm/parameter:Parameter": 9,
  // Two for each machine, three for the VIP.
  "aws:cloudwatch/metricAlarm:MetricAlarm": 9 * 2 + 3,
  "aws:sns/topic:Topic": 1,
  "aws:sns/topicPolicy:TopicPolicy": 1,
  "aws:ecr/repository:Repository": 5,
  "aws:ecr/lifecyclePolicy:LifecyclePolicy": 5,
  // Nine anchors; five services of three; retention beside each ClickHouse; two HAProxy, two Keepalived; the witness;
  // nine supervisors with a watchdog each.
  "docker:index/container:Container": 9 + 15 + 3 + 4 + 1 + 9 * 2,
  "docker:index/volume:Volume": 12 + 2 + 2 + 9,
  // The anchor's on nine machines, ZooKeeper's, Kafka's, ClickHouse's on three each, HAProxy's on two.
  "docker:index/remoteImage:RemoteImage": 9 + 9 + 2,
  // Nine machines' readiness; five images published, and pulled 9 + 9 times; then as on one daemon: gates 10, formed or
  // ready 6, check of the topics, topics, recovery, schema, migration 5, HAProxy 5; and the witness's gate.
  "command:local:Command": 9 + 5 + 9 + 9 + 10 + 6 + 5 + 5 + 1,
};

/** Runs the program with these settings and holds it against the rules; each test file does so once. */
export function describeStack(
  stack: string,
  aws: object,
  counts: Readonly<Record<string, number>>,
  more: (ofType: (type: string) => readonly Registration[]) => void,
): void {
  let resources: readonly Registration[];
  let urns: readonly string[];
  const ofType = (type: string) => resources.filter((resource) => resource.type === type);

  beforeAll(async () => {
    ({ resources, urns } = await runProgram(settings(aws), stack));
  });

  describe(`the stack ${stack}`, () => {
    it("has exactly these resources", () => {
      const found: Record<string, number> = {};
      for (const { type } of resources) found[type] = (found[type] ?? 0) + 1;
      expect(found).toEqual({ ...commonCounts, ...counts });
    });

    it("gives every resource a URN of its own", () => {
      expect(new Set(urns).size).toBe(urns.length);
    });

    it("makes every container on its own node's machine", () => {
      for (const { name, provider } of ofType("docker:index/container:Container")) {
        const node = /^(lb|stream|store)-node-[123]/.exec(name)?.[0] ?? nodeOf(name);
        expect(provider, name).toContain(`::${node}-docker::`);
      }
    });

    it("uses the stack's AWS provider, never the default one", () => {
      for (const { name, type, provider } of resources.filter((resource) =>
        resource.type.startsWith("aws:"),
      )) {
        expect(provider, `${type} ${name}`).toContain("pulumi:providers:aws::aws::");
      }
    });

    it("runs guests in the machine's namespace, and the pair in its anchor's", () => {
      for (const { name, inputs } of ofType("docker:index/container:Container")) {
        const joins = /^(haproxy|keepalived)-/.test(name);
        if (/-(supervisor|watchdog)$/.test(name)) {
          expect(inputs["networkMode"], name).toBe("none");
          continue;
        }
        expect(inputs["networkMode"], name).toMatch(joins ? /^container:lb-node-[12]-anchor-id$/ : /^host$/);
        expect(inputs["ports"], name).toBeUndefined();
      }
    });

    it("never puts a secret into a command, a variable or a label", () => {
      for (const { name, inputs } of resources) {
        const { stdin: _stdin, uploads: _uploads, ...rest } = inputs;
        const text = JSON.stringify(rest);
        for (const secret of Object.values(testSecrets)) expect(text.includes(secret), name).toBe(false);
      }
      expect(JSON.stringify(resources)).toContain(testSecrets["siem-ha:databasePassword"]);
    });

    it("keeps every quorum: no zone has more than one of three", () => {
      const zones: Record<string, string[]> = {};
      for (const { name, inputs } of ofType("aws:ebs/volume:Volume")) {
        (zones[String(inputs["availabilityZone"])] ??= []).push(name.replace(/-[123]-data$/, ""));
      }
      expect(Object.keys(zones)).toHaveLength(3);
      for (const roles of Object.values(zones)) {
        expect(roles.sort()).toEqual(["lb-node", "store-node", "stream-node"]);
      }
    });

    it("gives every machine its fixed address, and only the pair may carry another", () => {
      const interfaces = ofType("aws:ec2/networkInterface:NetworkInterface");
      const addresses = interfaces.flatMap(({ inputs }) => inputs["privateIps"] as string[]);
      expect(new Set(addresses).size).toBe(9);
      const unchecked = interfaces.filter(({ inputs }) => inputs["sourceDestCheck"] === false);
      expect(unchecked.map(({ name }) => name).sort()).toEqual(["lb-node-1", "lb-node-2"]);
    });

    it("lets the keeper of the virtual IP become its own account, and gives nobody else more", () => {
      for (const { name, inputs } of ofType("docker:index/container:Container")) {
        const { adds } = inputs["capabilities"] as { adds?: string[] };
        if (!name.startsWith("keepalived-")) continue;
        expect(adds, name).toEqual(["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID"]);
      }
    });

    more((type) => ofType(type));
  });
}

/** `kafka-2` lives on `stream-node-2`. */
function nodeOf(name: string): string {
  const slot = /-([123])(-retention)?$/.exec(name)?.[1];
  if (/^(zookeeper|kafka)-/.test(name)) return `stream-node-${slot}`;
  if (name.startsWith("clickhouse-")) return `store-node-${slot}`;
  return name === "witness" ? "lb-node-3" : `lb-node-${slot}`;
}
