// The connection to one Docker daemon, and its errors in the words of the real plugin.

import Docker from "dockerode";
import type { Failure, Props } from "../server.ts";
import { unknown } from "../server.ts";

const fields = [
  "host",
  "disableDockerDaemonCheck",
  "sshOpts",
  "registryAuth",
  "version",
  "pluginDownloadURL",
];
const defaultHost = "unix:///var/run/docker.sock";

interface Registry {
  readonly address: string;
  readonly username?: string;
  readonly password?: string;
}

/** Refuses provider config that the stand-in would not honour. */
export function checkConfig(config: Props): Failure[] {
  const failures = Object.keys(config)
    .filter((key) => !fields.includes(key) && !key.startsWith("__"))
    .map((property) => ({
      property,
      reason: `the offline stand-in of the Docker provider has no "${property}"; it has ${fields.join(", ")}`,
    }));
  const { host } = config;
  if (typeof host === "string" && host !== unknown && !/^(unix|tcp|http):\/\//.test(host)) {
    failures.push({
      property: "host",
      reason:
        `the offline stand-in reaches a Docker daemon by unix:// or tcp://, but host is "${host}". ` +
        "Hosts over SSH need the real plugin (see offline/README.md).",
    });
  }
  return failures;
}

/** A Docker daemon, once the engine has configured the provider. */
export class Daemon {
  #docker: Docker | undefined;
  #registries: readonly Registry[] = [];

  get docker(): Docker {
    if (this.#docker === undefined) throw new Error("the Docker provider was used before it was configured");
    return this.#docker;
  }

  async configure(config: Props): Promise<void> {
    const host =
      (typeof config.host === "string" ? config.host : (process.env.DOCKER_HOST ?? "")) || defaultHost;
    const [refusal] = checkConfig({ host });
    if (refusal !== undefined) throw new Error(refusal.reason);
    if (host.startsWith("unix://")) {
      this.#docker = new Docker({ socketPath: host.slice("unix://".length) });
    } else {
      const { hostname, port } = new URL(host.replace(/^tcp:/, "http:"));
      this.#docker = new Docker({
        protocol: "http",
        host: hostname,
        port: port === "" ? 2375 : Number(port),
      });
    }
    this.#registries = decoded<Registry[]>(config.registryAuth) ?? [];
    if (decoded<boolean>(config.disableDockerDaemonCheck) === true) return;
    try {
      await this.docker.ping();
    } catch (error) {
      throw new Error(`Error pinging Docker server at ${host}: ${daemonMessage(error)}`, { cause: error });
    }
  }

  /** Pulls an image, with the credentials configured for its registry. */
  async pull(name: string): Promise<void> {
    const first = name.split("/")[0] ?? "";
    const named = name.includes("/") && (/[.:]/.test(first) || first === "localhost");
    const registry = this.#registries.find(
      ({ address }) =>
        address.replace(/^https?:\/\//, "").split("/")[0] === (named ? first : "index.docker.io"),
    );
    // Without a tag the API pulls every tag there is.
    const reference = /:[^/]+$|@/.test(name) ? name : `${name}:latest`;
    try {
      const stream = await this.docker.pull(
        reference,
        registry === undefined
          ? {}
          : {
              authconfig: {
                username: registry.username ?? "",
                password: registry.password ?? "",
                serveraddress: registry.address,
              },
            },
      );
      await new Promise<void>((resolve, reject) =>
        this.docker.modem.followProgress(stream, (error) => (error === null ? resolve() : reject(error))),
      );
    } catch (error) {
      throw new Error(
        `Unable to read Docker image into resource: unable to pull image ${name}: ${daemonMessage(error)}`,
        { cause: error },
      );
    }
  }
}

/** Provider config that is not a string arrives as JSON text. */
function decoded<T>(value: unknown): T | undefined {
  if (typeof value !== "string") return value as T | undefined;
  return value === "" ? undefined : (JSON.parse(value) as T);
}

/** What Docker said, as its own client prints it. */
export function daemonMessage(error: unknown): string {
  const { json, statusCode } = error as { json?: { message?: string }; statusCode?: number };
  if (statusCode !== undefined && json?.message !== undefined)
    return `Error response from daemon: ${json.message}`;
  return error instanceof Error ? error.message : String(error);
}

/** True if Docker answered with this status; a daemon that can't be reached has none. */
export function answered(error: unknown, ...statuses: number[]): boolean {
  return statuses.includes((error as { statusCode?: number }).statusCode ?? 0);
}

/** Undefined if the thing does not exist. Every other error is passed on: unreachable is not deleted. */
export async function orGone<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (answered(error, 404)) return undefined;
    throw new Error(daemonMessage(error), { cause: error });
  }
}

/** Retries while Docker says that something still uses the thing: its users are just being removed. */
export async function whileBusy(what: string, seconds: number, work: () => Promise<unknown>): Promise<void> {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    try {
      await work();
      return;
    } catch (error) {
      if (answered(error, 404)) return;
      if (!answered(error, 403, 409) || Date.now() > deadline) {
        throw new Error(`Unable to remove ${what}: ${daemonMessage(error)}`, { cause: error });
      }
    }
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
}
