// What the recorder knows about AWS's types: how ids look, which changes take a new resource, what is computed, what
// blocks a deletion. From the provider's documentation and EC2's API reference; a type that is not here is refused.

import { randomBytes } from "node:crypto";
import type { Props } from "../plugins/server.ts";

export const account = "123456789012";

/** What a rule may look at. */
export interface Place {
  readonly region: string;
}

export interface Rule {
  /** The id that AWS gives. */
  id(inputs: Props, place: Place): string;
  /** Inputs whose change takes a new resource. Every other change is made in place. */
  readonly replaces: readonly string[];
  /** The input that gets a name with a random tail if the program gives none. */
  readonly named?: string;
  /** What the program may read besides its inputs. */
  outputs?(id: string, inputs: Props, place: Place): Props;
  /** Things that AWS makes along with it, by id: they can be named by others. */
  along?(state: Props): string[];
  /** Types that hold it, by the input in which they name it: while one exists, it can't be deleted. */
  readonly heldBy?: readonly string[];
  /** Why AWS would refuse to delete it as it is. */
  kept?(state: Props): string | undefined;
  /** Takes no tags. */
  readonly untagged?: true;
}

const hex = (length: number): string => randomBytes(length).toString("hex").slice(0, length);
const withPrefix = (prefix: string) => () => `${prefix}-0${hex(16)}`;
/** A value as text. */
export const text = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));
const arn = (service: string, path: string, { region }: Place): string =>
  `arn:aws:${service}:${region}:${account}:${path}`;
const globalArn = (service: string, path: string): string => `arn:aws:${service}::${account}:${path}`;
const ec2 = (kind: string) => (id: string, _inputs: Props, place: Place) => ({
  arn: arn("ec2", `${kind}/${id}`, place),
  ownerId: account,
});
const byName = (inputs: Props): string => text(inputs["name"]);

const vpc = "aws:ec2/vpc:Vpc";
const subnet = "aws:ec2/subnet:Subnet";
const group = "aws:ec2/securityGroup:SecurityGroup";
const ingress = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule";
const egress = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule";
const eni = "aws:ec2/networkInterface:NetworkInterface";
const instance = "aws:ec2/instance:Instance";
const nat = "aws:ec2/natGateway:NatGateway";
const endpoint = "aws:ec2/vpcEndpoint:VpcEndpoint";
const balancer = "aws:lb/loadBalancer:LoadBalancer";
const connect = "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint";
const association = "aws:ec2/routeTableAssociation:RouteTableAssociation";
const attachment = "aws:ec2/volumeAttachment:VolumeAttachment";

const rule = {
  id: withPrefix("sgr"),
  // The provider changes a rule's ends in place; only its group is fixed.
  replaces: ["securityGroupId"],
  outputs: (id, _inputs, place) => ({
    securityGroupRuleId: id,
    arn: arn("ec2", `security-group-rule/${id}`, place),
  }),
} satisfies Rule;

/** A setting of a bucket: has the bucket's name as id. */
const ofBucket: Rule = {
  id: (inputs) => text(inputs["bucket"]),
  replaces: ["bucket"],
  untagged: true,
};

export const rules: Readonly<Record<string, Rule>> = {
  [vpc]: {
    id: withPrefix("vpc"),
    replaces: ["cidrBlock", "instanceTenancy"],
    outputs: (id, _inputs, place) => ({
      ...ec2("vpc")(id, {}, place),
      mainRouteTableId: `rtb-0${hex(16)}`,
      defaultRouteTableId: `rtb-0${hex(16)}`,
      defaultSecurityGroupId: `sg-0${hex(16)}`,
      defaultNetworkAclId: `acl-0${hex(16)}`,
      dhcpOptionsId: `dopt-0${hex(16)}`,
    }),
    along: (state) =>
      ["mainRouteTableId", "defaultRouteTableId", "defaultSecurityGroupId", "defaultNetworkAclId"].map(
        (key) => text(state[key]),
      ),
    heldBy: [subnet, group, eni, "aws:ec2/internetGateway:InternetGateway", endpoint].concat(
      "aws:ec2/routeTable:RouteTable",
    ),
  },
  [subnet]: {
    id: withPrefix("subnet"),
    replaces: ["vpcId", "cidrBlock", "availabilityZone", "availabilityZoneId"],
    outputs: ec2("subnet"),
    heldBy: [eni, instance, nat, endpoint, balancer, connect],
  },
  "aws:ec2/subnetCidrReservation:SubnetCidrReservation": {
    id: withPrefix("scr"),
    replaces: ["subnetId", "cidrBlock", "reservationType", "description"],
    outputs: () => ({ ownerId: account }),
    untagged: true,
  },
  "aws:ec2/internetGateway:InternetGateway": {
    id: withPrefix("igw"),
    replaces: [],
    outputs: ec2("internet-gateway"),
    // Not named by it, but its public address keeps the gateway.
    heldBy: [nat],
  },
  "aws:ec2/eip:Eip": {
    id: withPrefix("eipalloc"),
    replaces: ["domain", "publicIpv4Pool", "networkBorderGroup", "address"],
    outputs: (id, inputs, place) => ({
      allocationId: id,
      publicIp: "198.51.100.7",
      arn: arn("ec2", `elastic-ip/${id}`, place),
      ...inputs,
    }),
    heldBy: [nat, "aws:ec2/eipAssociation:EipAssociation"],
  },
  "aws:ec2/eipAssociation:EipAssociation": {
    id: withPrefix("eipassoc"),
    replaces: ["allocationId", "instanceId", "networkInterfaceId", "privateIpAddress", "publicIp"],
    untagged: true,
  },
  [nat]: {
    id: withPrefix("nat"),
    replaces: ["allocationId", "subnetId", "connectivityType", "privateIp"],
    outputs: () => ({ publicIp: "198.51.100.7", networkInterfaceId: `eni-0${hex(16)}` }),
  },
  "aws:ec2/routeTable:RouteTable": {
    id: withPrefix("rtb"),
    replaces: ["vpcId"],
    outputs: ec2("route-table"),
    heldBy: [association],
  },
  "aws:ec2/defaultRouteTable:DefaultRouteTable": {
    id: (inputs) => text(inputs["defaultRouteTableId"]),
    replaces: ["defaultRouteTableId"],
    outputs: ec2("route-table"),
  },
  [association]: {
    id: withPrefix("rtbassoc"),
    replaces: ["subnetId", "gatewayId"],
    untagged: true,
  },
  "aws:ec2/route:Route": {
    id: (inputs) =>
      `r-${text(inputs["routeTableId"])}${[...text(inputs["destinationCidrBlock"] ?? "")].reduce((sum, c) => (sum * 31 + c.charCodeAt(0)) >>> 0, 7)}`,
    replaces: ["routeTableId", "destinationCidrBlock", "destinationIpv6CidrBlock", "destinationPrefixListId"],
    outputs: () => ({ state: "active", origin: "CreateRoute" }),
    untagged: true,
  },
  [endpoint]: {
    id: withPrefix("vpce"),
    replaces: ["vpcId", "serviceName", "vpcEndpointType"],
    outputs: (id, _inputs, place) => ({
      arn: arn("ec2", `vpc-endpoint/${id}`, place),
      prefixListId: `pl-${hex(8)}`,
      state: "available",
      networkInterfaceIds: [`eni-0${hex(16)}`],
      dnsEntries: [{ dnsName: `${id}.vpce.${place.region}.vpce.amazonaws.com`, hostedZoneId: "Z0000000" }],
    }),
  },
  "aws:ec2/vpcEndpointRouteTableAssociation:VpcEndpointRouteTableAssociation": {
    id: withPrefix("a-vpce"),
    replaces: ["routeTableId", "vpcEndpointId"],
    untagged: true,
  },
  "aws:ec2/vpcEndpointSubnetAssociation:VpcEndpointSubnetAssociation": {
    id: withPrefix("a-vpce"),
    replaces: ["subnetId", "vpcEndpointId"],
    untagged: true,
  },
  "aws:ec2/vpcDhcpOptions:VpcDhcpOptions": {
    id: withPrefix("dopt"),
    replaces: ["domainName", "domainNameServers", "ntpServers", "netbiosNameServers", "netbiosNodeType"],
    outputs: ec2("dhcp-options"),
    heldBy: ["aws:ec2/vpcDhcpOptionsAssociation:VpcDhcpOptionsAssociation"],
  },
  "aws:ec2/vpcDhcpOptionsAssociation:VpcDhcpOptionsAssociation": {
    id: (inputs) => `${text(inputs["dhcpOptionsId"])}-${text(inputs["vpcId"])}`,
    replaces: ["vpcId"],
    untagged: true,
  },
  "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup": {
    id: (inputs) => `default-of-${text(inputs["vpcId"])}`,
    replaces: ["vpcId"],
    outputs: ec2("security-group"),
  },
  "aws:ec2/defaultNetworkAcl:DefaultNetworkAcl": {
    id: (inputs) => text(inputs["defaultNetworkAclId"]),
    replaces: ["defaultNetworkAclId"],
    outputs: ec2("network-acl"),
  },
  [group]: {
    id: withPrefix("sg"),
    replaces: ["name", "namePrefix", "description", "vpcId"],
    named: "name",
    outputs: ec2("security-group"),
    heldBy: [eni, instance, endpoint, balancer, connect, ingress, egress],
  },
  [ingress]: rule,
  [egress]: rule,
  "aws:ec2/flowLog:FlowLog": {
    id: withPrefix("fl"),
    replaces: [
      "vpcId",
      "subnetId",
      "eniId",
      "trafficType",
      "logDestination",
      "logDestinationType",
      "iamRoleArn",
      "logFormat",
      "maxAggregationInterval",
      "deliverCrossAccountRole",
      "destinationOptions",
    ],
    outputs: (id, _inputs, place) => ({ arn: arn("ec2", `vpc-flow-log/${id}`, place) }),
  },
  [connect]: {
    id: withPrefix("eice"),
    replaces: ["subnetId", "securityGroupIds", "preserveClientIp", "ipAddressType"],
    outputs: (id, _inputs, place) => ({
      arn: arn("ec2", `instance-connect-endpoint/${id}`, place),
      dnsName: `${id}.ec2-instance-connect-endpoint.${place.region}.amazonaws.com`,
      networkInterfaceIds: [`eni-0${hex(16)}`],
    }),
  },
  [eni]: {
    id: withPrefix("eni"),
    replaces: ["subnetId", "interfaceType", "privateIpListEnabled"],
    outputs: (id, inputs, place) => ({
      arn: arn("ec2", `network-interface/${id}`, place),
      macAddress: `0a:${[0, 1, 2, 3, 4].map(() => hex(2)).join(":")}`,
      privateIp: (inputs["privateIps"] as string[] | undefined)?.[0] ?? "10.255.255.254",
      ownerId: account,
    }),
    heldBy: [instance, "aws:ec2/networkInterfaceAttachment:NetworkInterfaceAttachment"],
  },
  "aws:ec2/networkInterfaceAttachment:NetworkInterfaceAttachment": {
    id: withPrefix("eni-attach"),
    replaces: ["deviceIndex", "instanceId", "networkInterfaceId"],
    untagged: true,
  },
  "aws:ec2/keyPair:KeyPair": {
    id: (inputs) => text(inputs["keyName"]),
    replaces: ["keyName", "publicKey"],
    named: "keyName",
  },
  [instance]: {
    id: withPrefix("i"),
    replaces: [
      "ami",
      "availabilityZone",
      "subnetId",
      "privateIp",
      "keyName",
      "networkInterfaces",
      "primaryNetworkInterface",
      "ephemeralBlockDevices",
      "getPasswordData",
      "hibernation",
      "placementGroup",
      "tenancy",
      "userDataReplaceOnChange",
    ],
    outputs: (id, inputs, place) => ({
      arn: arn("ec2", `instance/${id}`, place),
      instanceState: "running",
      primaryNetworkInterfaceId: primaryInterface(inputs) ?? `eni-0${hex(16)}`,
      privateDns: `${id}.${place.region}.compute.internal`,
    }),
    // Nothing of these holds a machine: terminating it detaches them.
    kept: (state) =>
      state["disableApiTermination"] === true && state["forceDestroy"] !== true
        ? "OperationNotPermitted: The instance may not be terminated. Modify its 'disableApiTermination' instance attribute and try again"
        : undefined,
  },
  "aws:ebs/volume:Volume": {
    id: withPrefix("vol"),
    replaces: ["availabilityZone", "encrypted", "kmsKeyId", "snapshotId", "multiAttachEnabled", "outpostArn"],
    outputs: (id, _inputs, place) => ({ arn: arn("ec2", `volume/${id}`, place) }),
    heldBy: [attachment],
  },
  [attachment]: {
    id: withPrefix("vai"),
    replaces: ["deviceName", "instanceId", "volumeId"],
    untagged: true,
    kept: (state) =>
      state["stopInstanceBeforeDetaching"] === true ||
      state["forceDetach"] === true ||
      state["skipDestroy"] === true
        ? undefined
        : "VolumeInUse: the volume is mounted and the instance runs, so it stays busy (set stopInstanceBeforeDetaching)",
  },
  "aws:ebs/encryptionByDefault:EncryptionByDefault": { id: () => "terraform", replaces: [], untagged: true },
  "aws:route53/zone:Zone": {
    id: () => `Z0${hex(18).toUpperCase()}`,
    replaces: ["name", "delegationSetId"],
    outputs: (id) => ({
      zoneId: id,
      arn: `arn:aws:route53:::hostedzone/${id}`,
      nameServers: ["ns-1.awsdns.invalid"],
      primaryNameServer: "ns-1.awsdns.invalid",
    }),
    heldBy: ["aws:route53/record:Record"],
  },
  "aws:route53/record:Record": {
    id: (inputs) => `${text(inputs["zoneId"])}_${text(inputs["name"])}_${text(inputs["type"])}`,
    replaces: ["zoneId", "name", "type", "setIdentifier"],
    outputs: (_id, inputs) => ({ fqdn: inputs["name"] }),
    untagged: true,
  },
  "aws:cloudwatch/logGroup:LogGroup": {
    id: byName,
    replaces: ["name", "namePrefix", "logGroupClass"],
    named: "name",
    outputs: (id, _inputs, place) => ({ arn: arn("logs", `log-group:${id}`, place) }),
  },
  "aws:cloudwatch/metricAlarm:MetricAlarm": {
    id: byName,
    replaces: ["name"],
    named: "name",
    outputs: (id, _inputs, place) => ({ arn: arn("cloudwatch", `alarm:${id}`, place) }),
  },
  "aws:iam/role:Role": {
    id: byName,
    replaces: ["name", "namePrefix", "path"],
    named: "name",
    outputs: (id) => ({ arn: globalArn("iam", `role/${id}`), uniqueId: `AROA${hex(17).toUpperCase()}` }),
    heldBy: [
      "aws:iam/rolePolicy:RolePolicy",
      "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
      "aws:iam/instanceProfile:InstanceProfile",
    ],
  },
  "aws:iam/rolePolicy:RolePolicy": {
    id: (inputs) => `${text(inputs["role"])}:${text(inputs["name"])}`,
    replaces: ["name", "namePrefix", "role"],
    named: "name",
    untagged: true,
  },
  "aws:iam/rolePolicyAttachment:RolePolicyAttachment": {
    id: (inputs) => `${text(inputs["role"])}-${text(inputs["policyArn"])}`,
    replaces: ["role", "policyArn"],
    untagged: true,
  },
  "aws:iam/policy:Policy": {
    id: (inputs) => globalArn("iam", `policy/${byName(inputs)}`),
    replaces: ["name", "namePrefix", "path", "description"],
    named: "name",
    outputs: (id) => ({ arn: id, policyId: `ANPA${hex(17).toUpperCase()}` }),
    heldBy: ["aws:iam/rolePolicyAttachment:RolePolicyAttachment"],
  },
  "aws:iam/instanceProfile:InstanceProfile": {
    id: byName,
    replaces: ["name", "namePrefix", "path"],
    named: "name",
    outputs: (id) => ({
      arn: globalArn("iam", `instance-profile/${id}`),
      uniqueId: `AIPA${hex(17).toUpperCase()}`,
    }),
  },
  "aws:kms/key:Key": {
    id: () => `${hex(8)}-${hex(4)}-4${hex(3)}-8${hex(3)}-${hex(12)}`,
    replaces: ["customerMasterKeySpec", "keyUsage", "multiRegion", "customKeyStoreId", "xksKeyId"],
    outputs: (id, _inputs, place) => ({ keyId: id, arn: arn("kms", `key/${id}`, place) }),
  },
  "aws:kms/alias:Alias": {
    id: byName,
    replaces: ["name", "namePrefix"],
    named: "name",
    outputs: (id, _inputs, place) => ({ arn: arn("kms", id, place) }),
    untagged: true,
  },
  "aws:kms/keyPolicy:KeyPolicy": {
    id: (inputs) => text(inputs["keyId"]),
    replaces: ["keyId"],
    untagged: true,
  },
  "aws:sns/topic:Topic": {
    id: (inputs, place) => arn("sns", byName(inputs), place),
    replaces: ["name", "namePrefix", "fifoTopic"],
    named: "name",
    outputs: (id) => ({ arn: id, owner: account }),
  },
  "aws:sns/topicPolicy:TopicPolicy": {
    id: (inputs) => text(inputs["arn"]),
    replaces: ["arn"],
    untagged: true,
  },
  "aws:sns/topicSubscription:TopicSubscription": {
    id: (inputs) => `${text(inputs["topic"])}:${hex(8)}-${hex(4)}-4${hex(3)}-8${hex(3)}-${hex(12)}`,
    replaces: ["topic", "protocol", "endpoint"],
    outputs: (id) => ({ arn: id, pendingConfirmation: true }),
    untagged: true,
  },
  "aws:s3/bucket:Bucket": {
    id: (inputs) => text(inputs["bucket"]),
    replaces: ["bucket", "bucketPrefix", "objectLockEnabled", "bucketNamespace"],
    named: "bucket",
    outputs: (id, _inputs, place) => ({
      arn: `arn:aws:s3:::${id}`,
      bucketDomainName: `${id}.s3.amazonaws.com`,
      bucketRegionalDomainName: `${id}.s3.${place.region}.amazonaws.com`,
      hostedZoneId: "Z00000000",
    }),
  },
  "aws:s3/bucketVersioning:BucketVersioning": ofBucket,
  "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": ofBucket,
  "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": ofBucket,
  "aws:s3/bucketOwnershipControls:BucketOwnershipControls": ofBucket,
  "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": ofBucket,
  "aws:s3/bucketPolicy:BucketPolicy": ofBucket,
  "aws:s3/bucketLogging:BucketLogging": ofBucket,
  "aws:dlm/lifecyclePolicy:LifecyclePolicy": {
    id: withPrefix("policy"),
    replaces: [],
    outputs: (id, _inputs, place) => ({ arn: arn("dlm", `policy/${id}`, place) }),
  },
  "aws:ecr/repository:Repository": {
    id: byName,
    replaces: ["name", "encryptionConfigurations"],
    named: "name",
    outputs: (id, _inputs, place) => ({
      arn: arn("ecr", `repository/${id}`, place),
      registryId: account,
      repositoryUrl: `${account}.dkr.ecr.${place.region}.amazonaws.com/${id}`,
    }),
  },
  "aws:ecr/lifecyclePolicy:LifecyclePolicy": {
    id: (inputs) => text(inputs["repository"]),
    replaces: ["repository", "policy"],
    outputs: () => ({ registryId: account }),
    untagged: true,
  },
  "aws:ecr/repositoryPolicy:RepositoryPolicy": {
    id: (inputs) => text(inputs["repository"]),
    replaces: ["repository"],
    outputs: () => ({ registryId: account }),
    untagged: true,
  },
  [balancer]: {
    id: (inputs, place) =>
      arn("elasticloadbalancing", `loadbalancer/net/${byName(inputs)}/${hex(16)}`, place),
    replaces: ["name", "namePrefix", "internal", "loadBalancerType", "customerOwnedIpv4Pool"],
    named: "name",
    outputs: (id, inputs, place) => ({
      arn: id,
      arnSuffix: id.split("loadbalancer/")[1],
      dnsName: `${byName(inputs)}.elb.${place.region}.amazonaws.com`,
      zoneId: "Z00000000",
    }),
    kept: (state) =>
      state["enableDeletionProtection"] === true
        ? "OperationNotPermitted: Load balancer cannot be deleted because deletion protection is enabled"
        : undefined,
  },
  "aws:lb/targetGroup:TargetGroup": {
    id: (inputs, place) => arn("elasticloadbalancing", `targetgroup/${byName(inputs)}/${hex(16)}`, place),
    replaces: [
      "name",
      "namePrefix",
      "port",
      "protocol",
      "protocolVersion",
      "targetType",
      "vpcId",
      "ipAddressType",
    ],
    named: "name",
    outputs: (id) => ({ arn: id, arnSuffix: id.split(":").at(-1) }),
    heldBy: ["aws:lb/listener:Listener"],
  },
  "aws:lb/targetGroupAttachment:TargetGroupAttachment": {
    id: (inputs) => `${text(inputs["targetGroupArn"])}-${hex(26)}`,
    replaces: ["targetGroupArn", "targetId", "port", "availabilityZone"],
    untagged: true,
  },
  "aws:lb/listener:Listener": {
    id: (inputs) => `${text(inputs["loadBalancerArn"]).replace(":loadbalancer/", ":listener/")}/${hex(16)}`,
    replaces: ["loadBalancerArn"],
    outputs: (id) => ({ arn: id }),
  },
  "aws:ssm/parameter:Parameter": {
    id: byName,
    replaces: ["name"],
    named: "name",
    outputs: (id, _inputs, place) => ({ arn: arn("ssm", `parameter${id}`, place), version: 1 }),
  },
};

/** The interface that an instance is started with, if the program makes it. */
export function primaryInterface(inputs: Props): string | undefined {
  const primary = inputs["primaryNetworkInterface"] as { networkInterfaceId?: string } | undefined;
  const listed = inputs["networkInterfaces"] as
    { networkInterfaceId?: string; deviceIndex?: number }[] | undefined;
  return (
    primary?.networkInterfaceId ?? listed?.find(({ deviceIndex }) => deviceIndex === 0)?.networkInterfaceId
  );
}
