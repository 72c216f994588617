// The recording Docker plugin (offline/recorder), with networks besides: it was made for the AWS target, which has none.

import { randomBytes } from "node:crypto";
import { networkKind } from "../offline/plugins/docker/network.ts";
import { type ResourceKind, serve } from "../offline/plugins/server.ts";
import { packageVersion } from "../offline/plugins/version.ts";
import { checkConfig, Connection, dockerKinds } from "../offline/recorder/docker.ts";
import { folderVariable, World } from "../offline/recorder/world.ts";

const world = new World(process.env[folderVariable] ?? "");
const connection = new Connection();

const network: ResourceKind = {
  // What is allowed and what is a change: neither asks a daemon. All that would is replaced.
  ...networkKind(undefined as never),
  create: (news) =>
    Promise.resolve({ id: randomBytes(32).toString("hex"), state: { ...news, scope: "local" } }),
  read: (_id, state) => Promise.resolve(state),
  update: (_id, state, news) => Promise.resolve({ ...state, ...news }),
  delete: () => Promise.resolve(),
};

await serve(
  {
    version: packageVersion("@pulumi/docker"),
    cancel: () => undefined,
    kinds: { ...dockerKinds(world, connection), "docker:index/network:Network": network },
    checkConfig,
    configure: (config) => connection.configure(config),
  },
  process.argv.slice(3),
);
