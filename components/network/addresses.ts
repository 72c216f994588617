// The VPC's address plan: which subnet gets which block, and which machine which address. Pure.

import { firstHost, type Role, zones } from "../topology.ts";

/** A VPC's range is cut into four tiers of four blocks; what is not used yet is room to grow. */
const tiers = 4;
const zonesPerTier = 4;
/** Place of each tier in the range. It may never change: a moved subnet is a replaced one. The others are free. */
const tierOf = { private: 0, public: 1 } as const;
const blockBits = Math.log2(tiers * zonesPerTier);

/** Range of a VPC: AWS takes none larger than the first, and this plan fits into none smaller than the last. */
const widest = 16;
const narrowest = 22;

/** Offsets in a private subnet that only machines get: each role's first address, and nine more to grow. */
const fixedOffsets = { from: 8, to: 48 } as const;

export const privateRanges = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"] as const;

/** The bridge that every Docker daemon makes when it starts. */
const dockerBridge = "172.17.0.0/16";
/** Where a daemon with default settings takes its networks from, the bridge included. */
const dockerRanges = ["172.17.0.0/16", "172.18.0.0/15", "172.20.0.0/14", "172.24.0.0/13", "192.168.0.0/16"];
const linkLocal = "169.254.0.0/16";

export interface AddressPlan {
  /** One block a zone, in the order of the zones. */
  readonly public: readonly string[];
  readonly private: readonly string[];
  /** Blocks of a zone's private subnet from which AWS must not take addresses for things of its own. */
  readonly reserved: (zone: number) => readonly string[];
  /** Address of a zone's machine of this role. */
  readonly address: (role: Role, zone: number) => string;
}

/** The plan for a range that {@link addressProblems} found nothing wrong with. */
export function planAddresses(cidr: string): AddressPlan {
  const range = parse(cidr);
  const prefix = range.prefix + blockBits;
  const size = 2 ** (32 - prefix);
  const base = (tier: keyof typeof tierOf, zone: number): number => {
    if (!Number.isInteger(zone) || zone < 1 || zone > zonesPerTier) {
      throw new RangeError(`zone must be a whole number from 1 to ${zonesPerTier}, but is ${zone}`);
    }
    return range.first + (tierOf[tier] * zonesPerTier + zone - 1) * size;
  };
  const subnets = (tier: keyof typeof tierOf): string[] =>
    Array.from({ length: zones }, (_, index) => `${text(base(tier, index + 1))}/${prefix}`);
  return {
    public: subnets("public"),
    private: subnets("private"),
    reserved: (zone) => {
      const first = base("private", zone);
      return blocks(first + fixedOffsets.from, first + fixedOffsets.to);
    },
    address: (role, zone) => text(base("private", zone) + firstHost[role]),
  };
}

/** Everything wrong with a VPC's range and the overlay address, one sentence each; empty for good ones. */
export function addressProblems(cidr: string, vip: string): string[] {
  return [...rangeProblems(cidr), ...vipProblems(cidr, vip)];
}

function rangeProblems(cidr: string): string[] {
  const { prefix } = parse(cidr);
  const network = networkOf(cidr);
  const problems: string[] = [];
  if (network !== cidr)
    problems.push(`${cidr} has host bits set: a range starts at its first address, ${network}`);
  if (prefix < widest) {
    problems.push(
      `${cidr} is larger than AWS allows for a VPC: /${widest} is the largest, such as ${text(parse(cidr).first)}/${widest}`,
    );
  }
  if (prefix > narrowest) {
    problems.push(
      `${cidr} is too small for three zones and room to grow: /${narrowest} is the smallest that fits, such as ${networkOf(`${text(parse(cidr).first)}/${narrowest}`)}`,
    );
  }
  if (isPublicRange(cidr)) {
    problems.push(`${cidr} is not a private range: it must lie in one of ${privateRanges.join(", ")}`);
  }
  const taken = dockerRanges.find((range) => overlaps(range, cidr));
  if (taken !== undefined) {
    problems.push(
      `${cidr} overlaps with ${taken}, which Docker takes for its own networks: choose a range outside 172.17.0.0 to 172.31.255.255 and 192.168.0.0/16, such as 10.42.0.0/16`,
    );
  }
  return problems;
}

function vipProblems(cidr: string, vip: string): string[] {
  const remedy = "choose a private address outside the VPC, such as 172.25.0.222";
  const own = `${vip}/32`;
  if (overlaps(own, cidr)) {
    return [
      `the virtual address ${vip} lies inside the VPC's range ${cidr}, where it would belong to one zone's subnet and no route could move it: ${remedy}`,
    ];
  }
  if (overlaps(own, linkLocal)) {
    return [
      `the virtual address ${vip} lies in the link-local range ${linkLocal}, where the metadata service, DNS and time are: ${remedy}`,
    ];
  }
  // The rest of Docker's ranges is allowed: nobody makes further Docker networks on the machines.
  if (overlaps(own, dockerBridge)) {
    return [
      `the virtual address ${vip} lies in ${dockerBridge}, Docker's own bridge on every machine: ${remedy}`,
    ];
  }
  if (isPublicRange(own)) {
    return [
      `the virtual address ${vip} is not private, so a route to it would hide a host of the internet: ${remedy}`,
    ];
  }
  return [];
}

/** Whether two ranges share an address. */
export function overlaps(a: string, b: string): boolean {
  const [left, right] = [parse(a), parse(b)];
  return left.first <= right.last && right.first <= left.last;
}

/** Whether a range lies in another one. */
export function within(inner: string, outer: string): boolean {
  const [small, large] = [parse(inner), parse(outer)];
  return small.first >= large.first && small.last <= large.last;
}

/** Whether a range has any address outside the private ranges (RFC 1918 and 100.64.0.0/10). */
export function isPublicRange(cidr: string): boolean {
  return !privateRanges.some((range) => within(cidr, range));
}

/** The range as AWS stores it: without host bits. */
export function networkOf(cidr: string): string {
  const { first, prefix } = parse(cidr);
  return `${text(first)}/${prefix}`;
}

interface Range {
  readonly first: number;
  readonly last: number;
  readonly prefix: number;
}

function parse(cidr: string): Range {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(cidr);
  const [a = 256, b = 256, c = 256, d = 256, prefix = 33] = (match ?? []).slice(1).map(Number);
  if ([a, b, c, d].some((octet) => octet > 255) || prefix > 32) {
    throw new RangeError(`"${cidr}" is not an IPv4 range such as 10.42.0.0/16`);
  }
  const size = 2 ** (32 - prefix);
  const address = ((a * 256 + b) * 256 + c) * 256 + d;
  const first = address - (address % size);
  return { first, last: first + size - 1, prefix };
}

function text(address: number): string {
  return [24, 16, 8, 0].map((bits) => Math.floor(address / 2 ** bits) % 256).join(".");
}

/** The fewest aligned blocks that cover `from` up to, not including, `to`. */
function blocks(from: number, to: number): string[] {
  const found: string[] = [];
  for (let at = from; at < to;) {
    let bits = 0;
    while (at % 2 ** (bits + 1) === 0 && at + 2 ** (bits + 1) <= to) bits++;
    found.push(`${text(at)}/${32 - bits}`);
    at += 2 ** bits;
  }
  return found;
}
