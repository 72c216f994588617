// What AWS charges, and which instance types a stack may name: one dated table, an estimate and never a quote. Pure.

/** Regions whose prices are here; for another one the estimate needs to be told which of them to calculate with. */
export const pricedRegions = ["eu-central-1", "us-east-1"] as const;
export type PricedRegion = (typeof pricedRegions)[number];

/** Where the numbers come from. They were compiled by hand, and no program has compared them with AWS's own. */
export const priceSource = {
  compiled: "2026-11-21",
  kind: "on-demand list prices in USD, without taxes, free tiers and discounts",
  urls: [
    "https://aws.amazon.com/ec2/pricing/on-demand/",
    "https://aws.amazon.com/ebs/pricing/",
    "https://aws.amazon.com/vpc/pricing/",
    "https://aws.amazon.com/privatelink/pricing/",
    "https://aws.amazon.com/elasticloadbalancing/pricing/",
    "https://aws.amazon.com/cloudwatch/pricing/",
    "https://aws.amazon.com/s3/pricing/",
    "https://aws.amazon.com/ecr/pricing/",
    "https://aws.amazon.com/kms/pricing/",
    "https://aws.amazon.com/route53/pricing/",
  ],
} as const;

/** Hours of an average month, as AWS's own calculator counts them. */
export const hoursPerMonth = 730;

export type Architecture = "x86-64" | "arm64";

export interface InstanceType {
  readonly architecture: Architecture;
  readonly vcpu: number;
  readonly memoryGib: number;
  /** USD for an hour of Linux. */
  readonly hourly: Readonly<Record<PricedRegion, number>>;
}

const type = (
  architecture: Architecture,
  vcpu: number,
  memoryGib: number,
  frankfurt: number,
  virginia: number,
): InstanceType => ({
  architecture,
  vcpu,
  memoryGib,
  hourly: { "eu-central-1": frankfurt, "us-east-1": virginia },
});

/** The instance types that a stack may use: all of them are Nitro machines, so disks show up as NVMe devices. */
export const instanceTypes: Readonly<Record<string, InstanceType>> = {
  "t3.small": type("x86-64", 2, 2, 0.024, 0.0208),
  "t3.medium": type("x86-64", 2, 4, 0.048, 0.0416),
  "t3.large": type("x86-64", 2, 8, 0.096, 0.0832),
  "t3.xlarge": type("x86-64", 4, 16, 0.192, 0.1664),
  "c6i.large": type("x86-64", 2, 4, 0.097, 0.085),
  "c6i.xlarge": type("x86-64", 4, 8, 0.194, 0.17),
  "c6i.2xlarge": type("x86-64", 8, 16, 0.388, 0.34),
  "m6i.large": type("x86-64", 2, 8, 0.115, 0.096),
  "m6i.xlarge": type("x86-64", 4, 16, 0.23, 0.192),
  "m6i.2xlarge": type("x86-64", 8, 32, 0.46, 0.384),
  "m6i.4xlarge": type("x86-64", 16, 64, 0.92, 0.768),
  "r6i.large": type("x86-64", 2, 16, 0.152, 0.126),
  "r6i.xlarge": type("x86-64", 4, 32, 0.304, 0.252),
  "r6i.2xlarge": type("x86-64", 8, 64, 0.608, 0.504),
  "r6i.4xlarge": type("x86-64", 16, 128, 1.216, 1.008),
  "t4g.small": type("arm64", 2, 2, 0.0192, 0.0168),
  "t4g.medium": type("arm64", 2, 4, 0.0384, 0.0336),
  "t4g.large": type("arm64", 2, 8, 0.0768, 0.0672),
  "t4g.xlarge": type("arm64", 4, 16, 0.1536, 0.1344),
  "c6g.large": type("arm64", 2, 4, 0.0776, 0.068),
  "c6g.xlarge": type("arm64", 4, 8, 0.1552, 0.136),
  "c6g.2xlarge": type("arm64", 8, 16, 0.3104, 0.272),
  "m6g.large": type("arm64", 2, 8, 0.092, 0.077),
  "m6g.xlarge": type("arm64", 4, 16, 0.184, 0.154),
  "m6g.2xlarge": type("arm64", 8, 32, 0.368, 0.308),
  "m6g.4xlarge": type("arm64", 16, 64, 0.736, 0.616),
  "m7g.large": type("arm64", 2, 8, 0.0978, 0.0816),
  "m7g.xlarge": type("arm64", 4, 16, 0.1955, 0.1632),
  "m7g.2xlarge": type("arm64", 8, 32, 0.391, 0.3264),
  "m7g.4xlarge": type("arm64", 16, 64, 0.782, 0.6528),
  "r6g.large": type("arm64", 2, 16, 0.1216, 0.1008),
  "r6g.xlarge": type("arm64", 4, 32, 0.2432, 0.2016),
  "r6g.2xlarge": type("arm64", 8, 64, 0.4864, 0.4032),
  "r6g.4xlarge": type("arm64", 16, 128, 0.9728, 0.8064),
};

/** The bastion's machine: too small for a node, so no stack may name it for one. USD for an hour. */
export const bastionHourly: Readonly<Record<Architecture, Readonly<Record<PricedRegion, number>>>> = {
  "x86-64": { "eu-central-1": 0.012, "us-east-1": 0.0104 },
  arm64: { "eu-central-1": 0.0096, "us-east-1": 0.0084 },
};

/** Everything else that costs money, USD. `…Hour` is one piece for an hour, `…Gb` a GB, `…GbMonth` a GB for a month. */
export interface Prices {
  readonly gp3GbMonth: number;
  readonly snapshotGbMonth: number;
  readonly natHour: number;
  readonly natGb: number;
  readonly interfaceEndpointHour: number;
  readonly interfaceEndpointGb: number;
  readonly networkLoadBalancerHour: number;
  /** A load balancer capacity unit, which here means one GB of traffic in an hour. */
  readonly networkLoadBalancerUnitHour: number;
  /** Both zones are charged: 0.01 where it leaves and 0.01 where it arrives. */
  readonly crossZoneGb: number;
  readonly internetOutGb: number;
  readonly publicIpv4Hour: number;
  readonly s3GbMonth: number;
  readonly registryGbMonth: number;
  readonly kmsKeyMonth: number;
  readonly kmsRequest: number;
  readonly flowLogGb: number;
  readonly logGbMonth: number;
  readonly alarmMonth: number;
  /** A metric of detailed monitoring or of one's own; an instance with detailed monitoring has seven. */
  readonly metricMonth: number;
  readonly hostedZoneMonth: number;
}

export const prices: Readonly<Record<PricedRegion, Prices>> = {
  "eu-central-1": {
    gp3GbMonth: 0.0952,
    snapshotGbMonth: 0.054,
    natHour: 0.052,
    natGb: 0.052,
    interfaceEndpointHour: 0.012,
    interfaceEndpointGb: 0.01,
    networkLoadBalancerHour: 0.027,
    networkLoadBalancerUnitHour: 0.006,
    crossZoneGb: 0.02,
    internetOutGb: 0.09,
    publicIpv4Hour: 0.005,
    s3GbMonth: 0.0245,
    registryGbMonth: 0.1,
    kmsKeyMonth: 1,
    kmsRequest: 0.000003,
    flowLogGb: 0.63,
    logGbMonth: 0.0324,
    alarmMonth: 0.1,
    metricMonth: 0.3,
    hostedZoneMonth: 0.5,
  },
  "us-east-1": {
    gp3GbMonth: 0.08,
    snapshotGbMonth: 0.05,
    natHour: 0.045,
    natGb: 0.045,
    interfaceEndpointHour: 0.01,
    interfaceEndpointGb: 0.01,
    networkLoadBalancerHour: 0.0225,
    networkLoadBalancerUnitHour: 0.006,
    crossZoneGb: 0.02,
    internetOutGb: 0.09,
    publicIpv4Hour: 0.005,
    s3GbMonth: 0.023,
    registryGbMonth: 0.1,
    kmsKeyMonth: 1,
    kmsRequest: 0.000003,
    flowLogGb: 0.5,
    logGbMonth: 0.03,
    alarmMonth: 0.1,
    metricMonth: 0.3,
    hostedZoneMonth: 0.5,
  },
};
