// The recording stand-in of the AWS plugin: an account in which ids must exist to be named, addresses are free or
// taken, and what is in use can't be deleted.

import { randomBytes } from "node:crypto";
import type { Failure, Props, ResourceKind } from "../plugins/server.ts";
import { same } from "../plugins/server.ts";
import { account, type Place, primaryInterface, type Rule, rules, text } from "./aws-types.ts";
import { type Thing, type World } from "./world.ts";

const eniType = "aws:ec2/networkInterface:NetworkInterface";
const subnetType = "aws:ec2/subnet:Subnet";
const attachmentType = "aws:ec2/volumeAttachment:VolumeAttachment";
/** Ids that others name. */
const reference = /^(vpc|subnet|sg|eni|vol|i|igw|nat|rtb|eipalloc|vpce|eice|dopt)-[0-9a-f]{8,}$/;
/** Inputs that are the bridge's own notes. */
const notes = new Set(["__defaults"]);

interface DefaultTags {
  readonly tags?: Record<string, string>;
}

/** Provider config: the region, and the tags that everything gets. */
export class Account implements Place {
  region = "";
  tags: Record<string, string> = {};

  configure(config: Props): Promise<void> {
    this.region = text(config["region"]);
    const given = config["defaultTags"];
    const decoded = (typeof given === "string" ? JSON.parse(given) : given) as DefaultTags | undefined;
    this.tags = decoded?.tags ?? {};
    return Promise.resolve();
  }
}

export function checkConfig(config: Props): Failure[] {
  return typeof config["region"] === "string" && config["region"] !== ""
    ? []
    : [{ property: "region", reason: "the AWS provider needs a region" }];
}

/** A range as its first address and the first after it. */
function range(cidr: string): readonly [number, number] {
  const [address = "", bits = "32"] = cidr.split("/");
  const first = address.split(".").reduce((sum, octet) => sum * 256 + Number(octet), 0);
  return [first, first + 2 ** (32 - Number(bits))];
}

/** What EC2 says no to, of what a plan could get wrong. */
function refusal(world: World, type: string, inputs: Props): string | undefined {
  const things = world.things();
  const known = new Set(
    things.flatMap((thing) => [thing.id, ...(rules[thing.type]?.along?.(thing.state) ?? [])]),
  );
  for (const id of idsIn(inputs)) {
    if (!known.has(id)) return `InvalidID.NotFound: ${id} does not exist`;
  }
  const ofType = (other: string): Thing[] => things.filter((thing) => thing.type === other);
  switch (type) {
    case subnetType: {
      const [first, end] = range(String(inputs["cidrBlock"]));
      const vpc = world.withId(String(inputs["vpcId"]));
      const [low, high] = range(String(vpc?.inputs["cidrBlock"]));
      if (first < low || end > high)
        return `InvalidSubnet.Range: ${String(inputs["cidrBlock"])} is not in the VPC`;
      const other = ofType(subnetType).find((thing) => {
        const [from, to] = range(String(thing.inputs["cidrBlock"]));
        return first < to && from < end;
      });
      return other && `InvalidSubnet.Conflict: ${String(inputs["cidrBlock"])} overlaps ${other.name}`;
    }
    case eniType: {
      const subnet = world.withId(String(inputs["subnetId"]));
      const [first, end] = range(String(subnet?.inputs["cidrBlock"]));
      for (const address of (inputs["privateIps"] as string[] | undefined) ?? []) {
        const [number] = range(address);
        if (number < first + 4 || number >= end - 1)
          return `InvalidParameterValue: ${address} is outside ${String(subnet?.inputs["cidrBlock"])}, or reserved`;
        const taken = ofType(eniType).find((thing) =>
          (thing.state["privateIps"] as string[] | undefined)?.includes(address),
        );
        if (taken !== undefined) return `InvalidIPAddress.InUse: ${address} is ${taken.name}'s`;
      }
      return undefined;
    }
    case "aws:ec2/instance:Instance": {
      const eni = primaryInterface(inputs);
      const user = ofType(type).find((thing) => eni !== undefined && primaryInterface(thing.inputs) === eni);
      return user && `InvalidNetworkInterface.InUse: ${String(eni)} is in use by ${user.name}`;
    }
    case attachmentType: {
      const { volumeId, instanceId } = inputs;
      const other = ofType(type).find((thing) => thing.inputs["volumeId"] === volumeId);
      if (other !== undefined) return `VolumeInUse: ${String(volumeId)} is attached by ${other.name}`;
      const zone = world.withId(String(volumeId))?.inputs["availabilityZone"];
      const instance = world.withId(String(instanceId));
      const home =
        world.withId(primaryInterface(instance?.inputs ?? {}) ?? "")?.inputs["subnetId"] ??
        instance?.inputs["subnetId"];
      const there = world.withId(String(home))?.inputs["availabilityZone"];
      return zone === there
        ? undefined
        : `InvalidVolume.ZoneMismatch: the volume is in ${String(zone)}, the instance in ${String(there)}`;
    }
    case "aws:ec2/natGateway:NatGateway":
      return ofType("aws:ec2/internetGateway:InternetGateway").length > 0
        ? undefined
        : "Gateway.NotAttached: the network has no Internet gateway attached";
    default:
      return undefined;
  }
}

/** Every id of AWS's in the values, however deep. */
function idsIn(value: unknown): string[] {
  if (typeof value === "string") return reference.test(value) ? [value] : [];
  if (typeof value !== "object" || value === null) return [];
  return Object.values(value).flatMap(idsIn);
}

/** True if the value is, or holds, exactly this text. */
function names(value: unknown, id: string): boolean {
  if (typeof value !== "object" || value === null) return value === id;
  return Object.values(value).some((item) => names(item, id));
}

function dependency(world: World, rule: Rule, type: string, id: string): string | undefined {
  const holder = world.things().find((thing) => {
    if (rule.heldBy?.includes(thing.type) !== true) return false;
    // A gateway is held by public addresses, a group by other groups' rules; its own rules go with it.
    if (type === "aws:ec2/internetGateway:InternetGateway") return true;
    return names({ ...thing.inputs, securityGroupId: undefined }, id);
  });
  return holder && `DependencyViolation: ${id} has a dependent object and can't be deleted: ${holder.name}`;
}

/** Every type of the table as a resource kind of the plugin. */
export function awsKinds(world: World, place: Account): Record<string, ResourceKind> {
  const kinds = Object.fromEntries(
    Object.entries(rules).map(([type, rule]) => [type, kind(world, place, type, rule)]),
  );
  return new Proxy(kinds, {
    get(known, type: string) {
      if (Object.hasOwn(known, type)) return known[type];
      throw new Error(`the recorder does not know ${type}: add it to offline/recorder/aws-types.ts`);
    },
  });
}

function kind(world: World, place: Account, type: string, rule: Rule): ResourceKind {
  const short = (urn: string): string => urn.split("::").at(-1) ?? "";

  function note(
    op: "create" | "read" | "update" | "delete",
    urn: string,
    id: string,
    inputs: Props,
    state?: Props,
    refused?: string,
  ): void {
    world.note({
      plugin: "aws",
      op,
      type,
      name: short(urn),
      urn,
      id,
      inputs,
      ...(state === undefined ? {} : { state }),
      ...(refused === undefined ? {} : { refused }),
    });
    if (refused !== undefined)
      throw new Error(`${op} of ${short(urn)} (${type.split(":").at(-1)}): ${refused}`);
  }

  function recorded(id: string, inputs: Props, olds: Props = {}): Props {
    const tags = rule.untagged
      ? {}
      : { tagsAll: { ...place.tags, ...(inputs["tags"] as Props | undefined) } };
    const computed = Object.keys(olds).length > 0 ? {} : (rule.outputs?.(id, inputs, place) ?? {});
    return { region: place.region, ...olds, ...computed, ...inputs, ...tags };
  }

  return {
    check(news, olds, context) {
      if (rule.named === undefined || news[rule.named] !== undefined || news["namePrefix"] !== undefined) {
        return { failures: [] };
      }
      const old = (olds["__defaults"] as string[] | undefined)?.includes(rule.named)
        ? olds[rule.named]
        : undefined;
      // Buckets and balancers take lower case only; both names are short enough for every type.
      const name =
        old ?? `${context.name.toLowerCase().slice(0, 24)}-${randomBytes(4).toString("hex").slice(0, 7)}`;
      return { failures: [], defaults: { [rule.named]: name, __defaults: [rule.named] } };
    },

    diff(state, news, oldInputs) {
      const properties = new Map<string, boolean>();
      for (const key of new Set([...Object.keys(oldInputs), ...Object.keys(news)])) {
        if (notes.has(key) || same(oldInputs[key], news[key])) continue;
        properties.set(key, rule.replaces.includes(key));
      }
      // Tags that everything gets are the provider's: a change of them is a change of each resource.
      const tagsAll = { ...place.tags, ...(news["tags"] as Props | undefined) };
      if (!rule.untagged && !same(state["tagsAll"], tagsAll)) properties.set("tagsAll", false);
      const fixedName =
        rule.named !== undefined &&
        news[rule.named] !== undefined &&
        !(news["__defaults"] as string[] | undefined)?.includes(rule.named) &&
        same(oldInputs[rule.named], news[rule.named]);
      return { properties, deleteBeforeReplace: fixedName };
    },

    create(news, { urn }) {
      return Promise.resolve().then(() => {
        const id = rule.id(news, place);
        const refused = refusal(world, type, news);
        const state = recorded(id, news);
        note("create", urn, id, news, state, refused);
        return { id, state };
      });
    },

    read(id, state) {
      const found = world.find(type, id);
      note("read", "", id, {});
      return Promise.resolve(found === undefined ? undefined : state);
    },

    update(id, state, news, { urn }) {
      return Promise.resolve().then(() => {
        const now = recorded(id, news, state);
        note("update", urn, id, news, now);
        return now;
      });
    },

    delete(id, state, { urn }) {
      return Promise.resolve().then(() => {
        // The instance is stopped, or gone, before the volume is taken from it.
        const running = type !== attachmentType || world.withId(String(state["instanceId"])) !== undefined;
        const refused = (running ? rule.kept?.(state) : undefined) ?? dependency(world, rule, type, id);
        note("delete", urn, id, {}, undefined, refused);
      });
    },
  };
}

/** What the program may ask without making anything. */
export function invoke(place: Account, token: string, args: Props): Props {
  const region = text(args["region"] ?? place.region);
  switch (token) {
    case "aws:index/getAvailabilityZones:getAvailabilityZones": {
      const letters = ["a", "b", "c"];
      return {
        id: region,
        region,
        names: letters.map((letter) => region + letter),
        zoneIds: letters.map((_letter, index) => `${region.replaceAll("-", "").slice(0, 4)}-az${index + 1}`),
        groupNames: [region],
      };
    }
    case "aws:ssm/getParameter:getParameter": {
      const name = String(args["name"]);
      const value = /\/aws\/service\/.*\/(amd64|arm64|x86_64)/.test(name)
        ? `ami-0${Buffer.from(name).toString("hex").slice(-16)}`
        : `value of ${name}`;
      return {
        ...args,
        id: name,
        arn: `arn:aws:ssm:${region}::parameter${name}`,
        type: "String",
        value,
        version: 1,
      };
    }
    case "aws:index/getCallerIdentity:getCallerIdentity":
      return {
        id: account,
        accountId: account,
        arn: `arn:aws:iam::${account}:user/operator`,
        userId: "AIDAEXAMPLE",
      };
    case "aws:index/getPartition:getPartition":
      return { id: "aws", partition: "aws", dnsSuffix: "amazonaws.com", reverseDnsPrefix: "com.amazonaws" };
    case "aws:index/getRegion:getRegion":
      return {
        id: region,
        name: region,
        region,
        description: region,
        endpoint: `ec2.${region}.amazonaws.com`,
      };
    case "aws:iam/getPolicyDocument:getPolicyDocument": {
      const json = policyDocument(args);
      return { ...args, id: "0", json, minifiedJson: json };
    }
    case "aws:ec2/getManagedPrefixList:getManagedPrefixList":
    case "aws:ec2/getPrefixList:getPrefixList":
      return { ...args, id: "pl-00000000", name: args["name"], cidrBlocks: [], entries: [] };
    case "aws:ec2/getInstanceType:getInstanceType":
      return { ...args, id: args["instanceType"] };
    default:
      throw new Error(`the recorder does not know what ${token} answers: add it to offline/recorder/aws.ts`);
  }
}

interface Statement {
  readonly sid?: string;
  readonly effect?: string;
  readonly actions?: string[];
  readonly notActions?: string[];
  readonly resources?: string[];
  readonly notResources?: string[];
  readonly principals?: { type: string; identifiers: string[] }[];
  readonly conditions?: { test: string; variable: string; values: string[] }[];
}

function policyDocument(args: Props): string {
  const who = (list: Statement["principals"]): unknown =>
    list?.some(({ type }) => type === "*")
      ? "*"
      : list && Object.fromEntries(list.map(({ type, identifiers }) => [type, identifiers]));
  return JSON.stringify({
    Version: args["version"] ?? "2012-10-17",
    Statement: ((args["statements"] ?? []) as Statement[]).map((statement) => ({
      Sid: statement.sid,
      Effect: statement.effect ?? "Allow",
      Action: statement.actions,
      NotAction: statement.notActions,
      Resource: statement.resources,
      NotResource: statement.notResources,
      Principal: who(statement.principals),
      Condition:
        statement.conditions &&
        statement.conditions.reduce<Record<string, Record<string, string[]>>>(
          (all, { test, variable, values }) => ({ ...all, [test]: { ...all[test], [variable]: values } }),
          {},
        ),
    })),
  });
}
