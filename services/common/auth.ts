// Who is calling, and for which tenant: the only place that turns a token into a tenant.

import { createHash } from "node:crypto";
import type { FastifyRequest, onRequestAsyncHookHandler } from "fastify";
import { decodeProtectedHeader, errors, type JWTPayload, jwtVerify } from "jose";
import { tenantPattern } from "../../components/topology.ts";
import { HttpError } from "./http.ts";

declare const brand: unique symbol;
/** A tenant that a verified token named. Queries and events take nothing else. */
export type TenantId = string & { readonly [brand]: true };

/** What a token can allow, and what for. */
export const scopes = {
  "events:write": "post events to the ingestor",
  "events:read": "read events, alerts and counts from the API",
} as const;
export type Scope = keyof typeof scopes;

/** The keys that tokens may be signed with: new ones with the current, older ones also with the one before it. */
export interface Keys {
  readonly current: Uint8Array;
  readonly previous?: Uint8Array;
}

const tenants = new WeakMap<FastifyRequest, TenantId>();
/** The rule of {@link isTenantName}, in words. */
export const tenantRule = "1 to 64 of letters, digits, '.', '_' and '-', the first a letter or digit";

/** Whether a tenant can have this name: it ends up in keys and queries. */
export function isTenantName(value: unknown): boolean {
  return typeof value === "string" && tenantPattern.test(value);
}

/** Checks the tenant that a token names. */
export function toTenantId(value: unknown): TenantId {
  if (!isTenantName(value)) throw unauthorized(`claim tenant_id must be a string of ${tenantRule}`);
  return value as TenantId;
}

/** The tenant of a request that passed `requireScope`. */
export function tenantOf(request: FastifyRequest): TenantId {
  const tenant = tenants.get(request);
  if (!tenant) throw new Error("the route has no requireScope hook");
  return tenant;
}

/** The name of a key in the header of a token (`kid`). It tells keys apart and nothing about them. */
export function keyId(secret: Uint8Array | string): string {
  return createHash("sha256").update(secret).digest("hex").slice(0, 8);
}

/** A hook that admits HS256 tokens with exp, tenant_id and the given scope; it runs before a body is read. */
export function requireScope(keys: Keys, scope: Scope): onRequestAsyncHookHandler {
  const known = [keys.current, keys.previous]
    .filter((key) => key !== undefined)
    .map((key) => ({ id: keyId(key), key }));
  return async (request) => {
    const token = /^Bearer +([\w-]+\.[\w-]+\.[\w-]*)$/i.exec(request.headers.authorization ?? "")?.[1];
    if (!token) throw unauthorized("send the header 'Authorization: Bearer <token>'");
    const claims = await verify(token, known);
    if (typeof claims["scope"] !== "string") {
      throw unauthorized("claim scope must be a string, scopes separated by spaces");
    }
    if (!claims["scope"].split(" ").includes(scope)) {
      throw new HttpError(403, "missing_scope", `the token's scope must contain "${scope}"`);
    }
    tenants.set(request, toTenantId(claims["tenant_id"]));
  };
}

async function verify(
  token: string,
  known: readonly { readonly id: string; readonly key: Uint8Array }[],
): Promise<JWTPayload> {
  const kid = kidOf(token);
  const candidates = kid === undefined ? known : known.filter(({ id }) => id === kid);
  if (candidates.length === 0) {
    throw unauthorized(
      `the token was signed with key ${kid}, but this platform takes ${known.map(({ id }) => id).join(" and ")}; get a new token`,
    );
  }
  for (const { key } of candidates) {
    try {
      const options = { algorithms: ["HS256"], requiredClaims: ["exp", "tenant_id", "scope"] };
      return (await jwtVerify(token, key, options)).payload;
    } catch (error) {
      if (!(error instanceof errors.JWSSignatureVerificationFailed)) throw unauthorized(reason(error));
    }
  }
  throw unauthorized("the token's signature is not made with this platform's key; get a new token");
}

/** The key that a token says it was signed with. Nothing of it is true before the signature is checked. */
function kidOf(token: string): string | undefined {
  let kid: unknown;
  try {
    kid = decodeProtectedHeader(token).kid;
  } catch {
    throw unauthorized(notAToken);
  }
  if (kid === undefined) return undefined;
  if (typeof kid === "string" && /^[\da-f]{8}$/.test(kid)) return kid;
  throw unauthorized("the token's kid must be 8 hexadecimal digits; get a new token");
}

const notAToken = "this is no token: it must be a JWT, signed with HS256";

function reason(error: unknown): string {
  if (error instanceof errors.JWTExpired) return "the token has expired; get a new one";
  if (error instanceof errors.JOSEAlgNotAllowed) return "the token's alg must be HS256";
  if (error instanceof errors.JWTClaimValidationFailed) {
    return error.claim === "nbf" && error.reason === "check_failed"
      ? "the token is not valid yet (nbf); wait, or compare the clocks"
      : `token: ${error.message}`;
  }
  return notAToken;
}

function unauthorized(message: string): HttpError {
  return new HttpError(401, "bad_token", message, {}, { "www-authenticate": "Bearer" });
}
