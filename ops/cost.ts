// `npm run cost`: what a stack on AWS costs in a month, by kind of resource. An estimate from one dated price table.

import { pathToFileURL } from "node:url";
import Table from "cli-table3";
import { Command } from "commander";
import {
  bastionHourly,
  hoursPerMonth,
  instanceTypes,
  type PricedRegion,
  pricedRegions,
  prices,
  priceSource,
} from "../components/aws-prices.ts";
import { type AwsConfig, type SiemConfig } from "../components/config.ts";
import { ownImages } from "../components/images.ts";
import { balancers, zones } from "../components/topology.ts";
import { systemGb } from "../components/host/machine.ts";
import { parse, toItsEnd } from "./command.ts";
import { stackConfig } from "./workspace.ts";

/** What nobody can read in a configuration. */
export interface Traffic {
  /** Events that arrive, GB a day. */
  readonly ingestGbPerDay: number;
  /** Answers that the API gives, GB a day. */
  readonly queryGbPerDay: number;
  /** Through the NAT gateways: updates, public images; GB a month. */
  readonly natGbPerMonth: number;
  /** Part of a data volume that is written, and so is in its first snapshot. */
  readonly usedShare: number;
  /** Part of the used data that changes in a day, and so is in the next snapshot. */
  readonly dailyChange: number;
  /** Flow logs, GB a month. */
  readonly flowLogGbPerMonth: number;
  /** A version of an image in the registry, GB. */
  readonly imageGb: number;
  /** What is kept in the backup bucket, GB. */
  readonly bucketGb: number;
}

export const typicalTraffic: Traffic = {
  ingestGbPerDay: 20,
  queryGbPerDay: 1,
  natGbPerMonth: 50,
  usedShare: 0.5,
  dailyChange: 0.05,
  flowLogGbPerMonth: 30,
  imageGb: 0.1,
  bucketGb: 0,
};

export interface CostLine {
  /** Kind of resource, or of traffic. */
  readonly kind: string;
  readonly detail: string;
  readonly quantity: number;
  readonly unit: string;
  /** USD a unit. */
  readonly price: number;
  /** USD a month. */
  readonly monthly: number;
}

export interface Estimate {
  /** Whose prices were used. */
  readonly region: PricedRegion;
  readonly compiled: string;
  readonly lines: readonly CostLine[];
  /** USD a month. */
  readonly total: number;
}

const daysPerMonth = hoursPerMonth / 24;
/** Versions that each repository collects before old ones expire, roughly. */
const imageVersions = 10;
/** The bastion's disk, GiB: as large as its image. */
const bastionGb = 8;
/** Two status checks a machine, and three of the virtual IP. */
const alarms = { machine: 2, vip: 3 };
/** Metrics of an instance with detailed monitoring. */
const instanceMetrics = 7;
const privateZones = 2;
/** Months that flow logs are kept. */
const flowLogMonths = 3;

/**
 * How often an event crosses from one zone to another on its way: with a replica of everything in each of three zones
 * and no preference, two of three hops do, and every copy goes to another zone.
 */
export function crossingsPerEvent(replicationFactor: number): number {
  const other = (zones - 1) / zones;
  const toIngestor = other;
  const toBroker = other;
  const brokerCopies = replicationFactor - 1;
  const toClickHouse = other;
  const clickHouseCopies = zones - 1;
  return toIngestor + toBroker + brokerCopies + toClickHouse + clickHouseCopies;
}

/**
 * The month's cost by kind of resource.
 * @throws Error when the region's prices are not known and no other region's are asked for.
 */
export function estimate(
  config: Pick<SiemConfig, "kafka"> & { readonly aws: AwsConfig },
  traffic: Traffic = typicalTraffic,
  pricesOf?: string,
): Estimate {
  const { aws, kafka } = config;
  const region = pricedRegions.find((known) => known === (pricesOf ?? aws.region));
  if (region === undefined) {
    throw new Error(
      `there are no prices of ${pricesOf ?? aws.region}; there are those of ${pricedRegions.join(" and ")}: choose the nearer one with --prices-of, or add the region to components/aws-prices.ts`,
    );
  }
  const price = prices[region];
  const lines: CostLine[] = [];
  const add = (kind: string, detail: string, quantity: number, unit: string, each: number) => {
    if (quantity > 0) lines.push({ kind, detail, quantity, unit, price: each, monthly: quantity * each });
  };
  const hours = (kind: string, detail: string, pieces: number, each: number) =>
    add(kind, detail, pieces * hoursPerMonth, "hour", each);

  const roles = ["lb", "stream", "store"] as const;
  const machines = roles.length * zones;
  const bastion = aws.admin.access === "bastion";
  const prod = aws.tier === "prod";
  for (const role of roles) {
    const { type } = aws[role];
    const known = instanceTypes[type];
    if (known === undefined) throw new Error(`there is no price of the instance type ${type}`);
    hours("instances", `${zones} × ${type} (${role})`, zones, known.hourly[region]);
  }
  if (bastion) hours("instances", "bastion", 1, bastionHourly[aws.architecture][region]);

  const dataGb = roles.reduce((sum, role) => sum + zones * aws[role].dataGb, 0);
  add("volumes", "data", dataGb, "GB-month", price.gp3GbMonth);
  const disks = machines * systemGb + (bastion ? bastionGb : 0);
  add("volumes", "system", disks, "GB-month", price.gp3GbMonth);

  const nat = prod ? zones : 1;
  hours("NAT gateways", `${nat} × running`, nat, price.natHour);
  add("NAT gateways", "traffic", traffic.natGbPerMonth, "GB", price.natGb);
  hours("interface endpoints", `${balancers} × EC2 API`, balancers, price.interfaceEndpointHour);

  const { loadBalancer } = aws.entry;
  const inGb = traffic.ingestGbPerDay * daysPerMonth;
  const outGb = traffic.queryGbPerDay * daysPerMonth;
  if (loadBalancer !== undefined) {
    hours("load balancer", "running", 1, price.networkLoadBalancerHour);
    add("load balancer", "capacity", inGb + outGb, "unit-hour", price.networkLoadBalancerUnitHour);
  }
  const addresses = nat + (bastion ? 1 : 0) + (loadBalancer?.public === true ? balancers : 0);
  hours("public addresses", `${addresses} × IPv4`, addresses, price.publicIpv4Hour);

  const crossings = crossingsPerEvent(kafka.replicationFactor);
  add(
    "traffic between zones",
    `events, ${crossings.toFixed(1)} crossings each`,
    inGb * crossings,
    "GB",
    price.crossZoneGb,
  );
  add("traffic between zones", "answers", outGb * 2 * ((zones - 1) / zones), "GB", price.crossZoneGb);
  if (!prod) {
    const outside = traffic.natGbPerMonth * ((zones - 1) / zones);
    add("traffic between zones", "to the only NAT gateway", outside, "GB", price.crossZoneGb);
  }
  if (loadBalancer?.public === true) {
    add("traffic to the internet", "answers", outGb, "GB", price.internetOutGb);
  }

  if (aws.backup !== undefined) {
    const used = dataGb * traffic.usedShare;
    const kept = used * (1 + traffic.dailyChange * aws.backup.retentionDays);
    add("backups", `snapshots of ${aws.backup.retentionDays} days`, kept, "GB-month", price.snapshotGbMonth);
    add("backups", "bucket", traffic.bucketGb, "GB-month", price.s3GbMonth);
  }
  const ours = ownImages.length;
  add(
    "registry",
    `${ours} images, ${imageVersions} versions each`,
    ours * imageVersions * traffic.imageGb,
    "GB-month",
    price.registryGbMonth,
  );
  // The alarms' topic always has a key of its own: AWS's key for SNS lets no alarm through.
  add("keys", "KMS", 1 + (aws.kmsKey === "create" ? 1 : 0), "key", price.kmsKeyMonth);
  if (prod) {
    const { flowLogGbPerMonth } = traffic;
    add("flow logs", "written", flowLogGbPerMonth, "GB", price.flowLogGb);
    add("flow logs", "kept", flowLogGbPerMonth * flowLogMonths, "GB-month", price.logGbMonth);
  }
  add("monitoring", "alarms", machines * alarms.machine + alarms.vip, "alarm", price.alarmMonth);
  add(
    "monitoring",
    "detailed metrics, and the virtual IP's",
    machines * instanceMetrics + alarms.vip,
    "metric",
    price.metricMonth,
  );
  add("DNS", "private zones", privateZones, "zone", price.hostedZoneMonth);

  const total = lines.reduce((sum, { monthly }) => sum + monthly, 0);
  return { region, compiled: priceSource.compiled, lines, total };
}

/** The estimate as a table: a line for each, a sum for each kind. */
export function renderEstimate({ lines, total }: Estimate): string {
  const table = new Table({
    head: ["", "", "quantity", "unit", "USD each", "USD a month"],
    style: { head: [], border: [], compact: true },
    colAligns: ["left", "left", "right", "left", "right", "right"],
  });
  const kinds = [...new Set(lines.map(({ kind }) => kind))];
  for (const kind of kinds) {
    const own = lines.filter((line) => line.kind === kind);
    const sum = own.reduce((running, { monthly }) => running + monthly, 0);
    table.push([kind, "", "", "", "", sum.toFixed(2)]);
    for (const { detail, quantity, unit, price } of own) {
      table.push(["", detail, rounded(quantity), unit, String(price), ""]);
    }
  }
  table.push(["total", "", "", "", "", total.toFixed(2)]);
  return table.toString();
}

function rounded(quantity: number): string {
  return quantity.toFixed(1).replace(/\.0$/, "");
}

/** The options of the command: how each assumption is called, and what it means. */
const assumptions = {
  ingestGbPerDay: ["--ingest-gb-day", "events that arrive, GB a day"],
  queryGbPerDay: ["--query-gb-day", "answers of the API, GB a day"],
  natGbPerMonth: ["--nat-gb", "through the NAT gateways, GB a month"],
  usedShare: ["--used-share", "part of the data volumes in use, 0 to 1"],
  dailyChange: ["--daily-change", "part of the used data that changes in a day, 0 to 1"],
  flowLogGbPerMonth: ["--flow-log-gb", "flow logs, GB a month (prod only)"],
  imageGb: ["--image-gb", "a version of one of our images, GB"],
  bucketGb: ["--bucket-gb", "in the backup bucket, GB"],
} as const satisfies Record<keyof Traffic, readonly [string, string]>;

/** Reads the assumptions from the command line; what is not given there is typical. */
export function trafficFrom(given: Readonly<Record<string, string | undefined>>): Traffic {
  const traffic: Record<keyof Traffic, number> = { ...typicalTraffic };
  for (const key of Object.keys(assumptions) as (keyof Traffic)[]) {
    const value = given[key];
    if (value === undefined) continue;
    const most = key === "usedShare" || key === "dailyChange" ? 1 : Number.MAX_SAFE_INTEGER;
    const number = value.trim() === "" ? Number.NaN : Number(value);
    if (!(number >= 0 && number <= most)) {
      throw new Error(
        `${assumptions[key][0]} must be a number from 0${most === 1 ? " to 1" : ""}, but is ${JSON.stringify(value)}`,
      );
    }
    traffic[key] = number;
  }
  return traffic;
}

/** What the numbers stand on, for the reader of the table. */
export function renderAssumptions({ region, compiled }: Estimate, aws: AwsConfig, traffic: Traffic): string {
  const of = region === aws.region ? region : `${region}, although the stack is in ${aws.region}`;
  return [
    `An estimate, not a quote: ${priceSource.kind}, of ${of}, compiled on ${compiled}.`,
    "Assumed (each is an option):",
    ...Object.entries(assumptions).map(
      ([key, [option, meaning]]) => `  ${option} ${traffic[key as keyof Traffic]}: ${meaning}`,
    ),
    "Not in it: AWS support, API requests, e-mails, and what bursting t3 and t4g machines cost above their credits.",
  ].join("\n");
}

async function main(): Promise<void> {
  const program = new Command("cost")
    .description("estimates what a stack on AWS costs in a month, by kind of resource")
    .requiredOption("-s, --stack <name>", "the stack, such as prod")
    .option(
      "--prices-of <region>",
      `with the prices of ${pricedRegions.join(" or ")} (default: the stack's region)`,
    )
    .option("--json", "print the estimate as JSON", false);
  for (const [key, [option, meaning]] of Object.entries(assumptions)) {
    program.option(`${option} <number>`, `${meaning} (default: ${typicalTraffic[key as keyof Traffic]})`);
  }
  program.action((options: Record<string, string | undefined> & { stack: string; json: boolean }) => {
    const config = stackConfig(options.stack);
    const { aws } = config;
    if (aws === undefined) {
      throw new Error(`the stack ${options.stack} has the target ${config.target}, which costs nothing`);
    }
    const given = Object.fromEntries(
      Object.entries(assumptions).map(([key, [option]]) => [
        key,
        options[option.slice(2).replace(/-(.)/g, (_, letter: string) => letter.toUpperCase())],
      ]),
    );
    const traffic = trafficFrom(given);
    const result = estimate({ aws, kafka: config.kafka }, traffic, options["pricesOf"]);
    process.stdout.write(
      options.json
        ? `${JSON.stringify({ ...result, kind: "estimate", source: priceSource, traffic }, null, 2)}\n`
        : `${renderEstimate(result)}\n${renderAssumptions(result, aws, traffic)}\n`,
    );
  });
  await parse(program);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await toItsEnd(main);
}
