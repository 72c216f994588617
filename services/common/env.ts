// Reads a service's environment: every problem in one message, secrets as values or as files.

import { readFileSync } from "node:fs";
import { keyId, type Keys } from "./auth.ts";

/** The environment can't be used; the message names every variable that is wrong. */
export class ConfigError extends Error {}

/** One ClickHouse replica's base URL is `protocol//host`; all share user, password and database. */
export interface Database {
  readonly urls: readonly string[];
  readonly username: string;
  readonly password: string;
  readonly database: string;
}

/** Collects problems while values are read, so that a person fixes them all at once. */
export class Env {
  readonly #env: Readonly<Record<string, string | undefined>>;
  readonly #problems: string[] = [];

  constructor(env: Readonly<Record<string, string | undefined>>) {
    this.#env = env;
  }

  /** The variable, or the contents of the file that `<name>_FILE` names, or the default. */
  read(name: string, fallback?: string): string {
    const value = this.#env[name];
    const file = this.#env[`${name}_FILE`];
    if (value && file) this.#problems.push(`${name} and ${name}_FILE are both set; keep one of them`);
    if (value) return value;
    if (file) {
      try {
        return readFileSync(file, "utf8").replace(/\r?\n$/, "");
      } catch (error) {
        this.#problems.push(`${name}_FILE: can't read "${file}" (${(error as NodeJS.ErrnoException).code})`);
        return "";
      }
    }
    if (fallback === undefined) this.#problems.push(`${name} is missing; set ${name} or ${name}_FILE`);
    return fallback ?? "";
  }

  /** `host:port` to listen on. */
  address(name: string, fallback: string): { host: string; port: number } {
    const value = this.read(name, fallback);
    const match = /^(.+):(\d{1,5})$/.exec(value);
    const port = Number(match?.[2]);
    if (!match || port > 65535) {
      this.#problems.push(`${name} must be host:port, for example "${fallback}", but is "${value}"`);
    }
    return { host: (match?.[1] ?? "").replace(/^\[|\]$/g, ""), port };
  }

  /** A comma-separated list of `host:port`. */
  brokers(name: string): string[] {
    const value = this.read(name);
    const list = value.split(",").map((entry) => entry.trim());
    if (value && !list.every((entry) => /^[^\s:/]+:\d{1,5}$/.test(entry))) {
      this.#problems.push(`${name} must be like "kafka-1:9092,kafka-2:9092", but is "${value}"`);
    }
    return list;
  }

  /** A whole number within bounds. */
  integer(name: string, least: number, most: number): number {
    const value = this.read(name);
    const number = Number(value);
    if (value && (!/^\d+$/.test(value) || number < least || number > most)) {
      this.#problems.push(`${name} must be a whole number from ${least} to ${most}, but is "${value}"`);
    }
    return number;
  }

  /** The keys of HS256: RFC 7518 wants at least as many bytes as the hash has. The previous one may be missing. */
  jwtKeys(): Keys {
    const current = this.#key("JWT_SECRET", this.read("JWT_SECRET"));
    const given = this.read("JWT_SECRET_PREVIOUS", "");
    if (given === "") return { current };
    const previous = this.#key("JWT_SECRET_PREVIOUS", given);
    if (keyId(previous) === keyId(current)) {
      this.#problems.push("JWT_SECRET_PREVIOUS is the same as JWT_SECRET; give the key before it, or none");
    }
    return { current, previous };
  }

  #key(name: string, text: string): Uint8Array {
    const key = new TextEncoder().encode(text);
    if (key.length > 0 && key.length < 32) {
      this.#problems.push(`${name} has ${key.length} bytes; HS256 needs at least 32`);
    }
    return key;
  }

  /** `http://user@host1:8123,host2:8123/db`; the password in the URL or in DATABASE_PASSWORD(_FILE). */
  database(): Database {
    const value = this.read("DATABASE_URL");
    const match = /^(https?):\/\/([^:@/]+)(?::([^@/]*))?@([^@/]+)\/(\w+)$/.exec(value);
    const hosts = match?.[4]?.split(",") ?? [];
    if (value && (!match || !hosts.every((host) => /^[^\s:]+:\d{1,5}$/.test(host)))) {
      // The value may hold a password, so it is not repeated.
      this.#problems.push(`DATABASE_URL must be like "http://user@host1:8123,host2:8123/database"`);
    }
    return {
      urls: hosts.map((host) => `${match?.[1]}://${host}`),
      username: decode(match?.[2]),
      password: match?.[3] ? decode(match[3]) : this.read("DATABASE_PASSWORD"),
      database: match?.[4] ? (match[5] ?? "") : "",
    };
  }

  /** Throws one ConfigError with all the problems found so far. */
  check(): void {
    if (this.#problems.length > 0) throw new ConfigError(this.#problems.join("\n"));
  }
}

function decode(text = ""): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Runs a service's main function; a wrong environment ends it with one message and exit code 2. */
export async function runMain(main: () => Promise<void>): Promise<void> {
  try {
    await main();
  } catch (error) {
    const message = error instanceof ConfigError ? error.message : String(error);
    process.stderr.write(`can't start:\n${message.replace(/^/gm, "  ")}\n`);
    process.exit(error instanceof ConfigError ? 2 : 1);
  }
}
