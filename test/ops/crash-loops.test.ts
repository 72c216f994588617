// Replicas that end again and again, told from those that were started anew once.

import { expect, it } from "vitest";
import { loops, rebuildCommand } from "../../ops/crash-loops.ts";
import { plan } from "../../components/topology.ts";

const now = Date.parse("2026-11-30T12:00:00Z");

it.each([
  ["0 running 2026-11-30T11:59:59.5Z", false],
  ["2 restarting 2026-11-30T11:59:58Z", false],
  ["3 restarting 2026-11-30T11:59:58Z", true],
  ["7 running 2026-11-30T11:59:30.123456789Z", true],
  // It had its troubles, and runs.
  ["7 running 2026-11-30T11:50:00Z", false],
  ["", false],
])("%s", (said, expected) => expect(loops(said, now)).toBe(expected));

it("has a command that names it", () => {
  const [, replica] = plan({ prefix: "x-" }).kafka;
  expect(rebuildCommand("local", replica!)).toBe("npm run rebuild -- kafka-2");
  expect(rebuildCommand("dev", replica!)).toBe("npm run rebuild -- -s dev kafka-2");
});
