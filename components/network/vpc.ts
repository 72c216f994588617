// The network of the machines: a VPC over three zones, with subnets that later ones never move.

import * as aws from "@pulumi/aws";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { planAddresses } from "./addresses.ts";

export interface VpcArgs {
  readonly config: AwsConfig;
  /** Name of the stack: part of every `Name` tag. */
  readonly stack: string;
  /** Names of the availability zones, in the order of the zone numbers. */
  readonly zones: readonly string[];
}

/** AWS's own time source, reachable in every VPC without a route. */
const timeSource = "169.254.169.123";

/**
 * Public subnets hold NAT gateways, the public entry and a bastion; machines are in private ones. Everything is named
 * by its zone's number and has its own block, so one more subnet or zone changes none of the others.
 */
export class Vpc extends pulumi.ComponentResource {
  readonly vpcId: pulumi.Output<string>;
  /** In the order of the zones. */
  readonly publicSubnetIds: readonly pulumi.Output<string>[];
  /** In the order of the zones; each is given out only once its machines' addresses are reserved in it. */
  readonly privateSubnetIds: readonly pulumi.Output<string>[];
  /** Every route table of the VPC: `main`, `public`, `private-1`, … */
  readonly routeTables: Readonly<Record<string, pulumi.Output<string>>>;
  /** What a machine has to wait for before it can reach the internet. */
  readonly ready: readonly pulumi.Resource[];

  constructor(name: string, args: VpcArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:network:Vpc", name, {}, opts);
    const { config, stack, zones } = args;
    const plan = planAddresses(config.cidr);
    const tags = (thing: string) => ({ Name: `${stack}-${thing}` });
    const child = { parent: this };

    const vpc = new aws.ec2.Vpc(
      name,
      { cidrBlock: config.cidr, enableDnsSupport: true, enableDnsHostnames: true, tags: tags("vpc") },
      child,
    );
    const gateway = new aws.ec2.InternetGateway(
      `${name}-internet`,
      { vpcId: vpc.id, tags: tags("internet") },
      child,
    );
    // Nothing may use the group that everything without a group would get.
    new aws.ec2.DefaultSecurityGroup(
      `${name}-default`,
      { vpcId: vpc.id, ingress: [], egress: [], tags: tags("default-unused") },
      child,
    );
    const dhcp = new aws.ec2.VpcDhcpOptions(
      `${name}-dhcp`,
      {
        domainName: config.domain,
        domainNameServers: ["AmazonProvidedDNS"],
        ntpServers: [timeSource],
        tags: tags("dhcp"),
      },
      child,
    );
    const names = new aws.ec2.VpcDhcpOptionsAssociation(
      `${name}-dhcp`,
      { vpcId: vpc.id, dhcpOptionsId: dhcp.id },
      child,
    );

    // Routes are resources of their own everywhere: the overlay address's are added later and move.
    const main = new aws.ec2.DefaultRouteTable(
      `${name}-main`,
      { defaultRouteTableId: vpc.defaultRouteTableId, tags: tags("main") },
      child,
    );
    const outward = new aws.ec2.RouteTable(`${name}-public`, { vpcId: vpc.id, tags: tags("public") }, child);
    const internet = new aws.ec2.Route(
      `${name}-public-internet`,
      { routeTableId: outward.id, destinationCidrBlock: "0.0.0.0/0", gatewayId: gateway.id },
      child,
    );
    const subnet = (
      tier: "public" | "private",
      zone: number,
      availabilityZone: string,
      cidrBlock?: string,
    ) => {
      if (cidrBlock === undefined) throw new Error(`the address plan has no ${tier} block for zone ${zone}`);
      return new aws.ec2.Subnet(
        `${name}-${tier}-${zone}`,
        {
          vpcId: vpc.id,
          availabilityZone,
          cidrBlock,
          mapPublicIpOnLaunch: false,
          // A machine answers to its instance id, by which the bastion finds it.
          ...(tier === "private" ? { enableResourceNameDnsARecordOnLaunch: true } : {}),
          tags: tags(`${tier}-${zone}`),
        },
        child,
      );
    };
    const associate = (
      tier: "public" | "private",
      zone: number,
      ids: { subnet: aws.ec2.Subnet; table: aws.ec2.RouteTable },
    ) =>
      new aws.ec2.RouteTableAssociation(
        `${name}-${tier}-${zone}`,
        { subnetId: ids.subnet.id, routeTableId: ids.table.id },
        child,
      );

    const publicSubnetIds: pulumi.Output<string>[] = [];
    const privateSubnetIds: pulumi.Output<string>[] = [];
    const routeTables: Record<string, pulumi.Output<string>> = { main: main.id, public: outward.id };
    const ready: pulumi.Resource[] = [names, internet];
    const gateways: aws.ec2.NatGateway[] = [];
    for (const [index, availabilityZone] of zones.entries()) {
      const zone = index + 1;
      const open = subnet("public", zone, availabilityZone, plan.public[index]);
      publicSubnetIds.push(open.id);
      ready.push(associate("public", zone, { subnet: open, table: outward }));
      if (zone === 1 || config.tier === "prod") {
        const address = new aws.ec2.Eip(
          `${name}-nat-${zone}`,
          { domain: "vpc", tags: tags(`nat-${zone}`) },
          { parent: this, dependsOn: [gateway] },
        );
        gateways.push(
          new aws.ec2.NatGateway(
            `${name}-nat-${zone}`,
            { subnetId: open.id, allocationId: address.id, tags: tags(`nat-${zone}`) },
            { parent: this, dependsOn: [internet] },
          ),
        );
      }

      const closed = subnet("private", zone, availabilityZone, plan.private[index]);
      const reservations = plan.reserved(zone).map(
        (cidrBlock, block) =>
          new aws.ec2.SubnetCidrReservation(
            `${name}-private-${zone}-machines-${block + 1}`,
            {
              subnetId: closed.id,
              cidrBlock,
              reservationType: "explicit",
              description: "fixed addresses of the machines",
            },
            child,
          ),
      );
      privateSubnetIds.push(
        pulumi
          .all([closed.id, pulumi.all(reservations.map((reservation) => reservation.id))])
          .apply(([id]) => id),
      );
      const table = new aws.ec2.RouteTable(
        `${name}-private-${zone}`,
        { vpcId: vpc.id, tags: tags(`private-${zone}`) },
        child,
      );
      routeTables[`private-${zone}`] = table.id;
      // In dev all zones leave through the first one's gateway; a change of tier changes this route in place.
      const nat = gateways[index] ?? gateways[0];
      if (nat === undefined) throw new Error("the first zone has a NAT gateway in every tier");
      ready.push(
        new aws.ec2.Route(
          `${name}-private-${zone}-internet`,
          { routeTableId: table.id, destinationCidrBlock: "0.0.0.0/0", natGatewayId: nat.id },
          child,
        ),
        associate("private", zone, { subnet: closed, table }),
      );
    }

    // No policy of its own: machines can leave by HTTPS anyway, and one that forgets a bucket of AWS's (image layers,
    // the SSM agent) fails far from its cause. The roles and the bucket's policy decide who may do what.
    const objects = new aws.ec2.VpcEndpoint(
      `${name}-s3`,
      {
        vpcId: vpc.id,
        serviceName: `com.amazonaws.${config.region}.s3`,
        vpcEndpointType: "Gateway",
        routeTableIds: Object.entries(routeTables)
          .filter(([table]) => table.startsWith("private-"))
          .map(([, id]) => id),
        tags: tags("s3"),
      },
      child,
    );

    this.vpcId = vpc.id;
    this.publicSubnetIds = publicSubnetIds;
    this.privateSubnetIds = privateSubnetIds;
    this.routeTables = routeTables;
    this.ready = [...ready, objects];
    this.registerOutputs({ vpcId: this.vpcId });
  }
}
