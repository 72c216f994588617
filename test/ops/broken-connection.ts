// One deploy of three parts with the real engine, in a process of its own as `npm run up` is. The connection to the
// engine breaks: in one part, or in the program after the first.
// Usage: tsx test/ops/broken-connection.ts DIRECTORY nowhere|part|program

import { createRequire } from "node:module";
import { join } from "node:path";
import * as pulumi from "@pulumi/pulumi";
import { LocalWorkspace } from "@pulumi/pulumi/automation/index.js";
import { ensurePulumiCli } from "../../offline/cli.ts";
import { apart } from "../../ops/interruption.ts";
import { whole } from "../../ops/workspace.ts";

const [path = "", where = "nowhere"] = process.argv.slice(2);
// As gRPC reports it.
const broken = () => Object.assign(new Error("14 UNAVAILABLE"), { code: 14 });
const { getMonitor } = createRequire(import.meta.url)("@pulumi/pulumi/runtime/settings.js") as {
  getMonitor: () => { registerResource: (...args: unknown[]) => unknown };
};

async function program(): Promise<void> {
  const monitor = getMonitor();
  const register = monitor.registerResource.bind(monitor);
  monitor.registerResource = (request, callback, ...rest) =>
    where === "part" && (request as { getName(): string }).getName() === "second"
      ? (callback as (error: unknown) => void)(broken())
      : register(request, callback, ...rest);
  const part = (name: string) => new pulumi.ComponentResource("test:index:Part", name);
  part("first");
  if (where === "program") throw broken();
  part("second");
  part("third");
  return Promise.resolve();
}

const { command } = await ensurePulumiCli(() => undefined);
const stack = await LocalWorkspace.createOrSelectStack(
  {
    stackName: "broken",
    projectName: "broken",
    program: where === "program-unguarded" ? program : whole(program),
  },
  {
    workDir: path,
    pulumiCommand: apart(command),
    projectSettings: { name: "broken", runtime: "nodejs", backend: { url: `file://${path}` } },
    envVars: {
      PULUMI_CONFIG_PASSPHRASE: "",
      PULUMI_HOME: join(path, "home"),
      PULUMI_SKIP_UPDATE_CHECK: "true",
    },
  },
);
const errors: string[] = [];
const failed = await stack
  .up({
    suppressOutputs: true,
    onEvent: ({ diagnosticEvent }) => {
      if (diagnosticEvent?.severity === "error") errors.push(diagnosticEvent.message);
    },
  })
  .then(
    () => false,
    () => true,
  );
const { resources = [] } = (await stack.exportStack()).deployment as { resources?: { urn: string }[] };
const parts = resources.map(({ urn }) => urn.split("::").at(-1));
process.stdout.write(JSON.stringify({ failed, errors, parts }));
process.exit();
