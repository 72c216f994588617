// UUIDs, and those that tell when they were made (RFC 9562, version 7).

import { randomBytes } from "node:crypto";

/** A UUID that sorts by time (RFC 9562, version 7). */
export function uuidV7(time: Date): string {
  const bytes = randomBytes(16);
  bytes.writeUIntBE(time.getTime(), 0, 6);
  bytes[6] = (bytes[6]! & 0x0f) | 0x70;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return formatUuid(bytes);
}

/** The time that such an id tells; undefined for any other. */
export function timeOfUuidV7(id: string): Date | undefined {
  const match = /^([\da-f]{8})-([\da-f]{4})-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/i.exec(id);
  return match ? new Date(Number.parseInt(match[1]! + match[2]!, 16)) : undefined;
}

/** Sixteen bytes as a UUID is written. */
export function formatUuid(bytes: Buffer): string {
  return bytes.toString("hex", 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
