// Who is calling, and for which tenant: the only place that turns a token into a tenant.

import type { FastifyRequest, onRequestAsyncHookHandler } from "fastify";
import { errors, jwtVerify } from "jose";
import { HttpError } from "./http.ts";

declare const brand: unique symbol;
/** A tenant that a verified token named. Queries and events take nothing else. */
export type TenantId = string & { readonly [brand]: true };

const tenants = new WeakMap<FastifyRequest, TenantId>();

/** Checks a tenant's name: it ends up in keys and queries. */
export function toTenantId(value: unknown): TenantId {
  if (typeof value !== "string" || !/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(value)) {
    throw new HttpError(
      401,
      "bad_token",
      "claim tenant_id must be 1 to 64 of letters, digits, '.', '_' and '-'",
    );
  }
  return value as TenantId;
}

/** The tenant of a request that passed `requireScope`. */
export function tenantOf(request: FastifyRequest): TenantId {
  const tenant = tenants.get(request);
  if (!tenant) throw new Error("the route has no requireScope hook");
  return tenant;
}

/** A hook that admits HS256 tokens with exp, tenant_id and the given scope; it runs before a body is read. */
export function requireScope(secret: Uint8Array, scope: string): onRequestAsyncHookHandler {
  return async (request) => {
    const token = /^Bearer ([\w-]+\.[\w-]+\.[\w-]*)$/i.exec(request.headers.authorization ?? "")?.[1];
    if (!token) throw unauthorized("send the header 'Authorization: Bearer <token>'");
    let claims;
    try {
      const options = { algorithms: ["HS256"], requiredClaims: ["exp", "tenant_id", "scope"] };
      claims = (await jwtVerify(token, secret, options)).payload;
    } catch (error) {
      if (error instanceof errors.JWTExpired) throw unauthorized("the token has expired; get a new one");
      if (error instanceof errors.JWTClaimValidationFailed) throw unauthorized(`token: ${error.message}`);
      throw unauthorized("the token is not valid: it must be signed with HS256 and this platform's secret");
    }
    const scopes = typeof claims["scope"] === "string" ? claims["scope"].split(" ") : [];
    if (!scopes.includes(scope)) {
      throw new HttpError(403, "missing_scope", `the token's scope must contain "${scope}"`);
    }
    tenants.set(request, toTenantId(claims["tenant_id"]));
  };
}

function unauthorized(message: string): HttpError {
  return new HttpError(401, "bad_token", message, {}, { "www-authenticate": "Bearer" });
}
