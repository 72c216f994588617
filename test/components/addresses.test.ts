// Properties of the address plan over any range that is accepted, and a sentence for each one that is not.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  addressProblems,
  isPublicRange,
  networkOf,
  overlaps,
  planAddresses,
  within,
} from "../../components/network/addresses.ts";
import { firstHost, type Role } from "../../components/topology.ts";

const roles: readonly Role[] = ["lb", "stream", "store"];
const vip = "172.25.0.222";

/** An independent reading of addresses: bits as text. */
const bits = (address: string): string =>
  address
    .split(".")
    .map((octet) => Number(octet).toString(2).padStart(8, "0"))
    .join("");
const prefixBits = (cidr: string): string => {
  const [address = "", length] = cidr.split("/");
  return bits(address).slice(0, Number(length));
};
const contains = (range: string, address: string) => bits(address).startsWith(prefixBits(range));
const number = (address: string) => parseInt(bits(address), 2);
const fromBits = (all: string): string =>
  [0, 8, 16, 24].map((at) => parseInt(all.slice(at, at + 8), 2)).join(".");

const anyAddress = fc
  .tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255))
  .map((octets) => octets.join("."));
const anyCidr = fc.tuple(anyAddress, fc.integer({ min: 0, max: 32 })).map(([a, length]) => `${a}/${length}`);
/** Any range of an acceptable size, at its first address, in a range that is neither public nor Docker's. */
const goodCidr = fc
  .tuple(
    fc.constantFrom("10.0.0.0/8", "172.16.0.0/16", "100.64.0.0/10"),
    anyAddress,
    fc.integer({ min: 16, max: 22 }),
  )
  .map(([range, address, length]) => {
    const inside = prefixBits(range) + bits(address).slice(prefixBits(range).length);
    return `${fromBits(inside.slice(0, length).padEnd(32, "0"))}/${length}`;
  });

describe("planAddresses", () => {
  it("is this for the default range, and stays so: a moved block is a replaced subnet", () => {
    const plan = planAddresses("10.42.0.0/16");
    expect(plan.private).toEqual(["10.42.0.0/20", "10.42.16.0/20", "10.42.32.0/20"]);
    expect(plan.public).toEqual(["10.42.64.0/20", "10.42.80.0/20", "10.42.96.0/20"]);
    expect(plan.reserved(2)).toEqual(["10.42.16.8/29", "10.42.16.16/28", "10.42.16.32/28"]);
    expect([1, 2, 3].map((zone) => roles.map((role) => plan.address(role, zone)))).toEqual([
      ["10.42.0.11", "10.42.0.21", "10.42.0.31"],
      ["10.42.16.11", "10.42.16.21", "10.42.16.31"],
      ["10.42.32.11", "10.42.32.21", "10.42.32.31"],
    ]);
  });

  it("takes every range of /16 to /22 that addressProblems accepts", () => {
    fc.assert(
      fc.property(goodCidr, (cidr) => {
        expect(addressProblems(cidr, vip)).toEqual([]);
      }),
    );
  });

  it("never lets two subnets overlap, and keeps all inside the VPC", () => {
    fc.assert(
      fc.property(goodCidr, (cidr) => {
        const plan = planAddresses(cidr);
        const subnets = [...plan.public, ...plan.private];
        expect(subnets).toHaveLength(6);
        for (const [index, subnet] of subnets.entries()) {
          expect(prefixBits(subnet).startsWith(prefixBits(cidr))).toBe(true);
          expect(networkOf(subnet)).toBe(subnet);
          // What AWS allows for a subnet.
          expect(Number(subnet.split("/")[1])).toBeLessThanOrEqual(28);
          for (const other of subnets.slice(index + 1)) {
            expect(contains(subnet, other.split("/")[0] ?? "")).toBe(false);
            expect(contains(other, subnet.split("/")[0] ?? "")).toBe(false);
          }
        }
      }),
    );
  });

  it("leaves a block in each tier for a fourth zone, and half of the range for tiers to come", () => {
    fc.assert(
      fc.property(goodCidr, (cidr) => {
        const plan = planAddresses(cidr);
        const block = 2 ** (32 - Number(plan.private[0]?.split("/")[1]));
        const first = number(cidr.split("/")[0] ?? "");
        const used = [...plan.public, ...plan.private].map(
          (subnet) => (number(subnet.split("/")[0] ?? "") - first) / block,
        );
        expect(used).toEqual([4, 5, 6, 0, 1, 2]);
        expect(block * 16).toBe(2 ** (32 - Number(cidr.split("/")[1])));
      }),
    );
  });

  it("puts each machine into its zone's private subnet, at an address that AWS keeps for nothing else", () => {
    fc.assert(
      fc.property(goodCidr, (cidr) => {
        const plan = planAddresses(cidr);
        const all: string[] = [];
        for (const [index, subnet] of plan.private.entries()) {
          const first = number(subnet.split("/")[0] ?? "");
          const last = first + 2 ** (32 - Number(subnet.split("/")[1])) - 1;
          const reserved = plan.reserved(index + 1);
          for (const role of roles) {
            const address = plan.address(role, index + 1);
            all.push(address);
            expect(contains(subnet, address)).toBe(true);
            expect(number(address)).toBe(first + firstHost[role]);
            expect(reserved.filter((block) => contains(block, address))).toHaveLength(1);
          }
          for (const block of reserved) {
            expect(networkOf(block)).toBe(block);
            const start = number(block.split("/")[0] ?? "");
            const end = start + 2 ** (32 - Number(block.split("/")[1])) - 1;
            // The first four addresses and the last are AWS's, and a few must be left for its own interfaces.
            expect(start).toBeGreaterThan(first + 3);
            expect(end).toBeLessThan(last - 8);
          }
        }
        expect(new Set(all).size).toBe(9);
      }),
    );
  });

  it("gives every role room for ten machines a zone in what it reserves", () => {
    const plan = planAddresses("10.42.0.0/22");
    for (const role of roles) {
      for (let more = 0; more < 10; more++) {
        const address = `10.42.0.${firstHost[role] + more}`;
        expect(
          plan.reserved(1).some((block) => contains(block, address)),
          address,
        ).toBe(true);
      }
    }
  });

  it("knows no zone beyond the blocks it keeps", () => {
    expect(planAddresses("10.42.0.0/16").address("lb", 4)).toBe("10.42.48.11");
    for (const zone of [0, 5, 1.5]) {
      expect(() => planAddresses("10.42.0.0/16").address("lb", zone)).toThrow(`but is ${zone}`);
    }
  });
});

describe("addressProblems", () => {
  it.each<[string, string, string, RegExp[]]>([
    [
      "a range that is too small",
      "10.42.0.0/23",
      vip,
      [/10\.42\.0\.0\/23 is too small/, /\/22 is the smallest/],
    ],
    [
      "a range that AWS does not take",
      "10.0.0.0/8",
      vip,
      [/10\.0\.0\.0\/8 is larger/, /such as 10\.0\.0\.0\/16/],
    ],
    ["host bits", "10.42.1.7/16", vip, [/10\.42\.1\.7\/16 has host bits/, /10\.42\.0\.0\/16/]],
    ["a public range", "8.8.0.0/16", vip, [/8\.8\.0\.0\/16 is not a private range/, /100\.64\.0\.0\/10/]],
    ["Docker's bridge", "172.17.0.0/16", vip, [/Docker/, /outside 172\.17\.0\.0 to 172\.31\.255\.255/]],
    ["part of Docker's bridge", "172.17.64.0/20", vip, [/overlaps with 172\.17\.0\.0\/16/]],
    ["Docker's last network of 172", "172.31.0.0/16", vip, [/overlaps with 172\.24\.0\.0\/13/]],
    ["Docker's small networks", "192.168.16.0/20", vip, [/overlaps with 192\.168\.0\.0\/16/]],
    ["a VIP inside the VPC", "10.42.0.0/16", "10.42.3.4", [/10\.42\.3\.4 lies inside .*10\.42\.0\.0\/16/]],
    ["a VIP that is AWS's metadata", "10.42.0.0/16", "169.254.169.254", [/link-local range/]],
    ["a VIP in Docker's bridge", "10.42.0.0/16", "172.17.0.9", [/172\.17\.0\.9 lies in .*Docker/]],
    ["a public VIP", "10.42.0.0/16", "203.0.113.9", [/203\.0\.113\.9 is not private/]],
    ["a loopback VIP", "10.42.0.0/16", "127.0.0.1", [/127\.0\.0\.1 is not private/]],
    ["a multicast VIP", "10.42.0.0/16", "224.0.0.18", [/224\.0\.0\.18 is not private/]],
  ])("refuses %s", (_what, cidr, address, patterns) => {
    const problems = addressProblems(cidr, address);
    expect(problems).toHaveLength(1);
    for (const pattern of patterns) expect(problems[0]).toMatch(pattern);
  });

  it("names every problem at once", () => {
    const problems = addressProblems("172.25.0.7/24", vip);
    expect(problems).toHaveLength(4);
    expect(problems.join("\n")).toMatch(/host bits[^]*too small[^]*Docker[^]*172\.25\.0\.222 lies inside/);
  });

  it("offers a remedy that cures what it names", () => {
    let offers = 0;
    fc.assert(
      fc.property(anyAddress, fc.integer({ min: 8, max: 30 }), (address, length) => {
        for (const problem of addressProblems(`${address}/${length}`, vip)) {
          const offered = /(?:first address, |the (?:largest|smallest).*such as )([\d./]+)$/.exec(
            problem,
          )?.[1];
          const kind = /host bits|larger than|too small/.exec(problem)?.[0];
          if (offered === undefined || kind === undefined) continue;
          offers++;
          expect(addressProblems(offered, vip).join("\n")).not.toContain(kind);
        }
      }),
    );
    expect(offers).toBeGreaterThan(100);
  });

  it("says that it is no range, for what is none", () => {
    for (const text of [
      "10.42.0.0",
      "10.42.0/16",
      "10.42.0.256/16",
      "10.42.0.0/33",
      "10.42.0.0/-1",
      "x/16",
    ]) {
      expect(() => addressProblems(text, vip), text).toThrow(`"${text}" is not an IPv4 range`);
    }
  });
});

describe("ranges", () => {
  it("overlap exactly if one's prefix begins the other's", () => {
    fc.assert(
      fc.property(anyCidr, anyCidr, (a, b) => {
        const [left, right] = [prefixBits(a), prefixBits(b)];
        expect(overlaps(a, b)).toBe(left.startsWith(right) || right.startsWith(left));
        expect(within(a, b)).toBe(left.startsWith(right));
      }),
      // Long prefixes of random addresses never meet: try related ones as well.
      {
        examples: [
          ["10.42.0.0/16", "10.42.7.0/24"],
          ["0.0.0.0/0", "255.255.255.255/32"],
        ],
      },
    );
    fc.assert(
      fc.property(anyAddress, fc.nat(32), fc.nat(32), fc.nat(31), (address, one, two, flip) => {
        const all = bits(address);
        const other = fromBits(all.slice(0, flip) + (all[flip] === "0" ? "1" : "0") + all.slice(flip + 1));
        const [a, b] = [`${address}/${one}`, `${other}/${two}`];
        expect(overlaps(a, b)).toBe(flip >= Math.min(one, two));
      }),
    );
  });

  it("lose their host bits", () => {
    fc.assert(
      fc.property(anyCidr, (cidr) => {
        expect(networkOf(cidr)).toBe(`${fromBits(prefixBits(cidr).padEnd(32, "0"))}/${cidr.split("/")[1]}`);
      }),
    );
  });

  it.each<[string, boolean]>([
    ["10.0.0.0/8", false],
    ["10.0.0.0/7", true],
    ["172.16.0.0/12", false],
    ["172.31.255.255/32", false],
    ["172.32.0.0/16", true],
    ["172.0.0.0/8", true],
    ["192.168.1.0/24", false],
    ["192.168.0.0/15", true],
    ["100.64.0.0/10", false],
    ["100.128.0.0/10", true],
    ["198.51.100.7/32", true],
    ["0.0.0.0/0", true],
    ["128.0.0.0/1", true],
  ])("%s is public: %s", (cidr, expected) => expect(isPublicRange(cidr)).toBe(expected));
});
