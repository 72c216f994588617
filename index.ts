// config → topology → host → nodes → services → edge → outputs.

import * as pulumi from "@pulumi/pulumi";
import { loadConfig } from "./components/config.ts";
import { LoadBalancers } from "./components/edge/load-balancers.ts";
import { LocalHost } from "./components/host/local.ts";
import { LocalNodes } from "./components/host/nodes.ts";
import { ports } from "./components/ports.ts";
import { ClickHouse } from "./components/services/clickhouse.ts";
import { brokerList, databaseUrl, HttpService } from "./components/services/http-service.ts";
import { Kafka } from "./components/services/kafka.ts";
import { ZooKeeper } from "./components/services/zookeeper.ts";
import { names, plan } from "./components/topology.ts";

const { config, secrets } = loadConfig();
const topology = plan(config.local);

const host = new LocalHost("host", { config, stack: `${config.local.prefix}${pulumi.getStack()}` });
const nodes = new LocalNodes("nodes", { host, topology });
const on = { topology, nodes };

const zookeeper = new ZooKeeper("zookeeper", { ...on, config: config.zookeeper });
const kafka = new Kafka("kafka", { ...on, config: config.kafka, after: zookeeper.ready });
const clickhouse = new ClickHouse("clickhouse", {
  ...on,
  password: secrets.databasePassword,
  after: zookeeper.ready,
  feed: kafka.ready,
});

const ingestor = new HttpService("siem-ingestor", {
  ...on,
  replicas: topology.ingestor,
  image: "ingestor",
  config: config.ingestor,
  healthPath: "/health",
  environment: { KAFKA_BROKERS: brokerList(topology) },
  secrets: { JWT_SECRET: secrets.jwtSecret },
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
    JWT_SECRET: secrets.jwtSecret,
    ...(config.api.secrets === "env"
      ? { DATABASE_URL: secrets.databasePassword.apply((password) => databaseUrl(topology, password)) }
      : { DATABASE_PASSWORD: secrets.databasePassword }),
  },
  after: [clickhouse.ready],
});

new LoadBalancers("edge", {
  ...on,
  statsPassword: secrets.statsPassword,
  after: [ingestor.ready, api.ready],
});

/** Address that moves between the load balancers. */
export const vip = topology.vip.address;
export const apiUrl = `http://${vip}:${ports.haproxyApi.number}`;
export const ingestUrl = `http://${vip}:${ports.haproxyIngest.number}`;
export const statsUrl = `http://${vip}:${ports.haproxyStats.number}/stats`;
/** Value of the label on everything this stack made in Docker. */
export const dockerLabel = `${names.label}=${host.stack}`;
