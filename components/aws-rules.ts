// What an AWS configuration can get wrong although each key alone is fine. Pure; config.ts refuses what it finds.

import { instanceTypes } from "./aws-prices.ts";
import { type AwsConfig } from "./config.ts";
import { type Problem } from "./config-problems.ts";
import { addressProblems, isPublicRange, networkOf } from "./network/addresses.ts";
import { ruleProblems } from "./network/rules.ts";
import { besideHeapMb, limitMb, type Sizes } from "./services/memory.ts";
import { names, plan } from "./topology.ts";

/** Ranges wider than this count as "everybody", however they are split. */
const widestPublicPrefix = 8;

/** Everything wrong with it, one clear sentence each; empty for a good one. */
export function awsProblems(config: AwsConfig): Problem[] {
  return [
    ...zoneProblems(config),
    ...addressProblems(config.cidr, config.vip).map((message) => ({ path: ["cidr"], message })),
    ...machineProblems(config),
    ...entryProblems(config),
    ...adminProblems(config),
    ...rangeProblems(config),
    ...domainProblems(config),
    ...ruleProblems(config, plan({ machines: { address: () => "", vip: config.vip } })).map((message) => ({
      path: ["entry"],
      message,
    })),
    ...regionProblems(config),
    ...prodProblems(config),
  ];
}

function zoneProblems({ region, zones }: AwsConfig): Problem[] {
  return (zones ?? []).flatMap((zone, index) =>
    zone.slice(0, -1) === region
      ? []
      : [{ path: ["zones", index], message: `zone ${zone} is not in the region ${region}` }],
  );
}

function machineProblems(config: AwsConfig): Problem[] {
  return (["lb", "stream", "store"] as const).flatMap((role) => {
    const { type } = config[role];
    const fitting = Object.entries(instanceTypes)
      .filter(([, { architecture }]) => architecture === config.architecture)
      .map(([name]) => name)
      .join(", ");
    const known = (instanceTypes as Readonly<Record<string, { architecture: string }>>)[type];
    if (known === undefined) {
      return [
        {
          path: [role, "type"],
          message: `${JSON.stringify(type)} is not a type this project knows; for ${config.architecture} it knows ${fitting}. Another one needs a line in components/aws-prices.ts`,
        },
      ];
    }
    return known.architecture === config.architecture
      ? []
      : [
          {
            path: [role, "type"],
            message: `${type} has ${known.architecture} processors, but the architecture is ${config.architecture}; for that it knows ${fitting}`,
          },
        ];
  });
}

function entryProblems({ entry }: AwsConfig): Problem[] {
  const inside = entry.clients.flatMap((range, index) =>
    isPublicRange(range)
      ? [
          {
            path: ["entry", "clients", index],
            message: `${range} is a public range, and the virtual IP speaks plain HTTP: name private ranges here, and give entry.loadBalancer with a certificateArn to clients outside`,
          },
        ]
      : [],
  );
  const { loadBalancer } = entry;
  if (loadBalancer === undefined || loadBalancer.certificateArn !== undefined) return inside;
  return [
    ...inside,
    ...loadBalancer.clients.flatMap((range, index) =>
      isPublicRange(range)
        ? [
            {
              path: ["entry", "loadBalancer", "clients", index],
              message: `${range} is a public range, which needs TLS: give entry.loadBalancer.certificateArn, the ARN of an ACM certificate`,
            },
          ]
        : [],
    ),
  ];
}

/** Ranges as they are written: AWS takes none whose address has bits beyond its length. */
function rangeProblems({ entry, admin }: AwsConfig): Problem[] {
  const lists = [
    { path: ["entry", "clients"], ranges: entry.clients },
    { path: ["entry", "loadBalancer", "clients"], ranges: entry.loadBalancer?.clients ?? [] },
    { path: ["admin", "clients"], ranges: admin.clients },
  ];
  return lists.flatMap(({ path, ranges }) =>
    ranges.flatMap((range, index) =>
      networkOf(range) === range
        ? []
        : [
            {
              path: [...path, index],
              message: `${range} is no range, but an address in ${networkOf(range)}`,
            },
          ],
    ),
  );
}

function domainProblems({ domain }: AwsConfig): Problem[] {
  return domain === names.vip
    ? [
        {
          path: ["domain"],
          message: `${domain} is the virtual IP's own name; choose another, such as siem.internal`,
        },
      ]
    : [];
}

function adminProblems({ admin }: AwsConfig): Problem[] {
  if (admin.access === "bastion" && admin.clients.length === 0) {
    return [
      {
        path: ["admin", "clients"],
        message:
          "a bastion that nobody may reach lets nobody in: name the operators' ranges, or use instance-connect",
      },
    ];
  }
  return admin.clients.flatMap((range, index) =>
    isPublicRange(range) && Number(range.split("/")[1]) < widestPublicPrefix
      ? [
          {
            path: ["admin", "clients", index],
            message: `${range} opens administration to everybody; allowed are private ranges and public ones of /${widestPublicPrefix} or narrower, such as 198.51.100.7/32`,
          },
        ]
      : [],
  );
}

function regionProblems({ region, entry, kmsKey }: AwsConfig): Problem[] {
  const arns = [
    { path: ["entry", "loadBalancer", "certificateArn"], arn: entry.loadBalancer?.certificateArn },
    { path: ["kmsKey"], arn: kmsKey.startsWith("arn:") ? kmsKey : undefined },
  ];
  return arns.flatMap(({ path, arn }) => {
    const other = arn?.split(":")[3];
    return other === undefined || other === region
      ? []
      : [{ path, message: `${arn} is in the region ${other}, and the stack is in ${region}` }];
  });
}

function prodProblems({ tier, backup, alarmEmail }: AwsConfig): Problem[] {
  if (tier !== "prod") return [];
  return [
    ...(backup === undefined
      ? [
          {
            path: ["backup"],
            message: "prod needs backups: set how long they are kept, such as retentionDays: 35",
          },
        ]
      : []),
    ...(alarmEmail === undefined
      ? [{ path: ["alarmEmail"], message: "prod needs somebody to tell: set the address that alarms go to" }]
      : []),
  ];
}

/** What a machine needs beside its containers' limits: Debian, Docker, the file cache that brokers live on, MB. */
const besideContainersMb = 1024;
/** On every machine: its anchor, the supervisor and the watchdog, MB. */
const everywhereMb = limitMb.anchor + 2 * limitMb.supervisor;

/** Machines whose containers may take more memory than there is. */
export function memoryProblems(aws: AwsConfig, services: Sizes): Problem[] {
  const asked = [
    {
      role: "stream",
      path: ["kafka", "heapMb"],
      megabytes:
        services.kafka.heapMb +
        services.zookeeper.heapMb +
        besideHeapMb.kafka +
        besideHeapMb.zookeeper +
        everywhereMb,
    },
    {
      role: "store",
      path: ["clickhouse", "memoryMb"],
      megabytes: services.clickhouse.memoryMb + limitMb.retention + everywhereMb,
    },
  ] as const;
  return asked.flatMap(({ role, path, megabytes }) => {
    const { type } = aws[role];
    const known = (instanceTypes as Readonly<Record<string, { memoryGib: number }>>)[type];
    const room = (known?.memoryGib ?? 0) * 1024 - besideContainersMb;
    return known === undefined || megabytes <= room
      ? []
      : [
          {
            path,
            message: `the containers on a ${role} node may take ${megabytes} MB, and a ${type} has room for ${room}: lower it, or choose a larger type in siem-ha:aws ${role}.type`,
          },
        ];
  });
}
