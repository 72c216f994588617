// What `npm run token` takes, before it opens a stack; and how the key of tokens is changed.

import { describe, expect, it } from "vitest";
import { forgetPrevious, rotate, type SecretStore, tokenRequest } from "../../ops/secret.ts";

const good = { tenant: "acme", scope: "events:write events:read", ttl: "3600" };

it("takes a tenant, known scopes and a time", () => {
  expect(tokenRequest(good)).toEqual({
    tenantId: "acme",
    scope: "events:write events:read",
    ttlSeconds: 3600,
  });
  expect(tokenRequest({ ...good, scope: " events:read  events:read " }).scope).toBe("events:read");
  expect(tokenRequest({ ...good, ttl: String(366 * 86400) }).ttlSeconds).toBe(31_622_400);
});

it.each([
  [{ tenant: "" }, /--tenant must be 1 to 64 .* but is ""/],
  [{ tenant: "a b" }, /--tenant must be/],
  [{ tenant: "-a" }, /--tenant must be/],
  [{ tenant: "a".repeat(65) }, /--tenant must be/],
  [{ scope: "" }, /--scope is empty/],
  [{ scope: "events:admin" }, /--scope has "events:admin"; allowed are events:write .*events:read/],
  [{ scope: "events:read,events:write" }, /--scope has "events:read,events:write"/],
  [{ scope: "constructor" }, /--scope has "constructor"/],
  [{ ttl: "0" }, /--ttl must be .* 1 to 31622400 \(366 days\), but is "0"/],
  [{ ttl: "31622401" }, /--ttl must be/],
  [{ ttl: "-5" }, /--ttl must be/],
  [{ ttl: "1e3" }, /--ttl must be/],
  [{ ttl: "1h" }, /--ttl must be/],
  [{ ttl: "" }, /--ttl must be/],
])("refuses %j", (wrong, message) => {
  expect(() => tokenRequest({ ...good, ...wrong })).toThrow(message);
});

it("names every problem at once", () => {
  expect(() => tokenRequest({ tenant: "?", scope: "x", ttl: "y" })).toThrow(/--tenant[^]*--scope[^]*--ttl/);
});

describe("the key of tokens", () => {
  const old = "o".repeat(64);
  /** A store that fails at a write, if it is told to. */
  function store(values: Record<string, string>, failAt = Infinity): SecretStore & { values: typeof values } {
    let writes = 0;
    return {
      values,
      read: (key) => Promise.resolve(values[key]),
      write: (key, value) => {
        if (++writes === failAt) return Promise.reject(new Error("interrupted"));
        values[key] = value;
        return Promise.resolve();
      },
      remove: (key) => {
        delete values[key];
        return Promise.resolve();
      },
    };
  }

  it("is replaced by a random one and kept as the previous, then forgotten", async () => {
    const secrets = store({ jwtSecret: old, databasePassword: "p" });
    await rotate(secrets);
    expect(secrets.values).toEqual({
      jwtSecret: expect.stringMatching(/^[\da-f]{64}$/) as string,
      jwtSecretPrevious: old,
      databasePassword: "p",
    });
    const current = secrets.values["jwtSecret"];
    await forgetPrevious(secrets);
    expect(secrets.values).toEqual({ jwtSecret: current, databasePassword: "p" });
    await expect(forgetPrevious(secrets)).rejects.toThrow("no previous key");
  });

  it("is not replaced while an older one is still good", async () => {
    const secrets = store({ jwtSecret: old, jwtSecretPrevious: "older".repeat(8) });
    await expect(rotate(secrets)).rejects.toThrow(
      /still takes tokens of key [\da-f]{8} beside [\da-f]{8}.*forget-previous/,
    );
    expect(secrets.values["jwtSecret"]).toBe(old);
    await expect(rotate(store({}))).rejects.toThrow("no jwtSecret yet");
  });

  it("is never lost when the change is interrupted, and the change can be finished", async () => {
    const secrets = store({ jwtSecret: old }, 2);
    await expect(rotate(secrets)).rejects.toThrow("interrupted");
    expect(secrets.values).toEqual({ jwtSecret: old, jwtSecretPrevious: old });
    await rotate(secrets);
    expect(secrets.values["jwtSecretPrevious"]).toBe(old);
    expect(secrets.values["jwtSecret"]).not.toBe(old);
  });
});
