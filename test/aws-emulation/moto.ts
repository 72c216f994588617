// AWS's API on loopback: moto (from PyPI, in a virtual environment kept between runs), started and stopped by tests.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const version = "5.2.5";

/** moto's only account. */
export const account = "123456789012";

/** Keys of a request. Without signature checking any will do. */
export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string;
}

export interface Answer {
  readonly status: number;
  readonly body: string;
}

export interface Moto {
  /** `http://127.0.0.1:<port>`: the endpoint of every service. */
  readonly url: string;
  /**
   * A call of a service with a query API (EC2, IAM, SNS, STS, …), unsigned: for a test's own preparations and looks.
   * @throws when moto refuses it, with moto's message.
   */
  call(
    service: string,
    region: string,
    action: string,
    parameters?: Readonly<Record<string, string>>,
  ): Promise<string>;
  /** The same without throwing, for calls that should be refused. */
  tryCall(
    service: string,
    region: string,
    action: string,
    parameters?: Readonly<Record<string, string>>,
  ): Promise<Answer>;
  /** A call of a service with a JSON API (SSM, ECR, KMS, …); `target` is `AmazonSSM.PutParameter` or the like. */
  callJson(service: string, region: string, target: string, input: unknown): Promise<unknown>;
  /**
   * From now on every call must be signed by keys that moto knows and be allowed by their policies, after `unchecked` more calls that need not.
   * `Infinity` switches the checking off again. moto asks the policies about the resource "*" whatever the call is
   * about, and knows no condition keys: a statement limited to an ARN allows nothing there.
   */
  resetAuth(unchecked?: number): Promise<void>;
  /** Forgets everything that was made. */
  reset(): Promise<void>;
  /** What moto has logged so far: one line a request, and tracebacks. */
  log(): string;
  stop(): Promise<void>;
}

/** The first text between `<tag>` and `</tag>` of an answer. */
export function field(body: string, tag: string): string {
  const [first] = fields(body, tag);
  if (first === undefined) throw new Error(`no <${tag}> in the answer: ${body.slice(0, 500)}`);
  return first;
}

/** All of them, in order. */
export function fields(body: string, tag: string): string[] {
  return [...body.matchAll(new RegExp(`<${tag}>([^<]*)</${tag}>`, "g"))].map((match) => match[1] ?? "");
}

/**
 * Says why moto can't be had here, and prints it once, because the tests are then left out; on CI that is an error.
 * Use as `describe.skipIf(await withoutMoto())`. The first call on a machine installs it, about 40 s.
 */
export async function withoutMoto(): Promise<boolean> {
  try {
    await ensureMoto();
    return false;
  } catch (error) {
    const reason = `the tests against an emulated AWS are left out: ${(error as Error).message}`;
    if (process.env["CI"] === "true") throw new Error(reason, { cause: error });
    console.warn(reason);
    return true;
  }
}

/** The Python that has moto. Several test files may ask at once: one installs, the others wait. */
async function ensureMoto(): Promise<string> {
  const cache = process.env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache");
  const directory = join(cache, "siem-ha", `moto-${version}`);
  const python = join(directory, "bin/python");
  mkdirSync(dirname(directory), { recursive: true });
  const release = await lock(`${directory}.lock`, () => existsSync(python));
  if (release === undefined) return python;
  const unfinished = `${directory}.new`;
  try {
    rmSync(unfinished, { recursive: true, force: true });
    run("python3", ["-m", "venv", unfinished], "python3 with its venv module (Debian: python3-venv)");
    // A virtual environment is found by its own python, so it may be moved once it is whole.
    run(
      join(unfinished, "bin/python"),
      ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", `moto[server]==${version}`],
      `moto ${version} from PyPI`,
    );
    rmSync(directory, { recursive: true, force: true });
    renameSync(unfinished, directory);
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
    release();
  }
  return python;
}

/** Takes the lock and returns what gives it back, or nothing once `done` holds. A dead owner's lock is taken over. */
async function lock(path: string, done: () => boolean): Promise<(() => void) | undefined> {
  const owner = join(path, "pid");
  for (let waited = 0; waited < 600; waited++) {
    if (done()) return undefined;
    try {
      mkdirSync(path);
      writeFileSync(owner, String(process.pid));
      return () => rmSync(path, { recursive: true, force: true });
    } catch {
      if (existsSync(owner) && !alive(Number(readFileSync(owner, "utf8")))) {
        rmSync(path, { recursive: true, force: true });
      }
    }
    await sleep(500);
  }
  throw new Error(`${path} was held for five minutes; remove it if nothing installs moto any more`);
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

function run(command: string, args: readonly string[], what: string): void {
  const result = spawnSync(command, args, { encoding: "utf8", timeout: 300_000 });
  if (result.status === 0) return;
  const output = `${result.stdout ?? ""}${result.stderr ?? ""}`.trim().split("\n").slice(-2).join(" ");
  throw new Error(`can't get ${what}: ${result.error?.message ?? output}`);
}

/** Starts moto on a free port of loopback. Whoever starts it stops it. */
export async function startMoto(): Promise<Moto> {
  const python = await ensureMoto();
  const child = spawn(python, ["-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], {
    stdio: ["ignore", "pipe", "pipe"],
    // Nothing of this machine's AWS settings, and nothing of moto's Docker-backed services.
    env: { PATH: process.env["PATH"] ?? "", HOME: process.env["HOME"] ?? "", PYTHONUNBUFFERED: "1" },
  });
  const onExit = (): void => void child.kill("SIGKILL");
  process.once("exit", onExit);
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
  }
  const url = await address(child, () => text);
  const send = (path: string, body: string, headers: Record<string, string>): Promise<Response> =>
    fetch(url + path, { method: "POST", body, headers });
  const tryCall: Moto["tryCall"] = async (service, region, action, parameters = {}) => {
    const version = apiVersions[service];
    if (version === undefined) {
      throw new Error(`${service} is not one of the query APIs ${Object.keys(apiVersions).join(", ")}`);
    }
    const body = new URLSearchParams({ Action: action, Version: version, ...parameters }).toString();
    const response = await send("/", body, {
      "content-type": "application/x-www-form-urlencoded",
      authorization: scope(service, region),
    });
    return { status: response.status, body: await response.text() };
  };
  return {
    url,
    tryCall,
    call: async (service, region, action, parameters) => {
      const { status, body } = await tryCall(service, region, action, parameters);
      if (status >= 300) throw new Error(`moto refuses ${service} ${action} (${status}): ${body}`);
      return body;
    },
    callJson: async (service, region, target, input) => {
      const response = await send("/", JSON.stringify(input), {
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": target,
        authorization: scope(service, region),
      });
      const body = await response.text();
      if (response.status >= 300) throw new Error(`moto refuses ${target} (${response.status}): ${body}`);
      return body === "" ? undefined : (JSON.parse(body) as unknown);
    },
    resetAuth: async (unchecked = 0) => {
      const count = unchecked === Infinity ? "inf" : String(unchecked);
      const response = await send("/moto-api/reset-auth", count, { "content-type": "text/plain" });
      if (!response.ok) throw new Error(`moto's reset-auth answers ${response.status}`);
    },
    reset: async () => {
      const response = await send("/moto-api/reset", "", {});
      if (!response.ok) throw new Error(`moto's reset answers ${response.status}`);
    },
    log: () => text,
    stop: async () => {
      process.off("exit", onExit);
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      const hard = setTimeout(() => child.kill("SIGKILL"), 3_000);
      await gone;
      clearTimeout(hard);
    },
  };
}

/** Versions of the query APIs. */
const apiVersions: Readonly<Record<string, string>> = {
  ec2: "2016-11-15",
  iam: "2010-05-08",
  sns: "2010-03-31",
  sts: "2011-06-15",
  monitoring: "2010-08-01",
  elasticloadbalancing: "2015-12-01",
};

/** moto reads service and region from here. */
function scope(service: string, region: string): string {
  return `AWS4-HMAC-SHA256 Credential=AKIDUNSIGNED/20260101/${region}/${service}/aws4_request, SignedHeaders=host, Signature=none`;
}

async function address(child: ChildProcess, text: () => string): Promise<string> {
  for (let waited = 0; waited < 300; waited++) {
    const match = /Running on (http:\/\/127\.0\.0\.1:\d+)/.exec(text());
    if (match?.[1] !== undefined) return match[1];
    if (child.exitCode !== null) break;
    await sleep(100);
  }
  child.kill("SIGKILL");
  throw new Error(`moto did not start:\n${text().split("\n").slice(-15).join("\n")}`);
}
