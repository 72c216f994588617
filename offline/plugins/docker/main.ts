// The stand-in for Pulumi's Docker plugin: what the local stack uses, on one Docker daemon.

import { serve } from "../server.ts";
import { packageVersion } from "../version.ts";
import { containerKind } from "./container.ts";
import { checkConfig, Daemon } from "./daemon.ts";
import { imageKind } from "./image.ts";
import { networkKind } from "./network.ts";
import { volumeKind } from "./volume.ts";

const daemon = new Daemon();

await serve(
  {
    version: packageVersion("@pulumi/docker"),
    kinds: {
      "docker:index/container:Container": containerKind(daemon),
      "docker:index/network:Network": networkKind(daemon),
      "docker:index/volume:Volume": volumeKind(daemon),
      "docker:index/remoteImage:RemoteImage": imageKind(daemon),
    },
    checkConfig,
    configure: (config) => daemon.configure(config),
    // Every call to Docker is short or has a limit of its own; the engine waits for what is under way.
    cancel: () => undefined,
  },
  process.argv.slice(2),
);
