// The hook and the keeper of the virtual IP, run for real on this machine: AWS is moto, the witness is the real one,
// and a small `ip` says whether this node has the address.

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import { type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { keeperPolicy } from "../../components/edge/overlay.ts";
import {
  type KeeperCloud,
  type KeeperSettings,
  renderKeeperSettings,
} from "../../components/render/keepalived.ts";
import { createWitness } from "../../services/witness/app.ts";
import { LeaseTable } from "../../services/witness/lease.ts";
import { type Imds, startImds } from "../aws-emulation/imds.ts";
import { account, type Credentials, field, fields, type Moto, startMoto } from "../aws-emulation/moto.ts";

export const region = "eu-central-1";
export const vip = "172.25.0.222";
export const tables = ["main", "public", "private-1"] as const;
export type Table = (typeof tables)[number];
const images = join(import.meta.dirname, "../../images/keepalived");

/** Says why the scripts can't run here, once; on CI that is an error. */
export function withoutTools(): boolean {
  const missing = ["bash -c '((BASH_VERSINFO[0] >= 5))'", "curl --aws-sigv4 x --version"].filter(
    (command) => spawnSync("sh", ["-c", command]).status !== 0,
  );
  if (missing.length === 0) return false;
  const reason = `the tests of the address's hook and keeper are left out: these fail here: ${missing.join("; ")}`;
  if (process.env["CI"] === "true") throw new Error(reason);
  console.warn(reason);
  return true;
}

/** A call as it went to AWS. */
export interface Call {
  readonly action: string;
  readonly parameters: Readonly<Record<string, string>>;
  readonly at: number;
  status: number;
}

type Fault = (call: Call) => "refuse" | { delayMs: number } | undefined;

export interface Cloud {
  readonly moto: Moto;
  readonly imds: Imds;
  /** What stands before moto: counts the calls and can spoil some of them. */
  readonly url: string;
  readonly calls: Call[];
  fault: Fault;
  /** Ids of the route tables. */
  readonly tables: Readonly<Record<Table, string>>;
  /** Network interfaces of the two load balancers. */
  readonly interfaces: readonly [string, string];
  readonly topic: string;
  /** Messages that the topic has sent on. */
  readonly messages: { readonly subject: string; readonly text: string }[];
  /** Where each table's route to the address points. */
  targets(): Promise<Record<Table, string | undefined>>;
  /** Points one table, or all, to a network interface. */
  point(target: string, table?: Table): Promise<void>;
  removeRoute(table: Table): Promise<void>;
  makeRoute(table: Table): Promise<void>;
  /** Gives the keeper's role another policy. */
  setPolicy(document: object): Promise<void>;
  readonly policy: object;
  /** What no list of processes may show. */
  readonly secrets: readonly string[];
  stop(): Promise<void>;
}

/** A VPC with three route tables in moto, a role with the real policy, and a topic whose messages come here. */
export async function startCloud(): Promise<Cloud> {
  const moto = await startMoto();
  const admin = await makeAdmin(moto);
  const call = (service: string, action: string, parameters: Record<string, string> = {}) =>
    signed(moto.url, admin, service, action, parameters);

  const vpc = field(await call("ec2", "CreateVpc", { CidrBlock: "10.42.0.0/16" }), "vpcId");
  const subnet = field(
    await call("ec2", "CreateSubnet", { VpcId: vpc, CidrBlock: "10.42.0.0/20" }),
    "subnetId",
  );
  const make = async (address: string) =>
    field(
      await call("ec2", "CreateNetworkInterface", { SubnetId: subnet, PrivateIpAddress: address }),
      "networkInterfaceId",
    );
  const interfaces = [await make("10.42.0.11"), await make("10.42.0.12")] as const;
  const ids = {} as Record<Table, string>;
  for (const name of tables) {
    ids[name] = field(await call("ec2", "CreateRouteTable", { VpcId: vpc }), "routeTableId");
  }
  for (const id of Object.values(ids)) {
    // A route beside the address's own, as every real table has.
    await call("ec2", "CreateRoute", {
      RouteTableId: id,
      DestinationCidrBlock: "10.99.0.0/16",
      NetworkInterfaceId: interfaces[1],
    });
    await call("ec2", "CreateRoute", {
      RouteTableId: id,
      DestinationCidrBlock: `${vip}/32`,
      NetworkInterfaceId: interfaces[1],
    });
  }

  const messages: { subject: string; text: string }[] = [];
  const inbox = await listen(async (incoming, response) => {
    const message = JSON.parse(await text(incoming)) as { Type: string; Subject?: string; Message: string };
    if (message.Type === "Notification")
      messages.push({ subject: message.Subject ?? "", text: message.Message });
    response.end();
  });
  const topic = field(await call("sns", "CreateTopic", { Name: "alarms" }), "TopicArn");
  await call("sns", "Subscribe", { TopicArn: topic, Protocol: "http", Endpoint: inbox.url });

  const role = "lb-node-1";
  await call("iam", "CreateRole", {
    RoleName: role,
    AssumeRolePolicyDocument: JSON.stringify({
      Version: "2012-10-17",
      Statement: [{ Effect: "Allow", Principal: { Service: "ec2.amazonaws.com" }, Action: "sts:AssumeRole" }],
    }),
  });
  const policy = actionsOnly(
    keeperPolicy({
      routeTables: Object.values(ids).map((id) => `arn:aws:ec2:${region}:${account}:route-table/${id}`),
      topic,
      topicKey: `arn:aws:kms:${region}:${account}:key/00000000-0000-0000-0000-000000000000`,
      namespace: "siem-ha/test",
      region,
    }),
  );
  const setPolicy = async (document: object): Promise<void> => {
    await call("iam", "PutRolePolicy", {
      RoleName: role,
      PolicyName: "address",
      PolicyDocument: JSON.stringify(document),
    });
  };
  await setPolicy(policy);
  // Before the checks begin: the instance's service, not a person, takes on the role.
  await moto.resetAuth(Infinity);
  const assumed = await moto.call("sts", region, "AssumeRole", {
    RoleArn: `arn:aws:iam::${account}:role/${role}`,
    RoleSessionName: "i-0123456789abcdef0",
  });
  await moto.resetAuth();
  const keys: Credentials = {
    accessKeyId: field(assumed, "AccessKeyId"),
    secretAccessKey: field(assumed, "SecretAccessKey"),
    sessionToken: field(assumed, "SessionToken"),
  };
  const imds = await startImds(role, () => keys);

  const calls: Call[] = [];
  const state: { fault: Fault } = { fault: () => undefined };
  const front = await listen(async (incoming, response) => {
    const body = await text(incoming);
    const { Action: action = "", ...parameters } = Object.fromEntries(new URLSearchParams(body));
    const entry: Call = { action, parameters, at: Date.now(), status: 0 };
    calls.push(entry);
    const fault = state.fault(entry);
    if (fault === "refuse") {
      entry.status = 503;
      response
        .writeHead(503)
        .end(
          "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message></Error></Errors></Response>",
        );
      return;
    }
    if (fault !== undefined) await sleep(fault.delayMs);
    // Host is signed too, so it goes on as it came.
    const onward = request(moto.url, { method: "POST", headers: incoming.headers }, (answer) => {
      entry.status = answer.statusCode ?? 0;
      response.writeHead(entry.status, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    onward.end(body);
  });

  return {
    moto,
    imds,
    url: front.url,
    calls,
    get fault() {
      return state.fault;
    },
    set fault(value) {
      state.fault = value;
    },
    tables: ids,
    interfaces,
    topic,
    messages,
    policy,
    setPolicy,
    secrets: [keys.secretAccessKey, keys.sessionToken ?? "", token],
    targets: async () => {
      const parameters = Object.fromEntries(
        tables.map((name, index) => [`RouteTableId.${index + 1}`, ids[name]]),
      );
      const answer = await call("ec2", "DescribeRouteTables", parameters);
      const found: Partial<Record<Table, string>> = {};
      for (const part of answer.split("<routeTableId>").slice(1)) {
        const name = tables.find((table) => part.startsWith(`${ids[table]}<`));
        const item = /<routeSet>[^]*?<\/routeSet>/
          .exec(part)?.[0]
          .split("<item>")
          .find((one) => one.includes(`<destinationCidrBlock>${vip}/32<`));
        if (name !== undefined && item !== undefined) found[name] = fields(item, "networkInterfaceId")[0];
      }
      return Object.fromEntries(tables.map((name) => [name, found[name]])) as Record<
        Table,
        string | undefined
      >;
    },
    point: async (target, table) => {
      for (const name of table === undefined ? tables : [table]) {
        await call("ec2", "ReplaceRoute", {
          RouteTableId: ids[name],
          DestinationCidrBlock: `${vip}/32`,
          NetworkInterfaceId: target,
        });
      }
    },
    removeRoute: async (table) => {
      await call("ec2", "DeleteRoute", { RouteTableId: ids[table], DestinationCidrBlock: `${vip}/32` });
    },
    makeRoute: async (table) => {
      await call("ec2", "CreateRoute", {
        RouteTableId: ids[table],
        DestinationCidrBlock: `${vip}/32`,
        NetworkInterfaceId: interfaces[0],
      });
    },
    stop: async () => {
      await front.stop();
      await inbox.stop();
      await imds.stop();
      await moto.stop();
    },
  };
}

/**
 * The policy without Resource and Condition: moto asks every policy about the resource "*", so that a limited one
 * allows nothing there. What it is limited to is the overlay's own test. It also takes the name of CloudWatch's host
 * for the name of its actions.
 */
function actionsOnly(policy: ReturnType<typeof keeperPolicy>): object {
  return {
    ...policy,
    Statement: policy.Statement.map(({ Sid, Effect, Action }) => ({
      Sid,
      Effect,
      Action: [Action].flat().map((action) => action.replace(/^cloudwatch:/, "monitoring:")),
      Resource: "*",
    })),
  };
}

/** An account that may do everything, for the test's own calls once signatures are checked. */
async function makeAdmin(moto: Moto): Promise<Credentials> {
  await moto.call("iam", region, "CreateUser", { UserName: "admin" });
  await moto.call("iam", region, "PutUserPolicy", {
    UserName: "admin",
    PolicyName: "all",
    PolicyDocument: JSON.stringify({
      Version: "2012-10-17",
      Statement: [{ Effect: "Allow", Action: "*", Resource: "*" }],
    }),
  });
  const key = await moto.call("iam", region, "CreateAccessKey", { UserName: "admin" });
  return { accessKeyId: field(key, "AccessKeyId"), secretAccessKey: field(key, "SecretAccessKey") };
}

const versions: Readonly<Record<string, string>> = {
  ec2: "2016-11-15",
  iam: "2010-05-08",
  sns: "2010-03-31",
};

async function signed(
  url: string,
  keys: Credentials,
  service: string,
  action: string,
  parameters: Record<string, string>,
): Promise<string> {
  const all = { Version: versions[service] ?? "", Action: action, ...parameters };
  const child = spawn("curl", [
    ...["-sS", "--fail-with-body", "--max-time", "20", "-K", "-"],
    ...["--aws-sigv4", `aws:amz:${service === "iam" ? "us-east-1" : region}:${service}`],
    ...Object.entries(all).flatMap(([name, value]) => ["--data-urlencode", `${name}=${value}`]),
    `${url}/`,
  ]);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => (output += chunk));
  }
  child.stdin.end(`user = "${keys.accessKeyId}:${keys.secretAccessKey}"\n`);
  const status = await new Promise((resolve) => child.once("close", resolve));
  if (status !== 0) throw new Error(`${service} ${action} failed: ${output}`);
  return output;
}

async function text(incoming: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of incoming) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString("utf8");
}

/** An HTTP server of the test's own. */
export async function listen(
  handle: (incoming: IncomingMessage, response: ServerResponse) => Promise<void> | void,
  host = "127.0.0.1",
  port = 0,
): Promise<{ url: string; port: number; stop: () => Promise<void> }> {
  const server: Server = createServer((incoming, response) => void handle(incoming, response));
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  const bound = (server.address() as AddressInfo).port;
  return {
    url: `http://${host}:${bound}`,
    port: bound,
    stop: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

export const token = "witness-token-of-the-tests-0123456789abcdef";

export interface TestWitness {
  readonly url: string;
  readonly leases: LeaseTable;
  /** Answers nothing while it is set, as a machine that is gone. */
  stop(): Promise<void>;
}

/** The real witness, old enough to grant, or young for as long as it runs. */
export async function startWitness(age: "old" | "young" = "old"): Promise<TestWitness> {
  const day = 24 * 3_600_000;
  let skew = age === "old" ? 0 : 2 * day;
  const leases = new LeaseTable(() => performance.now() + skew);
  skew = day;
  const app = createWitness({ token, lifecycle: { draining: false }, leases, quiet: true });
  const url = await app.listen({ host: "127.0.0.1", port: 0 });
  return { url, leases, stop: () => app.close() };
}

/** What a keeper knows of the cloud. */
export function cloudOf(cloud: Cloud): KeeperCloud {
  return {
    region,
    dnsSuffix: "amazonaws.com",
    routeTables: cloud.tables,
    networkInterface: cloud.interfaces[0],
    topic: cloud.topic,
    metrics: "siem-ha/test",
  };
}

/** A load balancer node: its settings, its state, and whether it has the address. */
export class Machine {
  readonly directory = mkdtempSync(join(tmpdir(), "siem-ha-vip-"));
  readonly #held = join(this.directory, "held");
  readonly #children: ChildProcess[] = [];
  readonly #environment: Record<string, string>;
  readonly letGo: string;
  output = "";

  constructor(
    cloud: Cloud,
    settings: Partial<Omit<KeeperSettings, "cloud">> & {
      witness: string;
      cloud?: KeeperCloud | undefined;
    },
  ) {
    const { cloud: given, ...rest } = settings;
    const known = "cloud" in settings ? given : cloudOf(cloud);
    const state = join(this.directory, "state");
    this.letGo = join(state, "let-go");
    // Stands for iproute2: one line when the address is here, none otherwise.
    writeFileSync(
      join(this.directory, "ip"),
      `#!/bin/sh\n[ "$*" = "-o -4 address show to ${vip}/32" ] || { echo "unexpected: ip $*" >&2; exit 2; }\n[ ! -e ${this.#held} ] || echo "2: ens5    inet ${vip}/32 scope global ens5"\n`,
      { mode: 0o755 },
    );
    // What any user of the machine could see of a call.
    const curl = spawnSync("sh", ["-c", "command -v curl"], { encoding: "utf8" }).stdout.trim();
    writeFileSync(
      join(this.directory, "curl"),
      `#!/bin/sh\nprintf '%s\\n' "$*" >> ${this.directory}/command-lines\nexec ${curl} "$@"\n`,
      { mode: 0o755 },
    );
    // Stands for socat, which the image has; what it would run is asked directly.
    writeFileSync(join(this.directory, "socat"), "#!/bin/sh\nexec sleep 600\n", { mode: 0o755 });
    writeFileSync(
      join(this.directory, "vip.conf"),
      renderKeeperSettings({
        node: "lb-node-1",
        rank: "first",
        address: "127.0.0.1",
        vip,
        peers: ["127.0.0.2"],
        port: 1,
        ...(known === undefined ? {} : { cloud: known }),
        ...rest,
      }),
    );
    writeFileSync(join(this.directory, "token"), token);
    spawnSync("mkdir", ["-p", state]);
    this.#environment = {
      PATH: `${this.directory}:${process.env["PATH"] ?? ""}`,
      VIP_LIB: join(images, "vip-lib.sh"),
      VIP_SETTINGS: join(this.directory, "vip.conf"),
      VIP_TOKEN: join(this.directory, "token"),
      VIP_STATE: state,
      VIP_RECONCILE_SECONDS: "1",
      AWS_ENDPOINT_URL: cloud.url,
      METADATA_URL: cloud.imds.url,
    };
  }

  /** Stands at the other end of one of the scripts' pipes; returns how often it has rung. */
  listenAt(pipe: "wake" | "announce"): () => number {
    const path = join(this.directory, "state", pipe);
    if (!existsSync(path)) spawnSync("mkfifo", [path]);
    // Opened for both, so that it never ends.
    const child = spawn("bash", ["-c", 'exec 3<> "$1"; exec cat <&3', "bash", path], {
      stdio: ["ignore", "pipe", "inherit"],
      detached: true,
    });
    this.#children.push(child);
    let rung = "";
    child.stdout.setEncoding("utf8").on("data", (chunk: string) => (rung += chunk));
    return () => rung.split("\n").length - 1;
  }

  /** Gives the node the address, or takes it. */
  hold(held = true): void {
    if (held) writeFileSync(this.#held, "");
    else rmSync(this.#held, { force: true });
  }

  /** Runs Keepalived's hook to its end. */
  async notify(
    event: "master" | "released",
    environment: Record<string, string> = {},
  ): Promise<number | null> {
    const child = this.#spawn("vip-notify.sh", [event], environment);
    const status = await new Promise<number | null>((resolve) => child.once("close", resolve));
    const said = join(this.directory, "state/hook.log");
    if (existsSync(said)) this.output += readFileSync(said, "utf8");
    return status;
  }

  /** Starts the keeper. */
  keep(environment: Record<string, string> = {}): ChildProcess {
    return this.#spawn("vip-keeper.sh", [], environment);
  }

  /** Runs a script to its end with something on its standard input. */
  run(script: string, args: string[], input: string): { stdout: string; status: number | null } {
    return spawnSync("bash", [join(images, script), ...args], {
      env: this.#environment,
      encoding: "utf8",
      input,
    });
  }

  /** Plays a Keepalived that sees no other: has the address unless it is told to let go. Returns what ends it. */
  obey(): () => void {
    let on = true;
    void (async () => {
      while (on) {
        let told = false;
        try {
          told = readFileSync(this.letGo, "utf8").trim() === "1";
        } catch {
          // Not there yet.
        }
        this.hold(!told);
        await sleep(20);
      }
    })();
    return () => void (on = false);
  }

  #spawn(script: string, args: string[], environment: Record<string, string>): ChildProcess {
    // With the mask that Keepalived gives its scripts.
    const child = spawn(
      "sh",
      ["-c", 'umask 0777 && exec "$@"', "sh", "bash", join(images, script), ...args],
      {
        env: { ...this.#environment, ...environment },
        stdio: ["ignore", "pipe", "pipe"],
        // Its own group, so that the socat that it started goes with it.
        detached: true,
      },
    );
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (chunk: string) => (this.output += chunk));
    }
    this.#children.push(child);
    return child;
  }

  /** Every command line that a call was made with. */
  commandLines(): string {
    const file = join(this.directory, "command-lines");
    return existsSync(file) ? readFileSync(file, "utf8") : "";
  }

  async stop(): Promise<void> {
    for (const child of this.#children) {
      if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) continue;
      const gone = new Promise((resolve) => child.once("exit", resolve));
      process.kill(-child.pid, "SIGKILL");
      await gone;
    }
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Waits until something holds, or fails with what it was and the output so far. */
export async function eventually(
  what: string,
  check: () => boolean | Promise<boolean>,
  seconds = 10,
  output = () => "",
): Promise<number> {
  const began = Date.now();
  while (!(await check())) {
    if (Date.now() - began > seconds * 1000) {
      throw new Error(`after ${seconds} s: ${what}; the output so far:\n${output()}`);
    }
    await sleep(20);
  }
  return Date.now() - began;
}
