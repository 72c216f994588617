// `up` from nothing to healthy, beside the same containers by plain docker in dependency order.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { labelOf } from "../components/config.ts";
import { whileBusy } from "../offline/plugins/docker/daemon.ts";
import { connect, inventory } from "../ops/daemon.ts";
import { root, stackConfig } from "../ops/workspace.ts";
import { median, report, verdict } from "./report.ts";

const run = promisify(execFile);
const rounds = 2;

async function npm(script: string, stackName: string, ...more: string[]): Promise<string> {
  const { stdout } = await run("npm", ["run", "--silent", script, "--", "--stack", stackName, ...more], {
    cwd: root,
    maxBuffer: 64 * 1024 * 1024,
  });
  return stdout;
}

/** Removes what plain docker made: the same label marks it. */
async function remove(stackName: string): Promise<void> {
  const config = stackConfig(stackName);
  const docker = connect(config.local.dockerHost);
  const left = await inventory(docker, labelOf(config, stackName));
  await Promise.all(
    left.containers.map(({ id }) => docker.getContainer(id).remove({ force: true, v: true })),
  );
  await Promise.all(left.volumes.map((name) => docker.getVolume(name).remove()));
  // Docker was seen to count containers that were gone.
  await Promise.all(
    left.networks.map(({ id }) => whileBusy(`network ${id}`, 30, () => docker.getNetwork(id).remove())),
  );
}

/** Runs both ways in turn, on a stack that must not exist yet. */
export async function benchUp(stackName: string): Promise<void> {
  const config = stackConfig(stackName);
  const there = await inventory(connect(config.local.dockerHost), labelOf(config, stackName));
  if (there.containers.length + there.volumes.length > 0) {
    throw new Error(
      `The stack ${stackName} is there (${there.containers.length} containers, ${there.volumes.length} volumes), and this benchmark makes and removes it. Nothing was touched. Take it down first: npm run down -- -s ${stackName}`,
    );
  }
  const rows: string[] = [];
  const ratios: number[] = [];
  const wholes: number[] = [];
  // The first run fills caches for both.
  for (let round = 0; round <= rounds; round++) {
    const began = performance.now();
    const said = await npm("up", stackName);
    const whole = (performance.now() - began) / 1000;
    const deploy = Number(/^deploy: ([\d.]+) s$/m.exec(said)?.[1]);
    await npm("down", stackName, "--yes");
    let plain: number;
    try {
      const { stdout } = await run(
        process.execPath,
        ["--import", "tsx", join(root, "bench/plain.ts"), stackName],
        { cwd: root },
      );
      plain = Number(stdout);
    } finally {
      await remove(stackName);
    }
    if (!(deploy > 0 && plain > 0)) throw new Error(`no time to be found in:\n${said}`);
    const row = `| ${round} | ${deploy.toFixed(1)} s | ${whole.toFixed(1)} s | ${plain.toFixed(1)} s | ${(deploy / plain).toFixed(2)} |`;
    process.stderr.write(`${row}\n`);
    if (round === 0) continue;
    ratios.push(deploy / plain);
    wholes.push(whole / plain);
    rows.push(row);
  }
  await report(
    "up",
    "From nothing to healthy",
    `All images are there; nothing else is. The baseline is the same program and the same waits, with every resource made by plain \`docker\` and \`sh\` as soon as what it depends on is there, without Pulumi's engine, state and plugins (\`bench/plain.ts\`):

| round | deploy | whole \`npm run up\`, with start and proof | plain docker | deploy : plain |
| ----- | ------ | ---------------------------------------- | ------------ | -------------- |
${rows.join("\n")}

Median ratio of the deploy: ${verdict(median(ratios), { most: 1.2 })}; of the whole command: ${median(wholes).toFixed(2)} ×.`,
  );
}
