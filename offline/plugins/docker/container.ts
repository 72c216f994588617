// docker:index/container:Container, with the habits of the real plugin, the awkward ones included.

import { readFile } from "node:fs/promises";
import type Docker from "dockerode";
import type { Change, Context, Props, ResourceKind } from "../server.ts";
import { HalfMade, holdsUnknown } from "../server.ts";
import type { Fields } from "../shape.ts";
import { refuse } from "../shape.ts";
import type { Daemon } from "./daemon.ts";
import { answered, daemonMessage, orGone, whileBusy } from "./daemon.ts";
import { canonicalDuration, nanoseconds } from "./duration.ts";
import { autoname, compare } from "./naming.ts";
import { archive } from "./upload.ts";

const megabyte = 1024 * 1024;
const what = "docker.Container";
/** Recorded when a container was made but did not come up: the next `up` replaces it. */
const failedKey = "__failed";

interface Labelled {
  readonly label: string;
  readonly value: string;
}

/** The inputs, once `check` has let them through. */
export interface ContainerInputs {
  readonly name: string;
  readonly image: string;
  readonly hostname?: string;
  readonly domainname?: string;
  readonly networkMode?: string;
  readonly networksAdvanced?: readonly {
    readonly name: string;
    readonly ipv4Address?: string;
    readonly aliases?: readonly string[];
  }[];
  readonly ports?: readonly {
    readonly internal: number;
    readonly external?: number;
    readonly ip?: string;
    readonly protocol?: string;
  }[];
  readonly envs?: readonly string[];
  readonly command?: readonly string[];
  readonly entrypoints?: readonly string[];
  readonly user?: string;
  readonly workingDir?: string;
  readonly capabilities?: { readonly adds?: readonly string[]; readonly drops?: readonly string[] };
  readonly privileged?: boolean;
  readonly securityOpts?: readonly string[];
  readonly pidMode?: string;
  readonly ipcMode?: string;
  readonly logDriver?: string;
  readonly logOpts?: Record<string, string>;
  readonly memory?: number;
  readonly memorySwap?: number;
  readonly cpus?: string;
  readonly cpuShares?: number;
  readonly cpuSet?: string;
  readonly restart?: string;
  readonly maxRetryCount?: number;
  readonly healthcheck?: {
    readonly tests?: readonly string[];
    readonly interval?: string;
    readonly timeout?: string;
    readonly startPeriod?: string;
    readonly retries?: number;
  };
  readonly labels?: readonly Labelled[];
  readonly mounts?: readonly {
    readonly type: string;
    readonly source?: string;
    readonly target: string;
    readonly readOnly?: boolean;
    readonly tmpfsOptions?: { readonly sizeBytes?: number; readonly mode?: number };
    readonly bindOptions?: { readonly propagation?: string };
    readonly volumeOptions?: { readonly noCopy?: boolean };
  }[];
  readonly volumes?: readonly {
    readonly volumeName?: string;
    readonly containerPath?: string;
    readonly hostPath?: string;
    readonly readOnly?: boolean;
  }[];
  readonly tmpfs?: Record<string, string>;
  readonly uploads?: readonly Upload[];
  readonly destroyGraceSeconds?: number;
  readonly removeVolumes?: boolean;
  readonly stopSignal?: string;
  readonly stopTimeout?: number;
  readonly init?: boolean;
  readonly hosts?: readonly { readonly host: string; readonly ip: string }[];
  readonly dns?: readonly string[];
  readonly dnsOpts?: readonly string[];
  readonly dnsSearches?: readonly string[];
  readonly ulimits?: readonly { readonly name: string; readonly soft: number; readonly hard: number }[];
  readonly sysctls?: Record<string, string>;
  readonly wait?: boolean;
  readonly waitTimeout?: number;
  readonly mustRun?: boolean;
  readonly start?: boolean;
  readonly readOnly?: boolean;
  readonly groupAdds?: readonly string[];
  readonly shmSize?: number;
  readonly stdinOpen?: boolean;
  readonly tty?: boolean;
  readonly platform?: string;
}

/** A file put into a container before it starts. */
export interface Upload {
  readonly file: string;
  readonly content?: string;
  readonly contentBase64?: string;
  readonly source?: string;
  readonly sourceHash?: string;
  readonly executable?: boolean;
  readonly permissions?: string;
  readonly owner?: string;
  readonly group?: string;
}

const strings = { list: "string" } as const;

const fields = {
  name: "string",
  image: "string",
  hostname: "string",
  domainname: "string",
  networkMode: "string",
  networksAdvanced: { list: { fields: { name: "string", ipv4Address: "string", aliases: strings } } },
  ports: { list: { fields: { internal: "number", external: "number", ip: "string", protocol: "string" } } },
  envs: strings,
  command: strings,
  entrypoints: strings,
  user: "string",
  workingDir: "string",
  capabilities: { fields: { adds: strings, drops: strings } },
  privileged: "boolean",
  securityOpts: strings,
  pidMode: "string",
  ipcMode: "string",
  logDriver: "string",
  logOpts: "map",
  memory: "number",
  memorySwap: "number",
  cpus: "string",
  cpuShares: "number",
  cpuSet: "string",
  restart: "string",
  maxRetryCount: "number",
  healthcheck: {
    fields: {
      tests: strings,
      interval: "string",
      timeout: "string",
      startPeriod: "string",
      retries: "number",
    },
  },
  labels: { list: { fields: { label: "string", value: "string" } } },
  mounts: {
    list: {
      fields: {
        type: "string",
        source: "string",
        target: "string",
        readOnly: "boolean",
        tmpfsOptions: { fields: { sizeBytes: "number", mode: "number" } },
        bindOptions: { fields: { propagation: "string" } },
        volumeOptions: { fields: { noCopy: "boolean" } },
      },
    },
  },
  volumes: {
    list: {
      fields: { volumeName: "string", containerPath: "string", hostPath: "string", readOnly: "boolean" },
    },
  },
  tmpfs: "map",
  uploads: {
    list: {
      fields: {
        file: "string",
        content: "string",
        contentBase64: "string",
        source: "string",
        sourceHash: "string",
        executable: "boolean",
        permissions: "string",
        owner: "string",
        group: "string",
      },
    },
  },
  destroyGraceSeconds: "number",
  removeVolumes: "boolean",
  stopSignal: "string",
  stopTimeout: "number",
  init: "boolean",
  hosts: { list: { fields: { host: "string", ip: "string" } } },
  dns: strings,
  dnsOpts: strings,
  dnsSearches: strings,
  ulimits: { list: { fields: { name: "string", soft: "number", hard: "number" } } },
  sysctls: "map",
  wait: "boolean",
  waitTimeout: "number",
  mustRun: "boolean",
  start: "boolean",
  readOnly: "boolean",
  groupAdds: strings,
  shmSize: "number",
  stdinOpen: "boolean",
  tty: "boolean",
  platform: "string",
} as const satisfies Fields & Record<keyof ContainerInputs, unknown>;

/** What changes without a new container. `healthcheck` is "updated" while Docker keeps the old one, as measured. */
const inPlace = [
  "restart",
  "maxRetryCount",
  "memory",
  "memorySwap",
  "cpuShares",
  "cpuSet",
  "healthcheck",
  "destroyGraceSeconds",
  "removeVolumes",
  "wait",
  "waitTimeout",
  "mustRun",
  "start",
];

/** Lists whose order means nothing. */
const sets = [
  "envs",
  "labels",
  "mounts",
  "volumes",
  "uploads",
  "hosts",
  "networksAdvanced",
  "dns",
  "dnsOpts",
  "dnsSearches",
  "groupAdds",
  "securityOpts",
  "ulimits",
];

/** What the diff of a container says; separate from the daemon, so that a test needs none. */
export function diffContainer(state: Props, news: Props): Change {
  const change = compare(state, news, Object.keys(fields), inPlace, sets);
  const properties = new Map(change.properties);
  if (state[failedKey] !== undefined) properties.set(failedKey, true);
  return { properties, deleteBeforeReplace: change.deleteBeforeReplace };
}

/** What is recorded right after a create: inputs in Docker's own spelling, which a later diff is made against. */
export function recorded(news: Props): Props {
  const inputs = news as unknown as ContainerInputs;
  const state: Props = { ...news };
  if (inputs.cpus !== undefined) state.cpus = String(Number(inputs.cpus));
  // Docker does not report a platform, so the program's is new at every preview.
  delete state.platform;
  if (inputs.memory !== undefined && inputs.memory > 0 && inputs.memorySwap === undefined) {
    state.memorySwap = inputs.memory * 2;
  }
  if (inputs.healthcheck !== undefined) state.healthcheck = canonicalHealthcheck(inputs.healthcheck);
  return state;
}

function canonicalHealthcheck(check: NonNullable<ContainerInputs["healthcheck"]>): Props {
  const durations = (["interval", "timeout", "startPeriod"] as const).flatMap((key) => {
    const text = check[key];
    return text === undefined ? [] : [[key, canonicalDuration(text)] as const];
  });
  return { ...check, ...Object.fromEntries(durations) };
}

/** What a refresh records on top: capabilities get Docker's spelling only then. */
export function refreshed(state: Props): Props {
  const result = recorded(state);
  const { capabilities } = state as unknown as ContainerInputs;
  if (capabilities !== undefined) {
    const spell = (names: readonly string[] | undefined): string[] | undefined =>
      names?.map((name) => (name === "ALL" || name.startsWith("CAP_") ? name : `CAP_${name}`));
    result.capabilities = { adds: spell(capabilities.adds), drops: spell(capabilities.drops) };
  }
  return result;
}

/** The request that Docker's API takes. */
export function createRequest(inputs: ContainerInputs): Docker.ContainerCreateOptions {
  const ports = (inputs.ports ?? []).map((port) => ({
    ...port,
    key: `${port.internal}/${port.protocol ?? "tcp"}`,
  }));
  const bindings: Record<string, { HostIp: string; HostPort: string }[]> = {};
  for (const { key, ip, external } of ports) {
    (bindings[key] ??= []).push({
      HostIp: ip ?? "0.0.0.0",
      HostPort: external === undefined ? "" : String(external),
    });
  }
  const volumes = inputs.volumes ?? [];
  const [firstNetwork] = inputs.networksAdvanced ?? [];
  const check = inputs.healthcheck;
  return {
    name: inputs.name,
    Image: inputs.image,
    ...(inputs.platform !== undefined && { platform: inputs.platform }),
    ...(inputs.hostname !== undefined && { Hostname: inputs.hostname }),
    ...(inputs.domainname !== undefined && { Domainname: inputs.domainname }),
    ...(inputs.command !== undefined && { Cmd: [...inputs.command] }),
    ...(inputs.entrypoints !== undefined && { Entrypoint: [...inputs.entrypoints] }),
    ...(inputs.user !== undefined && { User: inputs.user }),
    ...(inputs.workingDir !== undefined && { WorkingDir: inputs.workingDir }),
    ...(inputs.stopSignal !== undefined && { StopSignal: inputs.stopSignal }),
    ...(inputs.stopTimeout !== undefined && { StopTimeout: inputs.stopTimeout }),
    OpenStdin: inputs.stdinOpen ?? false,
    Tty: inputs.tty ?? false,
    Env: [...(inputs.envs ?? [])],
    Labels: Object.fromEntries((inputs.labels ?? []).map(({ label, value }) => [label, value])),
    ExposedPorts: Object.fromEntries(ports.map(({ key }) => [key, {}])),
    Volumes: Object.fromEntries(
      volumes
        .filter(({ volumeName, hostPath }) => volumeName === undefined && hostPath === undefined)
        .map(({ containerPath }) => [containerPath ?? "", {}]),
    ),
    ...(check !== undefined && {
      Healthcheck: {
        Test: [...(check.tests ?? [])],
        Interval: nanoseconds(check.interval ?? "0s"),
        Timeout: nanoseconds(check.timeout ?? "0s"),
        StartPeriod: nanoseconds(check.startPeriod ?? "0s"),
        Retries: check.retries ?? 0,
      },
    }),
    HostConfig: {
      ...(inputs.networkMode !== undefined
        ? { NetworkMode: inputs.networkMode }
        : firstNetwork !== undefined && { NetworkMode: firstNetwork.name }),
      PortBindings: bindings,
      Binds: volumes
        .filter(({ volumeName, hostPath }) => volumeName !== undefined || hostPath !== undefined)
        .map(
          ({ volumeName, hostPath, containerPath, readOnly }) =>
            `${volumeName ?? hostPath}:${containerPath ?? ""}:${readOnly === true ? "ro" : "rw"}`,
        ),
      Mounts: (inputs.mounts ?? []).map((mount) => ({
        Type: mount.type as Docker.MountType,
        Source: mount.source ?? "",
        Target: mount.target,
        ReadOnly: mount.readOnly ?? false,
        ...(mount.tmpfsOptions !== undefined && {
          TmpfsOptions: { SizeBytes: mount.tmpfsOptions.sizeBytes ?? 0, Mode: mount.tmpfsOptions.mode ?? 0 },
        }),
        ...(mount.bindOptions !== undefined && {
          BindOptions: {
            Propagation: (mount.bindOptions.propagation ?? "rprivate") as Docker.MountPropagation,
          },
        }),
        ...(mount.volumeOptions !== undefined && {
          VolumeOptions: {
            NoCopy: mount.volumeOptions.noCopy ?? false,
            Labels: {},
            DriverConfig: { Name: "", Options: {} },
          },
        }),
      })),
      ...(inputs.tmpfs !== undefined && { Tmpfs: inputs.tmpfs }),
      CapAdd: [...(inputs.capabilities?.adds ?? [])],
      CapDrop: [...(inputs.capabilities?.drops ?? [])],
      Privileged: inputs.privileged ?? false,
      SecurityOpt: [...(inputs.securityOpts ?? [])],
      ...(inputs.pidMode !== undefined && { PidMode: inputs.pidMode }),
      ...(inputs.ipcMode !== undefined && { IpcMode: inputs.ipcMode }),
      ...(inputs.logDriver !== undefined || inputs.logOpts !== undefined
        ? { LogConfig: { Type: inputs.logDriver ?? "json-file", Config: inputs.logOpts ?? {} } }
        : {}),
      ...resources(inputs),
      ...(inputs.cpus !== undefined && { NanoCpus: Math.round(Number(inputs.cpus) * 1e9) }),
      ...(inputs.init !== undefined && { Init: inputs.init }),
      ExtraHosts: (inputs.hosts ?? []).map(({ host, ip }) => `${host}:${ip}`),
      Dns: [...(inputs.dns ?? [])],
      DnsOptions: [...(inputs.dnsOpts ?? [])],
      DnsSearch: [...(inputs.dnsSearches ?? [])],
      Ulimits: (inputs.ulimits ?? []).map(({ name, soft, hard }) => ({ Name: name, Soft: soft, Hard: hard })),
      Sysctls: inputs.sysctls ?? {},
      ReadonlyRootfs: inputs.readOnly ?? false,
      GroupAdd: [...(inputs.groupAdds ?? [])],
      ...(inputs.shmSize !== undefined && { ShmSize: inputs.shmSize * megabyte }),
    },
    ...(firstNetwork !== undefined && {
      NetworkingConfig: { EndpointsConfig: { [firstNetwork.name]: endpoint(firstNetwork) } },
    }),
  };
}

/** The part of the settings that `docker update` can change, too. */
function resources(inputs: ContainerInputs) {
  const swap = inputs.memorySwap;
  return {
    RestartPolicy: { Name: inputs.restart ?? "no", MaximumRetryCount: inputs.maxRetryCount ?? 0 },
    ...(inputs.memory !== undefined && { Memory: inputs.memory * megabyte }),
    ...(swap !== undefined && { MemorySwap: swap < 0 ? swap : swap * megabyte }),
    ...(inputs.cpuShares !== undefined && { CpuShares: inputs.cpuShares }),
    ...(inputs.cpuSet !== undefined && { CpusetCpus: inputs.cpuSet }),
  };
}

function endpoint(network: NonNullable<ContainerInputs["networksAdvanced"]>[number]) {
  return {
    Aliases: [...(network.aliases ?? [])],
    ...(network.ipv4Address !== undefined && { IPAMConfig: { IPv4Address: network.ipv4Address } }),
  };
}

/** What the container itself says about its networks. */
function networkDatas(found: Docker.ContainerInspectInfo): Props[] {
  return Object.entries(found.NetworkSettings.Networks).map(([networkName, network]) => ({
    networkName,
    ipAddress: network.IPAddress,
    ipPrefixLength: network.IPPrefixLen,
    gateway: network.Gateway,
    globalIpv6Address: network.GlobalIPv6Address,
    globalIpv6PrefixLength: network.GlobalIPv6PrefixLen,
    ipv6Gateway: network.IPv6Gateway,
    macAddress: network.MacAddress,
  }));
}

function checkInputs(news: Props) {
  const failures = refuse(news, fields, what);
  const { image, cpus, healthcheck, uploads, networkMode, hostname } =
    news as unknown as Partial<ContainerInputs>;
  const fail = (property: string, reason: string): void => void failures.push({ property, reason });
  if (image === undefined) fail("image", `${what} needs an "image"`);
  if (typeof cpus === "string" && !holdsUnknown(cpus) && !(Number(cpus) > 0)) {
    fail("cpus", `"cpus" must be a positive number as text, such as "0.5", but is "${cpus}"`);
  }
  if (failures.length > 0) return failures;
  for (const key of ["interval", "timeout", "startPeriod"] as const) {
    const text = healthcheck?.[key];
    if (text === undefined || holdsUnknown(text)) continue;
    try {
      nanoseconds(text);
    } catch (error) {
      fail(`healthcheck.${key}`, daemonMessage(error));
    }
  }
  if (Array.isArray(uploads)) {
    uploads.forEach((upload: Upload, index) => {
      const given = (["content", "contentBase64", "source"] as const).filter(
        (key) => upload[key] !== undefined,
      );
      if (given.length > 1)
        fail(
          `uploads[${index}]`,
          `give only one of content, contentBase64, source; given: ${given.join(", ")}`,
        );
      if (given.length === 0) fail(`uploads[${index}]`, "give one of content, contentBase64, source");
      for (const key of ["owner", "group"] as const) {
        const id = upload[key];
        if (id !== undefined && !/^\d+$/.test(id) && !holdsUnknown(id)) {
          fail(`uploads[${index}].${key}`, `the offline stand-in takes a numeric ${key}, but it is "${id}"`);
        }
      }
    });
  }
  if (networkMode?.startsWith("container:") === true && hostname !== undefined) {
    fail(
      "hostname",
      `a container with networkMode "${networkMode}" has the other's hostname; leave "hostname" out`,
    );
  }
  return failures;
}

/** The container type on one daemon. */
export function containerKind(daemon: Daemon): ResourceKind {
  const container = (id: string): Docker.Container => daemon.docker.getContainer(id);

  async function make(inputs: ContainerInputs): Promise<Docker.Container> {
    const request = createRequest(inputs);
    try {
      return await daemon.docker.createContainer(request);
    } catch (error) {
      if (!answered(error, 404) || !/no such image/i.test(daemonMessage(error))) throw error;
      await daemon.pull(inputs.image);
      return daemon.docker.createContainer(request);
    }
  }

  async function finish(made: Docker.Container, inputs: ContainerInputs): Promise<void> {
    // At birth Docker 20.10 takes one network only.
    for (const network of (inputs.networksAdvanced ?? []).slice(inputs.networkMode === undefined ? 1 : 0)) {
      if (inputs.networkMode !== undefined && inputs.networkMode === network.name) continue;
      await daemon.docker
        .getNetwork(network.name)
        .connect({ Container: made.id, EndpointConfig: endpoint(network) });
    }
    const files = await Promise.all(
      (inputs.uploads ?? []).map(async (upload) => ({ upload, data: await content(upload) })),
    );
    if (files.length > 0) await made.putArchive(await archive(files), { path: "/" });
    if (inputs.start === false) return;
    try {
      await made.start();
    } catch (error) {
      throw new Error(`Unable to start container: ${daemonMessage(error)}`, { cause: error });
    }
    if (inputs.wait === true) await untilHealthy(made, inputs);
  }

  async function untilHealthy(made: Docker.Container, inputs: ContainerInputs): Promise<void> {
    const seconds = inputs.waitTimeout ?? 60;
    const deadline = Date.now() + seconds * 1000;
    let status: string | undefined;
    while (Date.now() < deadline) {
      status = (await made.inspect()).State.Health?.Status;
      if (status === undefined)
        throw new Error(`container ${inputs.name} has no healthcheck, and "wait" waits for health`);
      if (status === "healthy") return;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    throw new Error(
      `context deadline exceeded: container ${inputs.name} is ${status} after ${seconds} s ("waitTimeout")`,
    );
  }

  /** Docker records a namespace by id; a name in the program is therefore new at every preview. */
  function observed(state: Props, found: Docker.ContainerInspectInfo): Props {
    const mode = found.HostConfig.NetworkMode;
    return {
      ...state,
      ...(typeof state.networkMode === "string" &&
        mode !== undefined &&
        mode !== "" && { networkMode: mode }),
      networkDatas: networkDatas(found),
    };
  }

  return {
    check: (news, olds, context) => ({
      defaults: autoname(news, olds, context),
      failures: checkInputs(news),
    }),

    diff: (state, news) => diffContainer(state, news),

    async create(news) {
      const inputs = news as unknown as ContainerInputs;
      let made: Docker.Container;
      try {
        made = await make(inputs);
      } catch (error) {
        throw new Error(`Unable to create container: ${daemonMessage(error)}`, { cause: error });
      }
      const state = recorded(news);
      try {
        await finish(made, inputs);
        return { id: made.id, state: observed(state, await made.inspect()) };
      } catch (error) {
        const reason = daemonMessage(error);
        throw new HalfMade(reason, made.id, { ...state, [failedKey]: reason });
      }
    },

    async read(id, state) {
      const found = await orGone(container(id).inspect());
      if (found === undefined) return undefined;
      const now = observed(refreshed(state), found);
      const host = found.HostConfig;
      if ("memory" in state) now.memory = (host.Memory ?? 0) / megabyte;
      if ("memorySwap" in now)
        now.memorySwap = (host.MemorySwap ?? 0) < 0 ? -1 : (host.MemorySwap ?? 0) / megabyte;
      if ("restart" in state) now.restart = host.RestartPolicy?.Name ?? "no";
      const runs = found.State.Running || found.State.Restarting;
      const shouldRun = state.mustRun !== false && state.start !== false;
      // Recorded as a difference, so that the `up` after this refresh starts it again under the same id.
      if (shouldRun && !runs) now.mustRun = false;
      return now;
    },

    async update(id, _state, news, context) {
      const inputs = news as unknown as ContainerInputs;
      const made = container(id);
      try {
        await made.update(resources(inputs));
        const before = await made.inspect();
        if (inputs.mustRun !== false && inputs.start !== false && !before.State.Running) {
          context.log(`${inputs.name} was stopped: starting it`);
          await made.start();
        }
        // As it was given: only a refresh brings Docker's spelling back.
        return observed({ ...news }, await made.inspect());
      } catch (error) {
        throw new Error(`Unable to update a container: ${daemonMessage(error)}`, { cause: error });
      }
    },

    async delete(id, state, context: Context) {
      const inputs = state as unknown as ContainerInputs;
      const made = container(id);
      const grace = inputs.destroyGraceSeconds ?? 0;
      if (grace > 0) {
        try {
          await made.stop({ t: grace });
        } catch (error) {
          // 304: it was stopped already. Anything else is for the removal below to settle.
          if (!answered(error, 304, 404))
            context.log(`stop of ${inputs.name}: ${daemonMessage(error)}`, "warning");
        }
      }
      await whileBusy(`container ${inputs.name}`, 30, () =>
        made.remove({ force: true, v: inputs.removeVolumes !== false }),
      );
    },
  };
}

async function content(upload: Upload): Promise<Buffer> {
  if (upload.contentBase64 !== undefined) return Buffer.from(upload.contentBase64, "base64");
  if (upload.source !== undefined) return readFile(upload.source);
  return Buffer.from(upload.content ?? "");
}
