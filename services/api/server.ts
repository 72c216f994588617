// The API's entry: environment in, a listening server out.

import { Env, runMain } from "../common/env.ts";
import { type Lifecycle, serve } from "../common/http.ts";
import { createApi } from "./app.ts";
import { connect, Replicas } from "./replicas.ts";
import { slotPort } from "../../components/ports.ts";

await runMain(async () => {
  const env = new Env(process.env);
  const address = env.address("SERVER_ADDR", `0.0.0.0:${slotPort("api", 1)}`);
  const database = env.database();
  const keys = env.jwtKeys();
  env.check();

  const lifecycle: Lifecycle = { draining: false };
  const reader = new Replicas(database.urls.map((url) => connect(url, database)));
  const app = createApi({ reader, keys, lifecycle });
  await serve(app, address, lifecycle, async () => {});
});
