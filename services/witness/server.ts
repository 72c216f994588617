// The witness's entry: environment in, a listening server out.

import { ConfigError, Env, runMain } from "../common/env.ts";
import { type Lifecycle } from "../common/http.ts";
import { createWitness } from "./app.ts";
import { ports } from "../../components/ports.ts";

await runMain(async () => {
  const env = new Env(process.env);
  const address = env.address("SERVER_ADDR", `0.0.0.0:${ports.witness.number}`);
  const token = env.read("WITNESS_TOKEN");
  env.check();
  if (token.length < 32) {
    throw new ConfigError(`WITNESS_TOKEN has ${token.length} characters; at least 32 are needed`);
  }

  const lifecycle: Lifecycle = { draining: false };
  const app = createWitness({ token, lifecycle });
  // It ends at once: nobody balances load over it, and its callers do without it for a while.
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.on(signal, () => {
      lifecycle.draining = true;
      void app.close().finally(() => process.exit(0));
    });
  }
  await app.listen(address);
});
