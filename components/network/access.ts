// How operators and Docker get to the machines, which have no public address: a tunnel of AWS's, or a bastion.

import * as aws from "@pulumi/aws";
import * as command from "@pulumi/command";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { renderBastion } from "../render/bastion.ts";

export interface AccessArgs {
  readonly config: AwsConfig;
  readonly stack: string;
  /** Subnets in the order of the zones. */
  readonly publicSubnetIds: readonly pulumi.Input<string>[];
  readonly privateSubnetIds: readonly pulumi.Input<string>[];
  readonly securityGroupId: pulumi.Input<string>;
  /** Image of the bastion, if there is one. */
  readonly ami: pulumi.Input<string>;
  /** Key of the bastion's disk. @default AWS's own key */
  readonly kmsKeyArn?: pulumi.Input<string> | undefined;
  /** What it can't work without, such as routes and rules. */
  readonly after: readonly pulumi.Resource[];
}

/** The bastion's account; it has no shell. */
const user = "jump";
const bastionTypes: Readonly<Record<AwsConfig["architecture"], string>> = {
  "x86-64": "t3.micro",
  arm64: "t4g.micro",
};

/** One way in. The other, without any port, is the SSM agent on every machine. */
export class Access extends pulumi.ComponentResource {
  /** OpenSSH's ProxyCommand, with `%h` for the id of the instance. */
  readonly proxyCommand: pulumi.Output<string>;
  readonly ready: readonly pulumi.Resource[];

  constructor(name: string, args: AccessArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:network:Access", name, {}, opts);
    const { config } = args;
    if (config.admin.access === "instance-connect") {
      this.ready = [this.#endpoint(name, args)];
      this.proxyCommand = pulumi.output(tunnelCommand(config.region));
    } else {
      const bastion = this.#bastion(name, args);
      this.ready = bastion.ready;
      this.proxyCommand = bastion.proxyCommand;
    }
    this.registerOutputs();
  }

  #endpoint(name: string, args: AccessArgs): pulumi.Resource {
    return new aws.ec2transitgateway.InstanceConnectEndpoint(
      name,
      {
        // The last zone has no load balancer of the pair: one lost zone never takes the way in and the holder.
        subnetId: last(args.privateSubnetIds, "private"),
        securityGroupIds: [args.securityGroupId],
        // The machines' rule names this endpoint's group, which works only for its own address.
        preserveClientIp: false,
        tags: { Name: `${args.stack}-access` },
      },
      { parent: this, dependsOn: [...args.after] },
    );
  }

  #bastion(
    name: string,
    args: AccessArgs,
  ): { proxyCommand: pulumi.Output<string>; ready: readonly pulumi.Resource[] } {
    const { config, stack } = args;
    const tags = { Name: `${stack}-bastion` };
    const instance = new aws.ec2.Instance(
      `${name}-bastion`,
      {
        ami: args.ami,
        instanceType: bastionTypes[config.architecture],
        subnetId: last(args.publicSubnetIds, "public"),
        vpcSecurityGroupIds: [args.securityGroupId],
        userData: renderBastion({ user, sshPublicKeys: config.admin.sshPublicKeys }),
        // It has no role: there is nothing in AWS that it may do.
        metadataOptions: { httpEndpoint: "enabled", httpTokens: "required", httpPutResponseHopLimit: 1 },
        rootBlockDevice: {
          volumeType: "gp3",
          encrypted: true,
          deleteOnTermination: true,
          ...(args.kmsKeyArn === undefined ? {} : { kmsKeyId: args.kmsKeyArn }),
        },
        tags,
        volumeTags: tags,
      },
      // A newer image or another key alone replaces nobody's way in.
      { parent: this, dependsOn: [...args.after], ignoreChanges: ["ami", "userData", "userDataBase64"] },
    );
    // An address that survives a stop, because it stands in everybody's ProxyCommand.
    const address = new aws.ec2.Eip(
      `${name}-bastion`,
      { domain: "vpc", instance: instance.id, tags },
      { parent: this, dependsOn: [...args.after] },
    );
    const hostKey = new command.local.Command(
      `${name}-bastion-host-key`,
      {
        create: renderHostKeyCommand(config.region),
        environment: { INSTANCE_ID: instance.id },
        triggers: [instance.id],
      },
      { parent: this },
    );
    return {
      proxyCommand: pulumi
        .all([instance.id, address.publicIp, hostKey.stdout])
        .apply(([id, host, key]) => jumpCommand({ region: config.region, id, host, key })),
      ready: [instance, address, hostKey],
    };
  }
}

/** Through the Instance Connect Endpoint of the instance's VPC; AWS's command finds that by itself. */
export function tunnelCommand(region: string): string {
  return `aws ec2-instance-connect open-tunnel --instance-id %h --region ${region}`;
}

/**
 * Through the bastion, which finds the instance by its id: EC2 gives each a name made of it. The host key is checked
 * against the one given. `ops/ssh/ssh`, if that is the `ssh` found here, must not add the machines' options again.
 */
export function jumpCommand(bastion: {
  readonly region: string;
  readonly id: string;
  readonly host: string;
  /** Its public host key: `ssh-ed25519 AAAA…`. */
  readonly key: string;
}): string {
  const { region, id, host, key } = bastion;
  const domain = region === "us-east-1" ? "ec2.internal" : `${region}.compute.internal`;
  return [
    "env -u SIEM_HA_SSH_OPTIONS ssh",
    "-o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/dev/null -o GlobalKnownHostsFile=/dev/null",
    `-o HostKeyAlgorithms=ssh-ed25519 -o HostKeyAlias=${id} -o "KnownHostsCommand=/bin/echo ${id} ${key}"`,
    `-W %h.${domain}:22 ${user}@${host}`,
  ].join(" ");
}

/** Shell: prints the public host key that cloud-init wrote on the console at the first boot, once it is there. */
export function renderHostKeyCommand(region: string): string {
  return `set -eu
deadline=$(($(date +%s) + 600))
while :; do
  console=$(aws ec2 get-console-output --latest --region ${region} --instance-id "$INSTANCE_ID" --query Output --output text)
  key=$(printf '%s\\n' "$console" | tr -d '\\r' | sed -n '/BEGIN SSH HOST KEY KEYS/,/END SSH HOST KEY KEYS/ s/^.*\\(ssh-ed25519 [A-Za-z0-9+\\/=]\\{68,\\}\\).*$/\\1/p' | tail -n 1)
  if [ -n "$key" ]; then
    printf '%s' "$key"
    exit 0
  fi
  if [ "$(date +%s)" -ge "$deadline" ]; then
    echo "the bastion $INSTANCE_ID has not printed its host key on its console for 10 minutes; look at it with: aws ec2 get-console-output --latest --region ${region} --instance-id $INSTANCE_ID" >&2
    exit 1
  fi
  sleep "\${SIEM_HA_POLL_SECONDS:-10}"
done
`;
}

function last<T>(values: readonly T[], tier: string): T {
  const value = values.at(-1);
  if (value === undefined) throw new Error(`there is no ${tier} subnet for the way in`);
  return value;
}
