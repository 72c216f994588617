// config → topology → nodes → services → edge → outputs.

import * as pulumi from "@pulumi/pulumi";
import { labelOf, loadConfig, replacementsOf, topologyOf } from "./components/config.ts";
import { LoadBalancers } from "./components/edge/load-balancers.ts";
import { Witness, witnessToken } from "./components/edge/witness.ts";
import { AwsNodes, awsProvider, zonesOf } from "./components/host/aws.ts";
import { LocalHost } from "./components/host/local.ts";
import { Supervisors } from "./components/host/supervisor.ts";
import { LocalNodes } from "./components/host/nodes.ts";
import { ports } from "./components/ports.ts";
import { ClickHouse } from "./components/services/clickhouse.ts";
import {
  brokerList,
  databaseUrl,
  HttpService,
  syslogEnvironment,
} from "./components/services/http-service.ts";
import { Kafka } from "./components/services/kafka.ts";
import { ZooKeeper } from "./components/services/zookeeper.ts";
import { names } from "./components/topology.ts";

const { config, secrets } = loadConfig();
const topology = topologyOf(config);
const stack = labelOf(config, pulumi.getStack());

const cloud = config.aws === undefined ? undefined : await awsNodes(config.aws);
const nodes = cloud ?? new LocalNodes("nodes", { host: new LocalHost("host", { config, stack }), topology });
const on = { topology, nodes };

const zookeeper = new ZooKeeper("zookeeper", { ...on, config: config.zookeeper });
const kafka = new Kafka("kafka", { ...on, config: config.kafka, after: zookeeper.ready });
const clickhouse = new ClickHouse("clickhouse", {
  ...on,
  config: config.clickhouse,
  password: secrets.databasePassword,
  after: zookeeper.ready,
  feed: kafka.ready,
});

const signingKeys = {
  JWT_SECRET: secrets.jwtSecret,
  ...(secrets.jwtSecretPrevious === undefined ? {} : { JWT_SECRET_PREVIOUS: secrets.jwtSecretPrevious }),
};
const ingestor = new HttpService("siem-ingestor", {
  ...on,
  replicas: topology.ingestor,
  image: "ingestor",
  config: config.ingestor,
  healthPath: "/health",
  environment: {
    KAFKA_BROKERS: brokerList(topology),
    KAFKA_RETENTION_HOURS: String(config.kafka.retentionHours),
  },
  environmentOf: (replica) => syslogEnvironment(replica, config.ingestor),
  secrets: signingKeys,
  after: [kafka.ready],
});
const api = new HttpService("siem-api", {
  ...on,
  replicas: topology.api,
  image: "api",
  config: config.api,
  healthPath: "/v1/health",
  environment: config.api.secrets === "env" ? {} : { DATABASE_URL: databaseUrl(topology) },
  secrets: {
    ...signingKeys,
    ...(config.api.secrets === "env"
      ? { DATABASE_URL: secrets.databasePassword.apply((password) => databaseUrl(topology, password)) }
      : { DATABASE_PASSWORD: secrets.databasePassword }),
  },
  after: [clickhouse.ready],
});

const token = witnessToken(secrets.jwtSecret);
const witness = new Witness("witness", { ...on, token });
const edge = new LoadBalancers("edge", {
  ...on,
  statsPassword: secrets.statsPassword,
  witnessToken: token,
  cloud: cloud && ((node) => cloud.keeperCloud(node)),
  after: [ingestor.ready, api.ready, witness.ready],
});
new Supervisors("supervisors", { ...on, after: [edge.ready] });

async function awsNodes(aws: NonNullable<typeof config.aws>): Promise<AwsNodes> {
  const provider = awsProvider(aws, stack);
  return new AwsNodes(
    "aws",
    {
      config: aws,
      stack,
      topology,
      zones: await zonesOf(aws, provider),
      replacements: replacementsOf(config),
    },
    { providers: [provider] },
  );
}

/** Address that moves between the load balancers. */
export const vip = topology.vip.address;
export const apiUrl = `http://${vip}:${ports.haproxyApi.number}`;
export const ingestUrl = `http://${vip}:${ports.haproxyIngest.number}`;
/** Where syslog goes over TCP, if the configuration asks for it. */
export const syslogUrl =
  config.ingestor.syslog === undefined ? "none" : `tcp://${vip}:${ports.syslog.number}`;
export const statsUrl = `http://${vip}:${ports.haproxyStats.number}/stats`;
/** The entry from outside, if the configuration asks for one. */
export const publicEntry =
  cloud?.publicEntry === undefined
    ? "none"
    : { api: cloud.publicEntry.apiUrl, ingest: cloud.publicEntry.ingestUrl };
/** Value of the label on everything this stack made in Docker. */
export const dockerLabel = `${names.label}=${stack}`;
/** How the machines' Docker daemons are reached; the operator commands read it. */
export const machines = cloud?.reachable() ?? {};
