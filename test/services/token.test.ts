// What a minted token says.

import { decodeJwt, decodeProtectedHeader, jwtVerify } from "jose";
import { expect, it } from "vitest";
import { keyId } from "../../services/common/auth.ts";
import { mintToken } from "../../services/token.ts";

const secret = "0123456789abcdef0123456789abcdef";
const options = { secret, tenantId: "acme", scope: "events:read", ttlSeconds: 90, subject: "someone" };

it("names its key, and has the claims that the services ask for", async () => {
  const token = await mintToken(options);
  expect(decodeProtectedHeader(token)).toEqual({ alg: "HS256", typ: "JWT", kid: keyId(secret) });
  const claims = decodeJwt(token);
  expect(claims).toEqual({
    tenant_id: "acme",
    scope: "events:read",
    sub: "someone",
    iat: claims.iat,
    exp: claims.iat! + 90,
  });
  await jwtVerify(token, new TextEncoder().encode(secret));
});

it("is not made with a short key", async () => {
  await expect(mintToken({ ...options, secret: "short" })).rejects.toThrow("has 5 bytes");
});
