// The environment of a service: databases, brokers, keys; every problem in one message, and no secret in it.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Env } from "../../services/common/env.ts";

const text = (bytes: Uint8Array | undefined): string | undefined => bytes && new TextDecoder().decode(bytes);

describe("environment", () => {
  it("names several hosts of one database", () => {
    const env = new Env({ DATABASE_URL: "http://siem@a:8123,b:8123/dev", DATABASE_PASSWORD: "p@ss" });
    expect(env.database()).toEqual({
      urls: ["http://a:8123", "http://b:8123"],
      username: "siem",
      password: "p@ss",
      database: "dev",
    });
    expect(() => env.check()).not.toThrow();
  });

  it("is refused in one message that names every problem and no secret", () => {
    const env = new Env({
      DATABASE_URL: "http://siem:hunter2@a/dev",
      JWT_SECRET: "short",
      JWT_SECRET_PREVIOUS: "shorter",
      SERVER_ADDR: "x",
      DATABASE_PASSWORD_FILE: "/no/such",
    });
    env.database();
    env.jwtKeys();
    env.address("SERVER_ADDR", "0.0.0.0:1");
    env.brokers("KAFKA_BROKERS");
    expect(() => env.check()).toThrow(
      /DATABASE_URL[^]*JWT_SECRET has 5 bytes[^]*JWT_SECRET_PREVIOUS has 7 bytes[^]*SERVER_ADDR[^]*KAFKA_BROKERS is missing/,
    );
    expect(() => env.check()).not.toThrow(/hunter2|short/);
  });
});

describe("a whole number", () => {
  const read = (value?: string) => {
    const env = new Env(value === undefined ? {} : { HOURS: value });
    const number = env.integer("HOURS", 1, 87_600);
    env.check();
    return number;
  };

  it("is taken within its bounds", () => expect(["1", "168", "87600"].map(read)).toEqual([1, 168, 87_600]));
  it.each(["0", "87601", "1.5", "-1", "1e3", "x"])("is not %j", (value) => {
    expect(() => read(value)).toThrow(`HOURS must be a whole number from 1 to 87600, but is "${value}"`);
  });
  it("has no default", () => expect(() => read()).toThrow("HOURS is missing"));
});

describe("keys", () => {
  const [current, previous] = ["c".repeat(32), "p".repeat(32)];
  const read = (env: Record<string, string>) => {
    const reader = new Env(env);
    const keys = reader.jwtKeys();
    reader.check();
    return keys;
  };

  it("are one, or two while they change", () => {
    const one = read({ JWT_SECRET: current });
    expect([text(one.current), "previous" in one]).toEqual([current, false]);
    const two = read({ JWT_SECRET: current, JWT_SECRET_PREVIOUS: previous });
    expect([text(two.current), text(two.previous)]).toEqual([current, previous]);
  });

  it("come from files too, and an empty file is no key", () => {
    const folder = mkdtempSync(join(tmpdir(), "siem-ha-env-"));
    try {
      writeFileSync(join(folder, "previous"), `${previous}\n`);
      writeFileSync(join(folder, "empty"), "\n");
      const file = (name: string) =>
        read({ JWT_SECRET: current, JWT_SECRET_PREVIOUS_FILE: join(folder, name) });
      expect(text(file("previous").previous)).toBe(previous);
      expect(file("empty").previous).toBeUndefined();
      expect(() => file("missing")).toThrow(/JWT_SECRET_PREVIOUS_FILE: can't read/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("must be there, be long enough and differ", () => {
    expect(() => read({})).toThrow("JWT_SECRET is missing");
    expect(() => read({ JWT_SECRET: "c".repeat(31) })).toThrow("JWT_SECRET has 31 bytes");
    expect(() => read({ JWT_SECRET: current, JWT_SECRET_PREVIOUS: "p".repeat(31) })).toThrow(
      "JWT_SECRET_PREVIOUS has 31 bytes",
    );
    expect(() => read({ JWT_SECRET: current, JWT_SECRET_PREVIOUS: current })).toThrow(
      "is the same as JWT_SECRET",
    );
  });
});
