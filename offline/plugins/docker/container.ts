// docker:index/container:Container, with the habits of the real plugin, the awkward ones included. It records what
// Docker says of a container, not what the program asked for: an image's healthcheck shows in the next diff.

import type Docker from "dockerode";
import type { Context, Failure, Props, ResourceKind } from "../server.ts";
import { HalfMade, holdsUnknown } from "../server.ts";
import type { Daemon } from "./daemon.ts";
import { answered, daemonMessage, orGone, whileBusy } from "./daemon.ts";
import { goDuration, nanoseconds } from "./duration.ts";
import { plain, rules, type Table } from "./table.ts";
import { archive } from "./upload.ts";

const megabyte = 1024 * 1024;
const type = "docker.Container";

/** The inputs, once `check` has let them through and filled them in. */
export interface ContainerInputs {
  readonly name: string;
  readonly image: string;
  readonly hostname?: string;
  readonly networkMode: string;
  readonly networksAdvanced?: readonly {
    readonly name: string;
    readonly ipv4Address?: string;
    readonly aliases?: readonly string[];
  }[];
  readonly ports?: readonly {
    readonly internal: number;
    readonly external?: number;
    readonly ip: string;
    readonly protocol: string;
  }[];
  readonly envs?: readonly string[];
  readonly command?: readonly string[];
  readonly entrypoints?: readonly string[];
  readonly capabilities?: { readonly adds?: readonly string[]; readonly drops?: readonly string[] };
  readonly securityOpts?: readonly string[];
  readonly logDriver?: string;
  readonly logOpts?: Record<string, string>;
  readonly memory?: number;
  readonly memorySwap?: number;
  readonly cpus?: string;
  readonly cpuShares?: number;
  readonly restart: string;
  readonly healthcheck?: {
    readonly tests?: readonly string[];
    readonly interval: string;
    readonly timeout: string;
    readonly startPeriod: string;
    readonly startInterval: string;
    readonly retries?: number;
  };
  readonly labels?: readonly { readonly label: string; readonly value: string }[];
  readonly volumes?: readonly {
    readonly volumeName?: string;
    readonly containerPath: string;
    readonly hostPath?: string;
    readonly readOnly?: boolean;
  }[];
  readonly tmpfs?: Record<string, string>;
  readonly uploads?: readonly Upload[];
  readonly hosts?: readonly { readonly host: string; readonly ip: string }[];
  readonly destroyGraceSeconds?: number;
  readonly removeVolumes: boolean;
  readonly wait?: boolean;
  readonly waitTimeout: number;
  readonly mustRun: boolean;
  readonly start: boolean;
  readonly readOnly?: boolean;
  readonly init?: boolean;
  readonly containerReadRefreshTimeoutMilliseconds: number;
}

/** A file put into a container before it starts. */
export interface Upload {
  readonly file: string;
  readonly content?: string;
  readonly executable?: boolean;
  readonly permissions?: string;
}

const strings = { list: "string" } as const;

/** A changed healthcheck is "updated" while Docker keeps the old one; so are changed in-memory directories. */
const table = {
  name: { shape: "string" },
  image: { shape: "string" },
  hostname: { shape: "string", computed: true },
  networkMode: { shape: "string", fill: "bridge" },
  networksAdvanced: {
    shape: { list: { fields: { name: "string", ipv4Address: "string", aliases: strings } } },
  },
  ports: {
    shape: { list: { fields: { internal: "number", external: "number", ip: "string", protocol: "string" } } },
    within: { ip: "0.0.0.0", protocol: "tcp" },
  },
  envs: { shape: strings, computed: true },
  command: { shape: strings, computed: true, ordered: true },
  entrypoints: { shape: strings, computed: true, ordered: true },
  capabilities: { shape: { fields: { adds: strings, drops: strings } } },
  securityOpts: { shape: strings, computed: true },
  logDriver: { shape: "string", computed: true },
  logOpts: { shape: "map" },
  memory: { shape: "number", inPlace: true },
  memorySwap: { shape: "number", inPlace: true },
  cpus: { shape: "string" },
  cpuShares: { shape: "number", inPlace: true },
  restart: { shape: "string", fill: "no", inPlace: true },
  healthcheck: {
    shape: {
      fields: {
        tests: strings,
        interval: "string",
        timeout: "string",
        startPeriod: "string",
        startInterval: "string",
        retries: "number",
      },
    },
    within: { interval: "0s", timeout: "0s", startPeriod: "0s", startInterval: "0s" },
    computed: true,
    inPlace: true,
    ordered: true,
  },
  labels: { shape: { list: { fields: { label: "string", value: "string" } } }, computed: true },
  volumes: {
    shape: {
      list: {
        fields: { volumeName: "string", containerPath: "string", hostPath: "string", readOnly: "boolean" },
      },
    },
  },
  tmpfs: { shape: "map", inPlace: true },
  uploads: {
    shape: {
      list: { fields: { file: "string", content: "string", executable: "boolean", permissions: "string" } },
    },
  },
  hosts: { shape: { list: { fields: { host: "string", ip: "string" } } } },
  destroyGraceSeconds: { shape: "number", inPlace: true },
  removeVolumes: { shape: "boolean", fill: true, inPlace: true },
  wait: { shape: "boolean", inPlace: true },
  waitTimeout: { shape: "number", fill: 60, inPlace: true },
  mustRun: { shape: "boolean", fill: true, inPlace: true },
  start: { shape: "boolean", fill: true, inPlace: true },
  readOnly: { shape: "boolean" },
  init: { shape: "boolean", computed: true },
  containerReadRefreshTimeoutMilliseconds: { shape: "number", fill: 15000, inPlace: true },
} as const satisfies Table & Record<keyof ContainerInputs, unknown>;

/** What of a container is decided without a daemon. */
export const containerRules = rules(type, table, ["name", "image"], checkInputs);

/** Of these the stand-in knows only one value, which they have when nothing is given. */
const fixed = { wait: false, mustRun: true, start: true } as const;

function checkInputs(news: Props): Failure[] {
  const failures: Failure[] = [];
  const fail = (property: string, reason: string): void => void failures.push({ property, reason });
  const { cpus, healthcheck, uploads, networkMode, hostname } = news as unknown as Partial<ContainerInputs>;
  for (const [key, value] of Object.entries(fixed)) {
    if (news[key] !== undefined && news[key] !== value)
      fail(key, `the offline stand-in of ${type} knows only ${key}: ${value}`);
  }
  if (typeof cpus === "string" && !holdsUnknown(cpus) && !(Number(cpus) > 0)) {
    fail("cpus", `"cpus" must be a positive number as text, such as "0.5", but is "${cpus}"`);
  }
  for (const key of ["interval", "timeout", "startPeriod", "startInterval"] as const) {
    const text = healthcheck?.[key];
    if (text === undefined || holdsUnknown(text)) continue;
    try {
      nanoseconds(text);
    } catch (error) {
      fail(`healthcheck.${key}`, daemonMessage(error));
    }
  }
  if (Array.isArray(uploads)) {
    uploads.forEach(({ content }: Partial<Upload>, index) => {
      if (content === undefined || content === "")
        fail(`uploads[${index}].content`, "an upload needs content");
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

/** The request that Docker's API takes. */
export function createRequest(inputs: ContainerInputs): Docker.ContainerCreateOptions {
  const bindings: Record<string, { HostIp: string; HostPort: string }[]> = {};
  for (const { internal, protocol, ip, external = 0 } of inputs.ports ?? []) {
    (bindings[`${internal}/${protocol}`] ??= []).push({ HostIp: ip, HostPort: String(external) });
  }
  const volumes = inputs.volumes ?? [];
  const named = volumes.filter(({ volumeName, hostPath }) => (hostPath ?? volumeName) !== undefined);
  const check = inputs.healthcheck;
  return {
    name: inputs.name,
    Image: inputs.image,
    Hostname: inputs.hostname ?? "",
    ...(inputs.command !== undefined && { Cmd: [...inputs.command] }),
    ...(inputs.entrypoints !== undefined && { Entrypoint: [...inputs.entrypoints] }),
    Env: [...(inputs.envs ?? [])],
    Labels: Object.fromEntries((inputs.labels ?? []).map(({ label, value }) => [label, value])),
    ExposedPorts: Object.fromEntries(Object.keys(bindings).map((key) => [key, {}])),
    Volumes: Object.fromEntries(volumes.map(({ containerPath }) => [containerPath, {}])),
    ...(check !== undefined && {
      // Docker takes what is zero from the image.
      Healthcheck: {
        Test: [...(check.tests ?? [])],
        Interval: nanoseconds(check.interval),
        Timeout: nanoseconds(check.timeout),
        StartPeriod: nanoseconds(check.startPeriod),
        StartInterval: nanoseconds(check.startInterval),
        Retries: check.retries ?? 0,
      },
    }),
    HostConfig: {
      // The networks proper are joined afterwards.
      NetworkMode: inputs.networkMode,
      PortBindings: bindings,
      Binds: named.map(
        ({ volumeName, hostPath, containerPath, readOnly }) =>
          `${hostPath ?? volumeName}:${containerPath}:${readOnly === true ? "ro" : "rw"}`,
      ),
      ...(inputs.tmpfs !== undefined && { Tmpfs: inputs.tmpfs }),
      CapAdd: (inputs.capabilities?.adds ?? []).map(fullName),
      CapDrop: (inputs.capabilities?.drops ?? []).map(fullName),
      SecurityOpt: [...(inputs.securityOpts ?? [])],
      LogConfig: { Type: inputs.logDriver ?? "", Config: inputs.logOpts ?? {} },
      ...resources(inputs),
      ...(inputs.cpus !== undefined && { NanoCpus: Math.round(Number(inputs.cpus) * 1e9) }),
      Init: inputs.init ?? false,
      ExtraHosts: (inputs.hosts ?? []).map(({ host, ip }) => `${host}:${ip}`),
      ReadonlyRootfs: inputs.readOnly ?? false,
    },
  };
}

/** The part of the settings that `docker update` can change, too. */
function resources(inputs: ContainerInputs) {
  const swap = inputs.memorySwap ?? 0;
  return {
    RestartPolicy: { Name: inputs.restart, MaximumRetryCount: 0 },
    Memory: (inputs.memory ?? 0) * megabyte,
    MemorySwap: swap < 0 ? swap : swap * megabyte,
    CpuShares: inputs.cpuShares ?? 0,
  };
}

/** What the real plugin records of inputs that nobody gave: absent, it takes them for a change. */
const unsaid: Props = {
  attach: false,
  envs: [],
  logs: false,
  memoryReservation: 0,
  rm: false,
  stdinOpen: false,
  tty: false,
  wait: false,
};

/** What Docker says of a container, as the real plugin records it; what Docker doesn't say stays as it was. */
export function observed(state: Props, found: Docker.ContainerInspectInfo): Props {
  const { Config: config, HostConfig: host, State: now } = found;
  const inMegabytes = (bytes = 0): number => (bytes > 0 ? Math.trunc(bytes / megabyte) : bytes);
  const check = config.Healthcheck;
  const extraHosts = (host.ExtraHosts ?? []) as string[];
  const capabilities = { adds: (host.CapAdd ?? []) as string[], drops: (host.CapDrop ?? []) as string[] };
  return {
    ...unsaid,
    ...state,
    // The real plugin takes what has no version for its oldest one's.
    __meta: JSON.stringify({ schema_version: "2" }),
    name: found.Name.slice(1),
    image: String(state.image).startsWith("sha256:") ? found.Image : config.Image,
    hostname: config.Hostname,
    networkMode: host.NetworkMode,
    ...(given(state.ports) && { ports: portsOf(found) }),
    command: config.Cmd ?? [],
    entrypoints: config.Entrypoint ?? [],
    ...(Object.values(capabilities).some(given) && { capabilities }),
    securityOpts: host.SecurityOpt ?? [],
    logDriver: host.LogConfig?.Type,
    ...(given(state.logOpts) && { logOpts: host.LogConfig?.Config }),
    memory: inMegabytes(host.Memory),
    memorySwap: inMegabytes(host.MemorySwap),
    ...((host.NanoCpus ?? 0) > 0 && { cpus: String((host.NanoCpus ?? 0) / 1e9) }),
    cpuShares: host.CpuShares ?? 0,
    restart: host.RestartPolicy?.Name,
    ...(check && {
      healthcheck: {
        tests: check.Test,
        interval: goDuration(check.Interval),
        timeout: goDuration(check.Timeout),
        startPeriod: goDuration(check.StartPeriod),
        startInterval: goDuration((check as { StartInterval?: number }).StartInterval),
        retries: check.Retries ?? 0,
      },
    }),
    tmpfs: host.Tmpfs ?? {},
    hosts: extraHosts.map((text) => {
      const [name, ...address] = text.split(":");
      return { host: name, ip: address.join(":") };
    }),
    readOnly: host.ReadonlyRootfs,
    init: host.Init ?? false,
    // A difference, so that the `up` after this refresh starts it again under the same id.
    ...(!now.Running && { exitCode: now.ExitCode, mustRun: false }),
    networkDatas: Object.entries(found.NetworkSettings.Networks).map(([networkName, network]) => ({
      networkName,
      ipAddress: network.IPAddress,
      ipPrefixLength: network.IPPrefixLen,
      gateway: network.Gateway,
      globalIpv6Address: network.GlobalIPv6Address,
      globalIpv6PrefixLength: network.GlobalIPv6PrefixLen,
      ipv6Gateway: network.IPv6Gateway,
      macAddress: network.MacAddress,
    })),
  };
}

/** A capability as Docker's own client sends it. */
const fullName = (capability: string): string =>
  capability === "ALL" || capability.startsWith("CAP_") ? capability : `CAP_${capability}`;

const given = (value: unknown): boolean =>
  typeof value === "object" && value !== null && Object.keys(value).length > 0;

/** The ports that are open: none while it stands still. */
function portsOf(found: Docker.ContainerInspectInfo): Props[] {
  return Object.entries(found.NetworkSettings.Ports ?? {})
    .flatMap(([key, bindings]) => {
      const [internal, protocol] = key.split("/");
      return ((bindings as { HostIp: string; HostPort: string }[] | null) ?? []).map(
        ({ HostIp, HostPort }) => ({
          internal: Number(internal),
          external: Number(HostPort),
          ip: HostIp,
          protocol,
        }),
      );
    })
    .sort((a, b) => a.internal - b.internal);
}

/** The container type on one daemon. */
export function containerKind(daemon: Daemon): ResourceKind {
  const container = (id: string): Docker.Container => daemon.docker.getContainer(id);

  async function make(request: Docker.ContainerCreateOptions): Promise<Docker.Container> {
    try {
      return await daemon.docker.createContainer(request);
    } catch (error) {
      if (!answered(error, 404) || !/no such image/i.test(daemonMessage(error))) throw error;
      await daemon.pull(request.Image ?? "");
      return daemon.docker.createContainer(request);
    }
  }

  async function finish(made: Docker.Container, inputs: ContainerInputs): Promise<void> {
    const networks = inputs.networksAdvanced ?? [];
    if (networks.length > 0) await leaveBridge(made);
    for (const { name, aliases = [], ipv4Address } of networks) {
      await daemon.docker.getNetwork(name).connect({
        Container: made.id,
        EndpointConfig: {
          Aliases: [...aliases],
          IPAMConfig: ipv4Address === undefined ? {} : { IPv4Address: ipv4Address },
        },
      });
    }
    const uploads = inputs.uploads ?? [];
    if (uploads.length > 0) await made.putArchive(await archive(uploads), { path: "/" });
    try {
      await made.start();
    } catch (error) {
      throw new Error(`Unable to start container: ${daemonMessage(error)}`, { cause: error });
    }
  }

  async function leaveBridge(made: Docker.Container): Promise<void> {
    try {
      await daemon.docker.getNetwork("bridge").disconnect({ Container: made.id });
    } catch (error) {
      if (!/is not connected to the network bridge/.test(daemonMessage(error))) throw error;
    }
  }

  return {
    ...containerRules,

    async create(news) {
      const state = plain(news);
      const inputs = state as unknown as ContainerInputs;
      let made: Docker.Container;
      try {
        made = await make(createRequest(inputs));
      } catch (error) {
        throw new Error(`Unable to create container: ${daemonMessage(error)}`, { cause: error });
      }
      try {
        await finish(made, inputs);
        // Docker's spelling of capabilities comes with the first refresh only.
        const { capabilities } = state;
        const found = observed(state, await made.inspect());
        return { id: made.id, state: { ...found, ...(capabilities !== undefined && { capabilities }) } };
      } catch (error) {
        throw new HalfMade(daemonMessage(error), made.id, state);
      }
    },

    async read(id, state) {
      const found = await orGone(container(id).inspect());
      return found === undefined ? undefined : observed(state, found);
    },

    async update(id, state, news, context) {
      const wanted = plain(news);
      const inputs = wanted as unknown as ContainerInputs;
      const made = container(id);
      try {
        if (state.mustRun === false) {
          context.log(`${inputs.name} was stopped: starting it`);
          await made.start();
        }
        await made.update(resources(inputs));
      } catch (error) {
        throw new Error(`Unable to update a container: ${daemonMessage(error)}`, { cause: error });
      }
      // As it was given: only a refresh brings Docker's spelling back.
      return { ...state, ...wanted };
    },

    async delete(id, state, context: Context) {
      const { name, destroyGraceSeconds = 0, removeVolumes } = state as unknown as ContainerInputs;
      const made = container(id);
      try {
        // Without grace Docker kills at once.
        await made.stop({ t: destroyGraceSeconds });
      } catch (error) {
        // 304: it was stopped already. Anything else is for the removal below to settle.
        if (!answered(error, 304, 404)) context.log(`stop of ${name}: ${daemonMessage(error)}`, "warning");
      }
      await whileBusy(`container ${name}`, 30, () => made.remove({ force: true, v: removeVolumes }));
    },
  };
}
