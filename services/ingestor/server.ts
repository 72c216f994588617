// The ingestor's entry: environment in, a listening server out.

import { readFileSync } from "node:fs";
import { names, readers } from "../../components/topology.ts";
import { ConfigError, Env, runMain } from "../common/env.ts";
import { type Lifecycle, serve } from "../common/http.ts";
import { createIngestor } from "./app.ts";
import { FeedWatch, lagOf } from "./feed-watch.ts";
import { KafkaPublisher } from "./kafka.ts";
import { Pipeline } from "./pipeline.ts";
import { parseRules, type Rule } from "./rules.ts";
import { readSyslog, SyslogListener } from "./syslog.ts";
import { slotPort } from "../../components/ports.ts";

function loadRules(file: string | undefined): Rule[] {
  try {
    return parseRules(file ? readFileSync(file, "utf8") : undefined);
  } catch (error) {
    throw new ConfigError(`RULES_FILE "${file ?? "(bundled)"}": ${(error as Error).message}`);
  }
}

async function lag(): Promise<void> {
  const env = new Env(process.env);
  const brokers = env.brokers("KAFKA_BROKERS");
  env.check();
  process.stdout.write(`${JSON.stringify(await lagOf(brokers, Object.values(readers)))}\n`);
}

// `npm run verify` asks the program beside a running one, which can reach every broker.
await runMain(process.argv[2] === "lag" ? lag : main);

async function main(): Promise<void> {
  const env = new Env(process.env);
  const address = env.address("SERVER_ADDR", `0.0.0.0:${slotPort("ingestor", 1)}`);
  const brokers = env.brokers("KAFKA_BROKERS");
  const retentionHours = env.integer("KAFKA_RETENTION_HOURS", 1, 87_600);
  const keys = env.jwtKeys();
  const eventsTopic = env.read("EVENTS_TOPIC", names.eventsTopic);
  const alertsTopic = env.read("ALERTS_TOPIC", names.alertsTopic);
  const syslog = readSyslog(env);
  env.check();
  const rules = loadRules(process.env["RULES_FILE"]);

  const lifecycle: Lifecycle = { draining: false };
  const warn = (details: object, message: string): void => app.log.warn(details, message);
  const topics = [eventsTopic, alertsTopic];
  const publisher = new KafkaPublisher({ brokers, topics, warn });
  // Topics of other names have readers that are not known here.
  const watched = Object.values(readers).filter(({ topic }) => topics.includes(topic));
  const feed = new FeedWatch({ brokers, readers: watched, retentionHours, warn });
  const pipeline = new Pipeline({ publisher, feed, rules, eventsTopic, alertsTopic });
  const app = createIngestor({ pipeline, keys, lifecycle });
  const listener = syslog && new SyslogListener({ pipeline, tenant: syslog.tenant, warn });
  let quiet: Promise<void> | undefined;
  void publisher.run();
  void feed.run();
  await listener?.listen(syslog!.address);
  await serve(
    app,
    address,
    lifecycle,
    async () => {
      await quiet;
      await pipeline.idle();
      feed.stop();
      await publisher.close();
    },
    () => {
      publisher.drain();
      quiet = listener?.stop();
    },
  );
}
