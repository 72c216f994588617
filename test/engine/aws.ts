// The stacks `dev` and `prod` of this repository on the recording plugins: their own files, with the values filled in
// that a team has to fill in.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { testSecrets } from "../mocks.ts";
import { RecordedStack } from "./harness.ts";

const root = join(import.meta.dirname, "../..");

/** What Pulumi.<tier>.yaml leaves open. */
const filledIn = {
  admin: { sshPublicKeys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOperatorOfTheTests operator"] },
};
const filledInProd = { ...filledIn, alarmEmail: "oncall@example.com" };

export function awsStack(tier: "dev" | "prod"): RecordedStack {
  const file = parse(readFileSync(join(root, `Pulumi.${tier}.yaml`), "utf8")) as {
    config: Record<string, unknown>;
  };
  const aws = file.config["siem-ha:aws"] as Record<string, unknown>;
  const config = {
    ...file.config,
    "siem-ha:aws": { ...aws, ...(tier === "prod" ? filledInProd : filledIn) },
  };
  return new RecordedStack({
    project: "siem-ha",
    stack: tier,
    program: join(root, "index.ts"),
    config: Object.fromEntries(
      Object.entries(config).map(([key, value]) => [
        key,
        typeof value === "string" ? value : JSON.stringify(value),
      ]),
    ),
    secrets: testSecrets,
  });
}
