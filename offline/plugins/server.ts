// The plugin protocol, once for both stand-ins: gRPC to the engine on one side, plain values on the other.
//
// `main()` of @pulumi/pulumi/provider is not used because it answers Configure itself (so a plugin never sees
// `host`), does not hand over old inputs, and can't answer in previews.

import * as grpc from "@grpc/grpc-js";
// Generated CommonJS whose named exports Node can't see from an ES module.
import engineServices, { type EngineClient } from "@pulumi/pulumi/proto/engine_grpc_pb.js";
import engineProto from "@pulumi/pulumi/proto/engine_pb.js";
import pluginProto from "@pulumi/pulumi/proto/plugin_pb.js";
import services from "@pulumi/pulumi/proto/provider_grpc_pb.js";
import proto from "@pulumi/pulumi/proto/provider_pb.js";
import statusProto from "@pulumi/pulumi/proto/status_pb.js";
import any from "google-protobuf/google/protobuf/any_pb.js";
import empty from "google-protobuf/google/protobuf/empty_pb.js";
import structs, { type Struct } from "google-protobuf/google/protobuf/struct_pb.js";

/** Values as the engine sends them: JSON, with unknowns as a marker string and secrets stripped. */
export type Props = Record<string, unknown>;

/** What stands for a value that a preview can't know yet. */
export const unknown = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";
const signatureKey = "4dabf18193072939515e22adb298388d";
const secretSignature = "1b47061264138c4ac30d75fd1eb44270";

export interface Failure {
  readonly property: string;
  readonly reason: string;
}

/** How a change of inputs is carried out. */
export interface Change {
  /** Top-level properties that changed; true where the change takes a replacement. */
  readonly properties: ReadonlyMap<string, boolean>;
  readonly deleteBeforeReplace: boolean;
}

/** What an operation may use besides its properties. */
export interface Context {
  readonly urn: string;
  /** The resource's own name, the last part of its URN. */
  readonly name: string;
  /** The user's customTimeouts, in seconds. */
  readonly timeout: number | undefined;
  log(message: string, severity?: "info" | "warning"): void;
}

/** One resource type. `state` is the last recorded outputs. */
export interface ResourceKind {
  /** Outputs that an operation computes anew from all inputs: secret if any input is, unknown while previewing. */
  readonly derived?: readonly string[];
  check(
    news: Props,
    olds: Props,
    context: Context,
  ): { readonly defaults?: Props; readonly failures: Failure[] };
  diff(state: Props, news: Props, oldInputs: Props): Change;
  create(news: Props, context: Context): Promise<{ readonly id: string; readonly state: Props }>;
  /** The state as it is now; undefined if the thing is gone. A host that can't be reached must throw. */
  read(id: string, state: Props, inputs: Props): Promise<Props | undefined>;
  update(id: string, state: Props, news: Props, context: Context): Promise<Props>;
  delete(id: string, state: Props, context: Context): Promise<void>;
}

export interface Plugin {
  readonly version: string;
  readonly kinds: Readonly<Record<string, ResourceKind>>;
  checkConfig(config: Props): Failure[];
  configure(config: Props): Promise<void>;
  cancel(): void;
}

/** The thing exists but is not as it should be: the engine records it, so that the next `up` deals with it. */
export class HalfMade extends Error {
  constructor(
    message: string,
    readonly id: string,
    readonly state: Props,
  ) {
    super(message);
  }
}

function isSecret(value: unknown): value is { value: unknown } {
  return typeof value === "object" && value !== null && (value as Props)[signatureKey] === secretSignature;
}

function holdsSecret(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  return isSecret(value) || Object.values(value).some(holdsSecret);
}

/** The value without its secret markers. */
export function reveal(value: unknown): unknown {
  if (isSecret(value)) return reveal(value.value);
  if (Array.isArray(value)) return value.map(reveal);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, reveal(item)]));
}

/** Marks a property secret as a whole if it was marked, wholly or within, in `like` (as the real plugins do). */
export function conceal(state: Props, like: Props, derived: readonly string[] = []): Props {
  const anySecret = holdsSecret(like);
  return Object.fromEntries(
    Object.entries(state).map(([key, value]) => {
      const secret = holdsSecret(like[key]) || (anySecret && derived.includes(key));
      return [key, secret ? { [signatureKey]: secretSignature, value: reveal(value) } : value];
    }),
  );
}

/** True if the value is, or holds, something that a preview can't know. */
export function holdsUnknown(value: unknown): boolean {
  if (value === unknown) return true;
  return typeof value === "object" && value !== null && Object.values(value).some(holdsUnknown);
}

/** Compares two values the way Terraform-based plugins do: absent, null and empty are the same. */
export function same(left: unknown, right: unknown): boolean {
  return JSON.stringify(normal(left)) === JSON.stringify(normal(right));
}

function normal(value: unknown): unknown {
  if (value === undefined || value === null) return null;
  if (Array.isArray(value)) return value.length === 0 ? null : value.map(normal);
  if (typeof value !== "object") return value;
  const entries = Object.entries(value)
    .map(([key, item]) => [key, normal(item)] as const)
    .filter(([, item]) => item !== null)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return entries.length === 0 ? null : Object.fromEntries(entries);
}

function plain(struct: Struct | undefined): Props {
  return reveal(raw(struct)) as Props;
}

function raw(struct: Struct | undefined): Props {
  return struct?.toJavaScript() ?? {};
}

function toStruct(props: Props): Struct {
  // JSON drops what is undefined, which a Struct can't hold.
  return structs.Struct.fromJavaScript(JSON.parse(JSON.stringify(props)) as never);
}

type Handler = (call: { request: never }, callback: (error: unknown, response?: unknown) => void) => void;

/** Turns a promise into gRPC's callbacks, and an exception into an error the engine can show. */
function handler<Q, R>(work: (request: Q) => R | Promise<R>): Handler {
  return (call, callback) => {
    Promise.resolve()
      .then(() => work(call.request))
      .then(
        (response) => callback(null, response),
        (error: unknown) => callback(grpcError(error)),
      );
  };
}

function grpcError(error: unknown): object {
  const message = error instanceof Error ? error.message : String(error);
  const metadata = new grpc.Metadata();
  if (error instanceof HalfMade) {
    const detail = new proto.ErrorResourceInitFailed();
    detail.setId(error.id);
    detail.setProperties(toStruct(error.state));
    detail.setReasonsList([message]);
    const packed = new any.Any();
    packed.pack(detail.serializeBinary(), "pulumirpc.ErrorResourceInitFailed");
    const status = new statusProto.Status();
    status.setCode(grpc.status.UNKNOWN);
    status.setMessage(message);
    status.addDetails(packed);
    // Go's gRPC reads the details from here; Node's has no other way to send them.
    metadata.add("grpc-status-details-bin", Buffer.from(status.serializeBinary()));
  }
  return { code: grpc.status.UNKNOWN, details: message, message, metadata };
}

/** Serves the plugin to the engine that started this process, and prints the port as the protocol wants. */
export async function serve(plugin: Plugin, argv: readonly string[]): Promise<void> {
  const engineAddress = argv.find((argument) => !argument.startsWith("-"));
  const options = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
  let engine: EngineClient | undefined;

  function logTo(urn: string, message: string, severity: "info" | "warning" = "info"): void {
    if (engineAddress === undefined) return;
    engine ??= new engineServices.EngineClient(engineAddress, grpc.credentials.createInsecure(), options);
    const request = new engineProto.LogRequest();
    request.setUrn(urn);
    request.setMessage(message);
    request.setSeverity(engineProto.LogSeverity[severity === "info" ? "INFO" : "WARNING"]);
    engine.log(request, () => undefined);
  }

  function contextOf(urn: string, timeout = 0): Context {
    return {
      urn,
      name: urn.split("::").at(-1) ?? urn,
      timeout: timeout > 0 ? timeout : undefined,
      log: (message, severity) => logTo(urn, message, severity),
    };
  }

  function kindOf(urn: string): ResourceKind {
    const type = urn.split("::")[2]?.split("$").at(-1) ?? "";
    const kind = plugin.kinds[type];
    if (kind !== undefined) return kind;
    throw new Error(
      `the offline stand-in has no resource type ${type}; it has ${Object.keys(plugin.kinds).join(", ")}. ` +
        "Use the real plugin (see offline/README.md).",
    );
  }

  function checked(inputs: Props, failures: readonly Failure[]): InstanceType<typeof proto.CheckResponse> {
    const response = new proto.CheckResponse();
    response.setInputs(toStruct(inputs));
    response.setFailuresList(
      failures.map(({ property, reason }) => {
        const failure = new proto.CheckFailure();
        failure.setProperty(property);
        failure.setReason(reason);
        return failure;
      }),
    );
    return response;
  }

  const implementation: Record<string, Handler> = {
    getPluginInfo: handler(() => {
      const response = new pluginProto.PluginInfo();
      response.setVersion(plugin.version);
      return response;
    }),
    getSchema: handler(() => {
      const response = new proto.GetSchemaResponse();
      response.setSchema("{}");
      return response;
    }),
    attach: handler(() => new empty.Empty()),
    cancel: handler(() => {
      plugin.cancel();
      return new empty.Empty();
    }),

    checkConfig: handler((request: InstanceType<typeof proto.CheckRequest>) =>
      checked(raw(request.getNews()), plugin.checkConfig(plain(request.getNews()))),
    ),
    diffConfig: handler((request: InstanceType<typeof proto.DiffRequest>) => {
      const response = new proto.DiffResponse();
      const changed = !same(plain(request.getOlds()), plain(request.getNews()));
      response.setChanges(proto.DiffResponse.DiffChanges[changed ? "DIFF_SOME" : "DIFF_NONE"]);
      return response;
    }),
    configure: handler(async (request: InstanceType<typeof proto.ConfigureRequest>) => {
      await plugin.configure(plain(request.getArgs()));
      const response = new proto.ConfigureResponse();
      response.setAcceptsecrets(true);
      response.setAcceptresources(true);
      response.setSupportspreview(true);
      return response;
    }),

    check: handler((request: InstanceType<typeof proto.CheckRequest>) => {
      const urn = request.getUrn();
      const news = raw(request.getNews());
      const result = kindOf(urn).check(reveal(news) as Props, plain(request.getOlds()), contextOf(urn));
      return checked(conceal({ ...news, ...result.defaults }, news), result.failures);
    }),
    diff: handler((request: InstanceType<typeof proto.DiffRequest>) => {
      const state = plain(request.getOlds());
      const { properties, deleteBeforeReplace } = kindOf(request.getUrn()).diff(
        state,
        plain(request.getNews()),
        plain(request.getOldInputs()),
      );
      const response = new proto.DiffResponse();
      response.setChanges(proto.DiffResponse.DiffChanges[properties.size > 0 ? "DIFF_SOME" : "DIFF_NONE"]);
      response.setDiffsList([...properties.keys()]);
      const replaces = [...properties].filter(([, replace]) => replace).map(([property]) => property);
      response.setReplacesList(replaces);
      response.setDeletebeforereplace(deleteBeforeReplace);
      response.setHasdetaileddiff(true);
      const kinds = proto.PropertyDiff.Kind;
      for (const [property, replace] of properties) {
        const detail = new proto.PropertyDiff();
        detail.setKind(replace ? kinds.UPDATE_REPLACE : kinds.UPDATE);
        response.getDetaileddiffMap().set(property, detail);
      }
      return response;
    }),
    create: handler(async (request: InstanceType<typeof proto.CreateRequest>) => {
      const urn = request.getUrn();
      const news = raw(request.getProperties());
      const kind = kindOf(urn);
      const response = new proto.CreateResponse();
      if (request.getPreview()) {
        response.setProperties(toStruct(news));
        return response;
      }
      const { id, state } = await marked(news, kind, () =>
        kind.create(reveal(news) as Props, contextOf(urn, request.getTimeout())),
      );
      response.setId(id);
      response.setProperties(toStruct(conceal(state, news, kind.derived)));
      return response;
    }),
    read: handler(async (request: InstanceType<typeof proto.ReadRequest>) => {
      const response = new proto.ReadResponse();
      const old = raw(request.getProperties());
      const inputs = raw(request.getInputs());
      if (Object.keys(old).length === 0) {
        throw new Error(
          "the offline stand-in can't import what it did not make; use the real plugin for that",
        );
      }
      const state = await kindOf(request.getUrn()).read(
        request.getId(),
        reveal(old) as Props,
        reveal(inputs) as Props,
      );
      if (state !== undefined) {
        response.setId(request.getId());
        response.setProperties(toStruct(conceal(state, old)));
        response.setInputs(toStruct(inputs));
      }
      return response;
    }),
    update: handler(async (request: InstanceType<typeof proto.UpdateRequest>) => {
      const urn = request.getUrn();
      const kind = kindOf(urn);
      const news = raw(request.getNews());
      const old = raw(request.getOlds());
      const response = new proto.UpdateResponse();
      if (request.getPreview()) {
        const inputs = raw(request.getOldInputs());
        const kept = Object.entries(old).filter(([key]) => !(key in inputs) && !kind.derived?.includes(key));
        response.setProperties(toStruct({ ...Object.fromEntries(kept), ...news }));
        return response;
      }
      const state = await marked(news, kind, () =>
        kind.update(
          request.getId(),
          reveal(old) as Props,
          reveal(news) as Props,
          contextOf(urn, request.getTimeout()),
        ),
      );
      response.setProperties(toStruct(conceal(state, news, kind.derived)));
      return response;
    }),
    delete: handler(async (request: InstanceType<typeof proto.DeleteRequest>) => {
      const urn = request.getUrn();
      await kindOf(urn).delete(
        request.getId(),
        plain(request.getProperties()),
        contextOf(urn, request.getTimeout()),
      );
      return new empty.Empty();
    }),
  };

  const server = new grpc.Server(options);
  server.addService(services.ResourceProviderService, implementation as never);
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    );
  });
  process.stdout.write(`${port}\n`);

  // An engine that was killed can't end its plugins: each notices by itself that it has another parent.
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid === parent) return;
    plugin.cancel();
    process.exit(1);
  }, 2000).unref();
}

/** A half-made thing is recorded too, and its secrets must not become plain text on the way. */
async function marked<T>(news: Props, kind: ResourceKind, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof HalfMade)) throw error;
    throw new HalfMade(error.message, error.id, conceal(error.state, news, kind.derived));
  }
}
