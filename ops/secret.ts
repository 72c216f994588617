// `npm run secret -- KEY` and `npm run token`: the only ways the commands show a secret, on standard output.

import { Command } from "commander";
import { secretKeys, type SecretKey } from "../components/config.ts";
import { mintToken } from "../services/token.ts";
import { ensurePulumi } from "./toolchain.ts";
import { openStack, readSecret } from "./workspace.ts";

const open = async (stackName: string) =>
  openStack(stackName, await ensurePulumi((line) => process.stderr.write(`${line}\n`)));

const program = new Command("secret").description("shows a secret of a stack, or mints a token with it");
program
  .command("show <key>", { isDefault: true })
  .description(`prints one of ${Object.keys(secretKeys).join(", ")}`)
  .option("-s, --stack <name>", "the stack", "local")
  .action(async (key: string, { stack }: { stack: string }) => {
    if (!(key in secretKeys)) {
      throw new Error(`there is no secret ${key}; allowed: ${Object.keys(secretKeys).join(", ")}`);
    }
    process.stdout.write(`${await readSecret(await open(stack), key as SecretKey)}\n`);
  });
program
  .command("token")
  .description("mints a token for the API and the ingestor")
  .requiredOption("-t, --tenant <id>", "the tenant whose events the token reaches")
  .option("--scope <scopes>", "scopes, separated by spaces", "events:write events:read")
  .option("--ttl <seconds>", "how long it is good for", "3600")
  .option("-s, --stack <name>", "the stack", "local")
  .action(async (options: { tenant: string; scope: string; ttl: string; stack: string }) => {
    const ttlSeconds = Number(options.ttl);
    if (!Number.isInteger(ttlSeconds) || ttlSeconds < 1) {
      throw new Error(`--ttl must be a whole number of seconds above 0, but is ${options.ttl}`);
    }
    const token = await mintToken({
      secret: await readSecret(await open(options.stack), "jwtSecret"),
      tenantId: options.tenant,
      scope: options.scope,
      ttlSeconds,
      subject: "npm run token",
    });
    process.stdout.write(`${token}\n`);
  });
try {
  await program.parseAsync();
} catch (error) {
  process.stderr.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
process.exit();
