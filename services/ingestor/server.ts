// The ingestor's entry: environment in, a listening server out.

import { readFileSync } from "node:fs";
import { names } from "../../components/topology.ts";
import { ConfigError, Env, runMain } from "../common/env.ts";
import { type Lifecycle, serve } from "../common/http.ts";
import { createIngestor } from "./app.ts";
import { KafkaPublisher } from "./kafka.ts";
import { parseRules, type Rule } from "./rules.ts";
import { slotPort } from "../../components/ports.ts";

function loadRules(file: string | undefined): Rule[] {
  try {
    return parseRules(file ? readFileSync(file, "utf8") : undefined);
  } catch (error) {
    throw new ConfigError(`RULES_FILE "${file ?? "(bundled)"}": ${(error as Error).message}`);
  }
}

await runMain(async () => {
  const env = new Env(process.env);
  const address = env.address("SERVER_ADDR", `0.0.0.0:${slotPort("ingestor", 1)}`);
  const brokers = env.brokers("KAFKA_BROKERS");
  const secret = env.jwtSecret();
  const eventsTopic = env.read("EVENTS_TOPIC", names.eventsTopic);
  const alertsTopic = env.read("ALERTS_TOPIC", names.alertsTopic);
  env.check();
  const rules = loadRules(process.env["RULES_FILE"]);

  const lifecycle: Lifecycle = { draining: false };
  const publisher = new KafkaPublisher({
    brokers,
    topics: [eventsTopic, alertsTopic],
    warn: (details, message) => app.log.warn(details, message),
  });
  const app = createIngestor({ publisher, secret, rules, eventsTopic, alertsTopic, lifecycle });
  void publisher.run();
  await serve(
    app,
    address,
    lifecycle,
    () => publisher.close(),
    () => publisher.drain(),
  );
});
