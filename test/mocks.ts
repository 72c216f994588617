// Strict Pulumi mocks: every registration is kept, every output that the program reads is filled, anything else throws.

import * as pulumi from "@pulumi/pulumi";

export interface Registration {
  readonly type: string;
  readonly name: string;
  readonly inputs: Record<string, unknown>;
  readonly provider: string | undefined;
}

/** Secret config values of the tests: long enough, and easy to look for where they must not be. */
export const testSecrets = {
  "siem-ha:jwtSecret": "jwt-secret-of-the-tests-0123456789abcdef",
  "siem-ha:databasePassword": "database-password-of-the-tests",
  "siem-ha:statsPassword": "stats-password-of-the-tests",
};

const outputs: Record<string, (inputs: Record<string, unknown>) => Record<string, unknown>> = {
  "docker:index/network:Network": (inputs) => inputs,
  "docker:index/volume:Volume": (inputs) => inputs,
  "docker:index/container:Container": (inputs) => inputs,
  "docker:index/remoteImage:RemoteImage": (inputs) => ({
    ...inputs,
    imageId: `sha256:${String(inputs["name"])}`,
  }),
  "command:local:Command": (inputs) => ({ ...inputs, stdout: "", stderr: "" }),
  "pulumi:providers:docker": (inputs) => inputs,
  "pulumi:providers:aws": (inputs) => inputs,
};

/** Outputs of AWS resources that the program reads, beside their inputs, `id`, and an ARN made from the name. */
const awsOutputs: Record<string, (name: string) => Record<string, unknown>> = {
  "aws:ec2/vpc:Vpc": (name) => ({
    mainRouteTableId: `${name}-main`,
    defaultSecurityGroupId: `${name}-sg`,
    defaultRouteTableId: `${name}-main`,
  }),
  "aws:ecr/repository:Repository": (name) => ({
    repositoryUrl: `123456789012.dkr.ecr.eu-central-1.amazonaws.com/${name}`,
    registryId: "123456789012",
  }),
};

const calls: Record<string, (inputs: Record<string, unknown>) => Record<string, unknown>> = {
  "aws:index/getAvailabilityZones:getAvailabilityZones": () => ({
    names: ["eu-central-1a", "eu-central-1b", "eu-central-1c"],
  }),
  "aws:index/getCallerIdentity:getCallerIdentity": () => ({ accountId: "123456789012" }),
  "aws:index/getPartition:getPartition": () => ({ partition: "aws", dnsSuffix: "amazonaws.com" }),
  "aws:ssm/getParameter:getParameter": () => ({ insecureValue: "ami-0123456789abcdef0" }),
};

/** Runs index.ts under mocks, once a process, and returns what it registered. */
export async function runProgram(
  config: Record<string, string>,
  stack = "local",
): Promise<{
  readonly resources: readonly Registration[];
  readonly urns: readonly string[];
  readonly exports: Record<string, unknown>;
}> {
  const resources: Registration[] = [];
  const urns: string[] = [];
  pulumi.runtime.setAllConfig({ ...testSecrets, ...config }, [
    ...Object.keys(testSecrets),
    "siem-ha:jwtSecretPrevious",
  ]);
  await pulumi.runtime.setMocks(
    {
      newResource: (args) => {
        urns.push(`${args.type}::${args.name}`);
        // Components come with no type of a provider; the engine's own stack resource too.
        if (args.custom === false || args.type.startsWith("siem:") || args.type === "pulumi:pulumi:Stack") {
          return { id: "", state: {} };
        }
        const fill =
          outputs[args.type] ??
          (args.type.startsWith("aws:")
            ? (inputs: Record<string, unknown>) => ({
                ...inputs,
                arn: `arn:aws:mock:eu-central-1:123456789012:${args.type.split(":").at(-1)}/${args.name}`,
                ...awsOutputs[args.type]?.(args.name),
              })
            : undefined);
        if (fill === undefined) throw new Error(`the mocks don't know ${args.type}: say what it returns`);
        resources.push({
          type: args.type,
          name: args.name,
          inputs: args.inputs as Record<string, unknown>,
          provider: args.provider,
        });
        return { id: `${args.name}-id`, state: fill(args.inputs as Record<string, unknown>) };
      },
      call: (args) => {
        const answer = calls[args.token];
        if (answer === undefined || stack === "local") {
          throw new Error(`the program calls ${args.token}, which the mocks don't know: say what it answers`);
        }
        return answer(args.inputs as Record<string, unknown>);
      },
    },
    "siem-ha",
    stack,
    false,
  );
  const exports = (await import("../index.ts")) as Record<string, unknown>;
  // Waits until every registration has been answered.
  await pulumi.runtime.disconnect();
  return { resources, urns, exports };
}
