// `npm run up`: from a fresh clone to a running, proved stack, and nothing to do the second time.

import { createServer } from "node:net";
import { Command } from "commander";
import { labelOf, replacementsOf, type SiemConfig, topologyOf } from "../components/config.ts";
import { ownImages } from "../components/images.ts";
import { statsUser } from "../components/render/haproxy.ts";
import { type Topology } from "../components/topology.ts";
import { buildImage } from "../images/build.ts";
import { mintToken } from "../services/token.ts";
import { runChecks } from "./checks.ts";
import { connect, inventory, reachOf } from "./daemon.ts";
import { entry } from "./entry.ts";
import { withHold } from "./hold.ts";
import { removeLeftovers } from "./leftovers.ts";
import { Progress } from "./progress.ts";
import { renderResults } from "./report.ts";
import { ensureDocker, ensurePulumi } from "./toolchain.ts";
import { openStack, readSecret, releaseDeadLock, stackConfig } from "./workspace.ts";

const print = (line: string) => process.stdout.write(`${line}\n`);

async function stage<T>(name: string, run: () => Promise<T>): Promise<T> {
  const began = Date.now();
  print(`${name} …`);
  const result = await run();
  print(`${name}: ${((Date.now() - began) / 1000).toFixed(1)} s`);
  return result;
}

/** Refuses before anything is touched when a port that a new anchor would publish is taken. */
async function checkPorts(
  topology: Topology,
  config: SiemConfig,
  existing: ReadonlySet<string>,
): Promise<void> {
  for (const node of topology.nodes.filter((n) => !existing.has(n.name))) {
    for (const { external } of node.published) {
      await new Promise<void>((resolve, reject) => {
        const probe = createServer();
        probe.once("error", (error: NodeJS.ErrnoException) => {
          reject(
            new Error(
              `port ${external} on 127.0.0.1, which ${node.name} publishes, can't be used (${error.code ?? error.message}); nothing was touched. End what listens there, or set siem-ha:local portOffset (now ${config.local.portOffset}, allowed 0 to 9000)`,
            ),
          );
        });
        probe.listen(external, "127.0.0.1", () => probe.close(() => resolve()));
      });
    }
  }
}

async function up(stackName: string): Promise<void> {
  const began = Date.now();
  const config = stackConfig(stackName);
  const topology = topologyOf(config);
  const label = labelOf(config, stackName);
  const local = config.target === "local";
  if (local) {
    await stage("Docker and images", async () => {
      await ensureDocker(print, config.local.dockerHost);
      // The program builds an image when its source changes; one that somebody removed is built here.
      const replacements = replacementsOf(config);
      for (const name of ownImages) if (replacements[name] === undefined) buildImage(name, print);
    });
  }
  const pulumi = await stage("Pulumi", () => ensurePulumi(print, config.target));
  if (local) {
    const existing = (await inventory(connect(config.local.dockerHost), label)).containers;
    await checkPorts(topology, config, new Set(existing.map((container) => container.name)));
  }
  const stack = await openStack(stackName, pulumi);
  if (await releaseDeadLock(stack)) print("  released the lock of an up that was killed");
  if (local) await removeLeftovers(stack, label, config, print);
  const progress = new Progress(print);
  await stage("deploy", async () => {
    try {
      const deploy = () => stack.up({ refresh: true, onEvent: progress.onEvent, suppressOutputs: true });
      await (local ? withHold(connect(config.local.dockerHost), label, deploy) : deploy());
    } catch (error) {
      const reason = progress.errors.length > 0 ? progress.errors.join("\n") : (error as Error).message;
      const remedy = reason.includes("marked for protection")
        ? `A change to a node, its network or its data volume would destroy what is on it, so nothing of that was done, whatever the message above says about flags. Undo the change in Pulumi.${stackName}.yaml; or, for nodes and networks, let the stack stand still for a minute: npm run down -- -s ${stackName} --keep-data, then npm run up -- -s ${stackName}.`
        : "Mend the cause and run it again: it goes on where it stopped.";
      throw new Error(`the deploy failed:\n${reason}\n${remedy}`, { cause: error });
    }
  });
  print(progress.changes === 0 ? "nothing changed" : `${progress.changes} changes`);
  const jwtSecret = await readSecret(stack, "jwtSecret");
  const reach = await reachOf(config, stack);
  const results = await stage("verify", () => runChecks({ config, topology, reach, jwtSecret }));
  print(renderResults(results));
  if (results.some((result) => !result.ok)) {
    throw new Error(
      "the stack is deployed, but not every check passed: see the table; npm run verify checks again",
    );
  }
  const { api, ingest, stats } = entry(topology, config);
  const token = await mintToken({
    secret: jwtSecret,
    tenantId: "demo",
    scope: "events:write events:read",
    ttlSeconds: 3600,
    subject: "npm run up",
  });
  print(`
Ready after ${((Date.now() - began) / 1000).toFixed(0)} s.
  API      ${api}
  ingest   ${ingest}
  stats    ${stats}   (user ${statsUser}; password: npm run secret -- statsPassword)

Send log lines:  npm run send -- FILE
Or one event, with a token of tenant "demo" that is good for an hour:

  TOKEN=${token}
  curl -H "Authorization: Bearer $TOKEN" -H 'Content-Type: text/plain' \\
    -d 'Dec 10 07:00:01 web-1 sshd[1]: Failed password for root from 192.0.2.7 port 4711 ssh2' ${ingest}/v1/events
  curl -H "Authorization: Bearer $TOKEN" '${api}/v1/events?limit=5'
`);
}

const program = new Command("up")
  .description("deploys the stack and proves that it works")
  .option("-s, --stack <name>", "the stack", "local")
  .action(async ({ stack }: { stack: string }) => {
    try {
      await up(stack);
    } catch (error) {
      process.stderr.write(`${(error as Error).message}\n`);
      process.exitCode = 1;
    }
  });
await program.parseAsync();
// The engine's connections would keep the process alive.
process.exit();
