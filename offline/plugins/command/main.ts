// The stand-in for Pulumi's command plugin: commands on the machine that runs Pulumi.

import { serve } from "../server.ts";
import { packageVersion } from "../version.ts";
import { commandKind, killRunning } from "./local.ts";

await serve(
  {
    version: packageVersion("@pulumi/command"),
    kinds: { "command:local:Command": commandKind },
    checkConfig: () => [],
    configure: () => Promise.resolve(),
    cancel: killRunning,
  },
  process.argv.slice(2),
);
