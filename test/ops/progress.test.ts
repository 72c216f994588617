// What a person reads while the engine works, from the engine's own events.

import { type EngineEvent, type OpType } from "@pulumi/pulumi/automation/index.js";
import { describe, expect, it } from "vitest";
import { Progress } from "../../ops/progress.ts";

const step = (op: OpType, type: string, name: string): EngineEvent[] => {
  const metadata = { op, type, urn: `urn:pulumi:local::siem-ha::${type}::${name}` };
  return [
    { sequence: 1, timestamp: 1, resourcePreEvent: { metadata } },
    { sequence: 2, timestamp: 2, resOutputsEvent: { metadata } },
  ] as unknown as EngineEvent[];
};

function run(events: readonly EngineEvent[]): { lines: string[]; progress: Progress } {
  const lines: string[] = [];
  const progress = new Progress((line) => lines.push(line.replace(/ \(.*\)$/, "")));
  for (const event of events) progress.onEvent(event);
  return { lines, progress };
}

describe("Progress", () => {
  it("names what was done, once", () => {
    const container = "docker:index/container:Container";
    const { lines, progress } = run([
      ...step("delete-replaced", container, "kafka-1"),
      ...step("replace", container, "kafka-1"),
      ...step("create-replacement", container, "kafka-1"),
      ...step("create", container, "kafka-2"),
      ...step("same", container, "kafka-3"),
      ...step("create", "siem:services:Kafka", "kafka"),
    ]);
    expect(lines).toEqual(["  replaced kafka-1 Container", "  created kafka-2 Container"]);
    expect(progress.changes).toBe(2);
  });

  it("prints what a script notes, and nothing else that it says", () => {
    const { lines } = run(
      ["Created topic alerts.\n", "note: clickhouse-2 had lost events_replicated\n"].map((message, n) => ({
        sequence: n,
        timestamp: n,
        diagnosticEvent: { severity: "info", message, color: "never" },
      })),
    );
    expect(lines).toEqual(["  clickhouse-2 had lost events_replicated"]);
  });

  it.each([
    ['exit status 1: running "probe() {\n  true\n}\n":\nwaited 5 s for kafka-1\n', "waited 5 s for kafka-1"],
    ['exit status 1: running "exit 1":', "(exit status 1)"],
    ['exit status 137: running "docker exec x\n":\nCode:\n', "Code: (exit status 137)"],
    ['signal: killed: running "docker exec x":', "(signal: killed)"],
    ["no such image\n", "no such image"],
  ])("keeps of a failed command's error what the command said: %j", (message, kept) => {
    const { progress } = run([
      {
        sequence: 1,
        timestamp: 1,
        diagnosticEvent: { severity: "error", message, color: "never" },
      },
    ]);
    expect(progress.errors).toEqual([kept]);
  });
});
