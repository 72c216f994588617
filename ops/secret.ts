// `npm run secret -- KEY` and `npm run token`: the only ways the commands show a secret, on standard output; and the
// change of the key that tokens are signed with.

import { randomBytes } from "node:crypto";
import { pathToFileURL } from "node:url";
import { type Stack } from "@pulumi/pulumi/automation/index.js";
import { Command } from "commander";
import { previousKey, project, secretKeys, type SecretKey } from "../components/config.ts";
import { isTenantName, keyId, scopes, tenantRule } from "../services/common/auth.ts";
import { mintToken, type TokenOptions } from "../services/token.ts";
import { parse, toItsEnd } from "./command.ts";
import { take } from "./lock.ts";
import { ensurePulumi } from "./toolchain.ts";
import { lockOf, openStack, readSecret, stackConfig, withSecrets } from "./workspace.ts";

/** A token can't be called back, so none is good for longer than a year. */
const longestTtlSeconds = 366 * 24 * 3600;

/**
 * Checks what a person asked for before the stack is opened.
 * @throws an Error with every problem, if there is one
 */
export function tokenRequest(options: {
  readonly tenant: string;
  readonly scope: string;
  readonly ttl: string;
}): Pick<TokenOptions, "tenantId" | "scope" | "ttlSeconds"> {
  const problems: string[] = [];
  if (!isTenantName(options.tenant)) {
    problems.push(`--tenant must be ${tenantRule}, but is "${options.tenant}"`);
  }
  const asked = options.scope.split(" ").filter(Boolean);
  const known = Object.entries(scopes).map(([scope, purpose]) => `${scope} (${purpose})`);
  if (asked.length === 0) problems.push(`--scope is empty; give one or more of ${known.join(", ")}`);
  for (const scope of asked.filter((scope) => !Object.hasOwn(scopes, scope))) {
    problems.push(`--scope has "${scope}"; allowed are ${known.join(", ")}, separated by spaces`);
  }
  const ttlSeconds = /^\d{1,10}$/.test(options.ttl) ? Number(options.ttl) : 0;
  if (ttlSeconds < 1 || ttlSeconds > longestTtlSeconds) {
    problems.push(
      `--ttl must be a whole number of seconds from 1 to ${longestTtlSeconds} (366 days), but is "${options.ttl}"`,
    );
  }
  if (problems.length > 0) throw new Error(problems.join("\n"));
  return { tenantId: options.tenant, scope: [...new Set(asked)].join(" "), ttlSeconds };
}

/** The stack's secrets, as the two commands below change them. */
export interface SecretStore {
  read(key: string): Promise<string | undefined>;
  write(key: string, value: string): Promise<void>;
  remove(key: string): Promise<void>;
}

/**
 * Makes a new key for tokens, and keeps the one before it until {@link forgetPrevious}.
 * @throws when a key before it is still kept: its tokens would end without notice
 */
export async function rotate(store: SecretStore): Promise<void> {
  const [current, previous] = [await store.read("jwtSecret"), await store.read(previousKey)];
  if (current === undefined) throw new Error("the stack has no jwtSecret yet; run npm run up first");
  // The same in both is what an interrupted change leaves: it is finished here.
  if (previous !== undefined && previous !== current) {
    throw new Error(
      `the stack still takes tokens of key ${keyId(previous)} beside ${keyId(current)}; when they are replaced, run: npm run secret -- forget-previous`,
    );
  }
  await store.write(previousKey, current);
  await store.write("jwtSecret", randomBytes(32).toString("hex"));
}

/** Ends the tokens of the previous key, from the next `up` on. */
export async function forgetPrevious(store: SecretStore): Promise<void> {
  if ((await store.read(previousKey)) === undefined) throw new Error("the stack has no previous key");
  await store.remove(previousKey);
}

function storeOf(stack: Stack): SecretStore {
  const name = (key: string): string => `${project}:${key}`;
  return {
    read: async (key) => (await stack.getAllConfig())[name(key)]?.value,
    write: (key, value) => stack.setConfig(name(key), { value, secret: true }),
    remove: (key) => stack.removeConfig(name(key)),
  };
}

async function main(): Promise<void> {
  const open = async (stackName: string) => {
    // A stack that nobody described would be made here, with new secrets.
    const { target } = stackConfig(stackName);
    return openStack(stackName, await ensurePulumi((line) => process.stderr.write(`${line}\n`), target));
  };
  /** Not while a command that reads the secrets is at work: it would deploy one half of the change. */
  const change = async (stackName: string, work: (store: SecretStore) => Promise<void>) => {
    const store = storeOf(await open(stackName));
    const release = await take(lockOf(stackName), "npm run secret");
    try {
      await withSecrets(stackName, () => work(store));
    } finally {
      release();
    }
  };
  const program = new Command("secret").description("shows a secret of a stack, or mints a token with it");
  program
    .command("show <key>", { isDefault: true })
    .description(`prints one of ${Object.keys(secretKeys).join(", ")}`)
    .option("-s, --stack <name>", "the stack", "local")
    .action(async (key: string, { stack }: { stack: string }) => {
      if (!Object.hasOwn(secretKeys, key)) {
        throw new Error(`there is no secret ${key}; allowed: ${Object.keys(secretKeys).join(", ")}`);
      }
      process.stdout.write(`${await readSecret(await open(stack), key as SecretKey)}\n`);
    });
  program
    .command("rotate")
    .description("makes a new key for tokens; the old one stays good until forget-previous")
    .option("-s, --stack <name>", "the stack", "local")
    .action(async ({ stack }: { stack: string }) => {
      await change(stack, rotate);
      process.stdout.write(
        `a new key is set. Next: npm run up -- -s ${stack}; then mint new tokens; when the old ones are gone: npm run secret -- forget-previous -s ${stack}\n`,
      );
    });
  program
    .command("forget-previous")
    .description("removes the key before the current one, and with it all its tokens")
    .option("-s, --stack <name>", "the stack", "local")
    .action(async ({ stack }: { stack: string }) => {
      await change(stack, forgetPrevious);
      process.stdout.write(`the previous key is removed. Next: npm run up -- -s ${stack}\n`);
    });
  program
    .command("token")
    .description("mints a token for the API and the ingestor, signed with the stack's current key")
    .requiredOption("-t, --tenant <id>", "the tenant whose events the token reaches")
    .option("--scope <scopes>", "scopes, separated by spaces", Object.keys(scopes).join(" "))
    .option("--ttl <seconds>", "how long it is good for, at most 366 days", "3600")
    .option("-s, --stack <name>", "the stack", "local")
    .action(async (options: { tenant: string; scope: string; ttl: string; stack: string }) => {
      const request = tokenRequest(options);
      const secret = await readSecret(await open(options.stack), "jwtSecret");
      process.stdout.write(`${await mintToken({ ...request, secret, subject: "npm run token" })}\n`);
    });
  await parse(program);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  await toItsEnd(main);
}
