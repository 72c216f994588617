// Installs Pulumi's plugins, or stand-ins for them where the plugins' download site can't be reached.

import { execFile } from "node:child_process";
import { access, chmod, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { bundled } from "../images/bundle.ts";
import { packageVersion } from "./plugins/version.ts";

const run = promisify(execFile);
const plugins = ["docker", "command"] as const;
type PluginName = (typeof plugins)[number];

const downloadSite = "https://get.pulumi.com";
const probeSeconds = 5;
const installMinutes = 5;
/** Tells a stand-in from the real plugin; it holds the path of the code that the stand-in runs. */
export const standInMarker = "siem-ha-stand-in";

/** What dockerode loads for daemons over SSH and for builds, which stand-ins never have: without it they start sooner. */
const unused = ["ssh2", "@grpc/proto-loader"];

/** The one file that runs a plugin of this folder. */
export function pluginProgram(entry: string): string {
  const here = import.meta.dirname;
  return bundled(join(here, entry), join(here, ".."), unused);
}

/** What the local stack's plugins are: the real ones, or ours. */
export type PluginKind = "real" | "stand-in";

/** The folder where the engine looks for plugins. @default $PULUMI_HOME, else ~/.pulumi */
export function pulumiHomeFolder(): string {
  const home = process.env.PULUMI_HOME;
  return home === undefined || home === "" ? join(homedir(), ".pulumi") : home;
}

/** Makes sure that the engine finds a Docker and a command plugin of exactly the SDKs' versions. */
export async function ensurePlugins(
  log: (line: string) => void,
  pulumiHome: string,
  /** The CLI that installs the real ones: `PulumiCommand.command`. @default the one on PATH */
  pulumi = "pulumi",
): Promise<Record<PluginName, PluginKind>> {
  let refusal: Promise<string | undefined> | undefined;
  const kinds = await Promise.all(
    plugins.map(async (name): Promise<PluginKind> => {
      const version = packageVersion(`@pulumi/${name}`);
      const folder = join(pulumiHome, "plugins", `resource-${name}-v${version}`);
      const present = await kindOf(folder);
      if (present === "real") return present;
      if (present === "stand-in") {
        // The clone it points to may have moved; this one is as good.
        await installStandIn(folder, name);
        return present;
      }
      refusal ??= unreachable();
      const reason = (await refusal) ?? (await installReal(pulumi, name, version, pulumiHome));
      if (reason === undefined) {
        log(`Pulumi plugin ${name} ${version}: installed`);
        return "real";
      }
      log(
        `Pulumi plugin ${name} ${version}: can't be downloaded (${reason}); using the stand-in in offline/plugins`,
      );
      await rm(`${folder}.partial`, { force: true });
      await installStandIn(folder, name);
      return "stand-in";
    }),
  );
  return Object.fromEntries(plugins.map((name, index) => [name, kinds[index]])) as Record<
    PluginName,
    PluginKind
  >;
}

async function kindOf(folder: string): Promise<PluginKind | undefined> {
  if (await exists(join(folder, standInMarker))) return "stand-in";
  // A folder without its marker of completion is a download that was cut off.
  return (await exists(folder)) && !(await exists(`${folder}.partial`)) ? "real" : undefined;
}

/** Why the download site can't be reached. The CLI's own retries take ten seconds a plugin to find that out. */
async function unreachable(): Promise<string | undefined> {
  // Node's fetch knows no proxy, the CLI does: then only the CLI can tell.
  if (["HTTPS_PROXY", "https_proxy"].some((name) => (process.env[name] ?? "") !== "")) return undefined;
  try {
    await fetch(downloadSite, {
      method: "HEAD",
      redirect: "manual",
      signal: AbortSignal.timeout(probeSeconds * 1000),
    });
    return undefined;
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    return cause instanceof Error && cause.message !== "" ? cause.message : String(error);
  }
}

async function installReal(
  pulumi: string,
  name: PluginName,
  version: string,
  pulumiHome: string,
): Promise<string | undefined> {
  try {
    await run(pulumi, ["plugin", "install", "resource", name, version, "--non-interactive"], {
      env: { ...process.env, PULUMI_HOME: pulumiHome, PULUMI_SKIP_UPDATE_CHECK: "true" },
      timeout: installMinutes * 60_000,
    });
    return undefined;
  } catch (error) {
    const { stderr } = error as { stderr?: string };
    return stderr?.trim().split("\n").at(-1) || String(error);
  }
}

/** Writes the folder that the engine runs a plugin from; whole or not at all. */
export async function installStandIn(folder: string, name: PluginName): Promise<void> {
  const main = pluginProgram(`plugins/${name}/main.ts`);
  const script = `#!/bin/sh
# Stand-in for Pulumi's ${name} plugin (see offline/README.md of siem-ha). Written again by every "npm run up".
node=${quoted(process.execPath)}
main=${quoted(main)}
[ -x "$node" ] || node=node
[ -f "$main" ] || { echo "the siem-ha clone of this stand-in is gone: $main; run npm run up in another" >&2; exit 1; }
exec "$node" "$main" "$@"
`;
  const binary = join(folder, `pulumi-resource-${name}`);
  if ((await readFile(binary, "utf8").catch(() => undefined)) === script) return;

  await mkdir(join(folder, ".."), { recursive: true });
  const staged = await mkdtemp(`${folder}.new-`);
  const files = { [`pulumi-resource-${name}`]: script, [standInMarker]: `${main}\n` };
  for (const [file, text] of Object.entries(files)) await writeFile(join(staged, file), text);
  await chmod(join(staged, `pulumi-resource-${name}`), 0o755);
  await chmod(staged, 0o755);
  await rm(folder, { recursive: true, force: true });
  try {
    await rename(staged, folder);
  } catch (error) {
    await rm(staged, { recursive: true, force: true });
    // Another process wrote the same folder between our two steps; its content is equal.
    if (!["ENOTEMPTY", "EEXIST"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
}

/** A word for sh. */
export function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
