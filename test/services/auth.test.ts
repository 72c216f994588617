// Who gets in: keys and their names, algorithms, times, claims and scopes.

import fc from "fast-check";
import { SignJWT, UnsecuredJWT } from "jose";
import { describe, expect, it } from "vitest";
import { keyId, type Keys, requireScope, tenantOf, toTenantId } from "../../services/common/auth.ts";
import { createServer } from "../../services/common/http.ts";
import { mintToken } from "../../services/token.ts";

const [current, previous, stranger] = ["c", "p", "s"].map((letter) => letter.repeat(40)) as [
  string,
  string,
  string,
];
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const seconds = Math.floor(Date.now() / 1000);
const both: Keys = { current: bytes(current), previous: bytes(previous) };
const one: Keys = { current: bytes(current) };

/** A server with one route, for tokens that may read. */
function serverWith(keys: Keys) {
  const app = createServer({ draining: false }, true);
  app.get("/", { onRequest: requireScope(keys, "events:read") }, (request) => ({
    tenant: tenantOf(request),
  }));
  return async (token: string | undefined) => {
    const headers = token === undefined ? {} : { authorization: token };
    const response = await app.inject({ url: "/", headers });
    const body = response.json<{ tenant?: string; error?: string; message?: string }>();
    return { status: response.statusCode, headers: response.headers, ...body };
  };
}
const withBoth = serverWith(both);
const withOne = serverWith(one);

const good = { tenant_id: "acme", scope: "events:read", exp: seconds + 600 };
async function sign(
  claims: Record<string, unknown>,
  secret = current,
  header: { alg?: string; kid?: unknown } = {},
): Promise<string> {
  const token = new SignJWT(claims).setProtectedHeader({ alg: "HS256", ...header } as { alg: string });
  return `Bearer ${await token.sign(bytes(secret))}`;
}
const mint = async (secret: string): Promise<string> =>
  `Bearer ${await mintToken({ secret, tenantId: "acme", scope: "events:read", ttlSeconds: 60, subject: "t" })}`;

describe("keys", () => {
  it("have an id: eight hexadecimal digits of the hash, the same for text and bytes", () => {
    expect(keyId("a".repeat(32))).toBe("3ba3f5f4");
    expect(keyId(bytes("a".repeat(32)))).toBe(keyId("a".repeat(32)));
  });

  it("the current and the previous one are good, by name and without one", async () => {
    for (const token of [
      await mint(current),
      await mint(previous),
      await sign(good, current),
      await sign(good, previous),
    ]) {
      expect(await withBoth(token)).toMatchObject({ status: 200, tenant: "acme" });
    }
  });

  it("a previous one is no longer good once it is gone, and a new one not yet while only the old is known", async () => {
    const named = await withOne(await mint(previous));
    expect(named).toMatchObject({ status: 401, error: "bad_token" });
    expect(named.message).toBe(
      `the token was signed with key ${keyId(previous)}, but this platform takes ${keyId(current)}; get a new token`,
    );
    expect((await withOne(await sign(good, previous))).message).toContain("signature");
    expect((await serverWith({ current: bytes(previous) })(await mint(current))).status).toBe(401);
  });

  it("through a whole rotation the old token works on every replica, changed or not", async () => {
    const old = await mint(previous);
    for (const replica of [serverWith({ current: bytes(previous) }), withBoth]) {
      expect((await replica(old)).status).toBe(200);
    }
  });

  it("a token that names one key and is signed with another is refused", async () => {
    expect((await withBoth(await sign(good, previous, { kid: keyId(current) }))).status).toBe(401);
    expect((await withBoth(await sign(good, stranger, { kid: keyId(previous) }))).status).toBe(401);
    expect((await withBoth(await mint(stranger))).message).toContain(
      `takes ${keyId(current)} and ${keyId(previous)}`,
    );
    expect((await withBoth(await sign(good, current, { kid: "../../etc/passwd" }))).message).toContain("kid");
    expect((await withBoth(await sign(good, current, { kid: 7 }))).message).toContain("kid");
  });
});

describe("a token is refused", () => {
  const unsigned = `Bearer ${new UnsecuredJWT(good).encode()}`;
  const [, payload] = unsigned.split(".");
  const none = Buffer.from('{"alg":"none","kid":"' + keyId(current) + '"}').toString("base64url");
  const header = Buffer.from('{"alg":"HS256"}').toString("base64url");
  it.each<[string, string | undefined | (() => Promise<string>), number, RegExp]>([
    ["that is missing", undefined, 401, /send the header/],
    ["of another kind", "Basic YTpi", 401, /send the header/],
    ["that is none", "Bearer abc", 401, /send the header/],
    ["that can't be read", "Bearer abc.def.ghi", 401, /no token/],
    [
      "whose payload can't be read",
      `Bearer ${header}.!!!!.abc`.replace("!!!!", "abcd"),
      401,
      /signature|no token/,
    ],
    ["without a signature", unsigned, 401, /alg must be HS256/],
    ["without a signature but with a kid", `Bearer ${none}.${payload}.`, 401, /alg must be HS256/],
    ["with its signature cut off", async () => (await sign(good)).replace(/[^.]+$/, ""), 401, /signature/],
    ["signed with HS512", () => sign(good, current.repeat(2), { alg: "HS512" }), 401, /alg must be HS256/],
    [
      "that says RS256",
      async () => {
        const forged = Buffer.from('{"alg":"RS256"}').toString("base64url");
        return (await sign(good)).replace(/^Bearer [^.]+/, `Bearer ${forged}`);
      },
      401,
      /alg must be HS256/,
    ],
    ["signed by a stranger", () => sign(good, stranger), 401, /signature/],
    ["that has expired", () => sign({ ...good, exp: seconds - 1 }), 401, /expired/],
    ["that is not valid yet", () => sign({ ...good, nbf: seconds + 300 }), 401, /not valid yet/],
    ["without exp", () => sign({ ...good, exp: undefined }), 401, /"exp"/],
    ["with an exp that is text", () => sign({ ...good, exp: "never" }), 401, /"exp"|no token/],
    ["without tenant_id", () => sign({ ...good, tenant_id: undefined }), 401, /"tenant_id"/],
    ["without scope", () => sign({ ...good, scope: undefined }), 401, /"scope"/],
    ["with a list of scopes", () => sign({ ...good, scope: ["events:read"] }), 401, /scope must be a string/],
    ["with no scope", () => sign({ ...good, scope: "" }), 403, /"events:read"/],
    [
      "with another scope",
      () => sign({ ...good, scope: "events:write events:reader" }),
      403,
      /"events:read"/,
    ],
    ["with a number as tenant", () => sign({ ...good, tenant_id: 7 }), 401, /tenant_id must be/],
    ["with a list as tenant", () => sign({ ...good, tenant_id: ["acme"] }), 401, /tenant_id must be/],
    ["with an empty tenant", () => sign({ ...good, tenant_id: "" }), 401, /tenant_id must be/],
    [
      "with a tenant that breaks out",
      () => sign({ ...good, tenant_id: "a' OR '1" }),
      401,
      /tenant_id must be/,
    ],
  ])("%s", async (_, given, status, message) => {
    const answer = await withBoth(typeof given === "function" ? await given() : given);
    expect(answer).toMatchObject({ status, error: status === 401 ? "bad_token" : "missing_scope" });
    expect(answer.message).toMatch(message);
    if (status === 401) expect(answer.headers["www-authenticate"]).toBe("Bearer");
  });

  it("in any other form", async () => {
    const token = await sign(good);
    await fc.assert(
      fc.asyncProperty(fc.nat(token.length - 8), fc.constantFrom("", "A", "_", "."), async (at, put) => {
        const broken = token.slice(0, at + 7) + put + token.slice(at + 8);
        // The last character of a signature has bits that carry nothing.
        fc.pre(broken !== token && at + 7 < token.length - 1);
        expect((await withBoth(broken)).status).toBe(401);
      }),
    );
  });
});

it("the scheme's case does not matter", async () => {
  expect((await withBoth((await sign(good)).replace("Bearer", "bearer"))).status).toBe(200);
});

describe("tenants' names", () => {
  it("are checked before one becomes a tenant", () => {
    expect(toTenantId("acme-1.prod_a")).toBe("acme-1.prod_a");
    for (const wrong of ["", "-a", "a b", "a'b", "a\n", "é", "a".repeat(65), null, undefined, 1, {}]) {
      expect(() => toTenantId(wrong)).toThrow("tenant_id must be");
    }
  });

  it("can't be had without the hook", () => {
    expect(() => tenantOf({} as Parameters<typeof tenantOf>[0])).toThrow("requireScope");
  });
});
