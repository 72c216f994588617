// Makes the tokens that both services accept, for the operators' commands and for tests.

import { SignJWT } from "jose";
import { keyId } from "./common/auth.ts";

export interface TokenOptions {
  /** The platform's current JWT_SECRET, at least 32 bytes; never the previous one. */
  readonly secret: string;
  readonly tenantId: string;
  /** Separated by spaces: `events:write`, `events:read`. */
  readonly scope: string;
  readonly ttlSeconds: number;
  readonly subject: string;
}

/** Signs an HS256 token with kid, exp, tenant_id and scope. */
export async function mintToken(options: TokenOptions): Promise<string> {
  const key = new TextEncoder().encode(options.secret);
  if (key.length < 32) throw new RangeError(`secret has ${key.length} bytes; HS256 needs at least 32`);
  const now = Math.floor(Date.now() / 1000);
  return new SignJWT({ tenant_id: options.tenantId, scope: options.scope })
    .setProtectedHeader({ alg: "HS256", typ: "JWT", kid: keyId(key) })
    .setSubject(options.subject)
    .setIssuedAt(now)
    .setExpirationTime(now + options.ttlSeconds)
    .sign(key);
}
