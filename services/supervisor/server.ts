// The supervisor's entry: environment in, a loop that never ends.

import { hostname } from "node:os";
import { Env, runMain } from "../common/env.ts";
import { DockerApi } from "./docker-api.ts";
import { Engine } from "./engine.ts";
import { Supervisor } from "./supervisor.ts";

await runMain(async () => {
  const env = new Env(process.env);
  const stack = env.read("STACK");
  const socketPath = env.read("DOCKER_SOCKET", "/var/run/docker.sock");
  const stateFile = env.read("STATE_FILE", "/var/lib/siem-ha/supervisor.json");
  const only = env.read("WATCHES", "");
  env.check();
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, () => process.exit(0));
  // Without a network Docker gives a container the start of its id for a host name.
  const engine = new Engine(new DockerApi(socketPath), stack, hostname(), only || undefined);
  const log = (line: string) => console.log(`supervisor: ${line}`);
  log(`watches over ${only || stack}`);
  await new Supervisor({ engine, stateFile, log }).run().catch((error: unknown) => {
    log(`ends, to be started again: ${error instanceof Error ? error.message : String(error)}`);
    process.exit(1);
  });
});
