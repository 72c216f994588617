// One machine on AWS: an instance with an address, a data disk and a role of its own, and the Docker daemon on it.

import * as aws from "@pulumi/aws";
import * as command from "@pulumi/command";
import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { type AwsConfig } from "../config.ts";
import { type OwnImage, publicImages } from "../images.ts";
import { futurePorts, ports } from "../ports.ts";
import { hostKeyParameter, readyMarker, renderCloudInit } from "../render/cloud-init.ts";
import { balancers, type Node } from "../topology.ts";
import { tiedTo } from "./guest.ts";
import { type Host } from "./host.ts";
import { MachineRole } from "./machine-role.ts";
import {
  daemonAddress,
  knownHostVariable,
  operator,
  providerOptions,
  sshOptionsEnvironment,
  wrapperFirst,
} from "./ssh.ts";

export interface MachineArgs {
  readonly config: AwsConfig;
  /** Name of the stack: part of every name and tag. */
  readonly stack: string;
  readonly node: Node;
  /** Name of the availability zone. */
  readonly zone: string;
  /** The zone's private subnet, in which the node's address lies. */
  readonly subnetId: pulumi.Input<string>;
  readonly securityGroupIds: readonly pulumi.Input<string>[];
  /** Image that the machine is made from; see `debianImage`. */
  readonly ami: pulumi.Input<string>;
  /** What the machine may do besides what every machine may: IAM documents by purpose. @default nothing */
  readonly policies?: Readonly<Record<string, pulumi.Input<string>>>;
  /** User in a container that may use the machine's credentials. @default no container may */
  readonly metadataUid?: number;
  /** ARN of the key for the disks. @default AWS's own key */
  readonly kmsKeyId?: pulumi.Input<string> | undefined;
  /** OpenSSH's ProxyCommand to the machine; `%h` is its id. */
  readonly proxyCommand: pulumi.Input<string>;
  /** What must stand before a machine can set itself up: routes to the internet, the way in. */
  readonly waitFor: readonly pulumi.Resource[];
  /** Topic that is told when the machine fails a check. @default it is recovered without telling anybody */
  readonly alarmTopicArn?: pulumi.Input<string> | undefined;
  /** Brings one of our own images to the machine and gives its reference there. */
  readonly ownImage: (name: OwnImage, machine: Host) => pulumi.Output<string>;
}

/** How long a new machine may take to install itself, seconds. */
const readySeconds = 900;

/** Size of the system's disk, with the images on it, GiB. */
export const systemGb = 30;

/** From here on ports are given to clients' connections (Linux's default). */
const ephemeral = { from: 32768, to: 60999 };

/** Ports of ours that would otherwise be given to clients' connections. */
export const reservedPorts: readonly number[] = [
  ...Object.values(ports).map((port) => port.number),
  ...futurePorts,
].filter((port) => port >= ephemeral.from && port <= ephemeral.to);

/** Id of Debian 12's newest image for the configured processors, as Debian publishes it. */
export function debianImage(
  config: Pick<AwsConfig, "architecture">,
  opts: pulumi.InvokeOutputOptions,
): pulumi.Output<string> {
  const architecture = config.architecture === "arm64" ? "arm64" : "amd64";
  const name = `/aws/service/debian/release/12/latest/${architecture}`;
  return aws.ssm.getParameterOutput({ name }, opts).insecureValue;
}

export class Machine extends pulumi.ComponentResource implements Host {
  readonly provider: docker.Provider;
  readonly address: pulumi.Output<string>;
  readonly environment: Readonly<Record<string, pulumi.Output<string>>>;
  readonly stack: string;
  /** The instance: what is on it goes with it. */
  readonly machine: aws.ec2.Instance;
  /** The network interface, which outlives the instance: routes to the virtual IP point to it. */
  readonly interfaceId: pulumi.Output<string>;
  /** The data disk, which outlives the instance too. */
  readonly volume: aws.ebs.Volume;
  readonly #alias: string;
  readonly #bringOwn: MachineArgs["ownImage"];
  readonly #images = new Map<keyof typeof publicImages, pulumi.Output<string>>();
  readonly #ownImages = new Map<OwnImage, pulumi.Output<string>>();

  constructor(name: string, args: MachineArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:host:Machine", name, {}, opts);
    const { config, node, stack, kmsKeyId } = args;
    const prod = config.tier === "prod";
    const tags = { Name: `${stack}-${node.alias}` };
    this.stack = stack;
    this.#alias = node.alias;
    this.#bringOwn = args.ownImage;

    const hostKey = new aws.ssm.Parameter(
      `${name}-host-key`,
      {
        name: hostKeyParameter(stack, node),
        description: `Id and public SSH host key of ${node.alias}; the machine writes it itself`,
        type: "String",
        insecureValue: "not published yet",
        tags,
      },
      { parent: this, ignoreChanges: ["insecureValue", "value"] },
    );
    const role = new MachineRole(
      `${name}-role`,
      { stack, node, hostKeyArn: hostKey.arn, policies: args.policies },
      { parent: this },
    );
    const networkInterface = new aws.ec2.NetworkInterface(
      name,
      {
        subnetId: args.subnetId,
        privateIps: [node.address],
        securityGroups: [...args.securityGroupIds],
        // A holder of the virtual IP gets packets for an address that is not its own.
        sourceDestCheck: !(node.role === "lb" && node.index <= balancers),
        description: `siem-ha ${stack} ${node.alias}`,
        tags,
      },
      { parent: this },
    );
    this.interfaceId = networkInterface.id;
    this.volume = new aws.ebs.Volume(
      `${name}-data`,
      {
        availabilityZone: args.zone,
        type: "gp3",
        size: config[node.role].dataGb,
        encrypted: true,
        ...(kmsKeyId === undefined ? {} : { kmsKeyId }),
        tags: { Name: `${stack}-${node.alias}-data`, "siem-ha:backup": stack },
      },
      { parent: this, protect: prod, retainOnDelete: prod },
    );
    const userData = (volumeId: string) =>
      renderCloudInit({ node, stack, config, volumeId, reservedPorts, metadataUid: args.metadataUid });
    // A preview doesn't know the volume's id, and shall fail all the same where there are too many keys.
    userData("vol-00000000000000000");
    const instance = new aws.ec2.Instance(
      name,
      {
        ami: args.ami,
        instanceType: config[node.role].type,
        iamInstanceProfile: role.profile,
        primaryNetworkInterface: { networkInterfaceId: networkInterface.id },
        metadataOptions: {
          httpEndpoint: "enabled",
          httpTokens: "required",
          httpPutResponseHopLimit: 1,
          instanceMetadataTags: "disabled",
        },
        rootBlockDevice: {
          volumeType: "gp3",
          volumeSize: systemGb,
          encrypted: true,
          ...(kmsKeyId === undefined ? {} : { kmsKeyId }),
          deleteOnTermination: true,
          tags: { Name: `${stack}-${node.alias}-system` },
        },
        // The bastion finds a machine by `<id>.<region>.compute.internal`.
        privateDnsNameOptions: { hostnameType: "ip-name", enableResourceNameDnsARecord: true },
        maintenanceOptions: { autoRecovery: "default" },
        monitoring: true,
        disableApiTermination: prod,
        userData: this.volume.id.apply(userData),
        userDataReplaceOnChange: false,
        tags,
      },
      {
        parent: this,
        protect: prod,
        // A newer image, first boot or size is for the next machine: a change of size stops the machine, and would
        // stop all three of a role at once. `replace-node` brings them, one machine at a time.
        // And what the interface says of itself stays: the provider would put its own default for the instance over
        // it at the second up, and no packet to the virtual IP would arrive (terraform-provider-aws issue 44768).
        ignoreChanges: ["ami", "userData", "userDataBase64", "instanceType", "sourceDestCheck"],
        // Two machines can't have one network interface.
        deleteBeforeReplace: true,
        dependsOn: [...args.waitFor, ...role.ready],
      },
    );
    this.machine = instance;
    instance.instanceType.apply((type) => {
      if (type === config[node.role].type) return;
      void pulumi.log.warn(
        `${node.alias} is of type ${type}, and the configuration says ${config[node.role].type}: npm run replace-node -- -s ${stack} ${node.alias} brings it`,
        this,
      );
    });
    const attachment = new aws.ec2.VolumeAttachment(
      `${name}-data`,
      {
        deviceName: "/dev/sdf",
        volumeId: this.volume.id,
        instanceId: instance.id,
        // A disk that is taken from a running machine loses what was not written yet.
        stopInstanceBeforeDetaching: true,
      },
      { parent: this, deleteBeforeReplace: true },
    );
    this.#watch(name, args, hostKey.arn);

    const ready = new command.local.Command(
      `${name}-ready`,
      {
        create: renderReadiness(node, config, stack),
        environment: {
          INSTANCE: instance.id,
          ...optionsEnvironment(args.proxyCommand),
        },
        triggers: [instance.id],
      },
      { parent: this, dependsOn: [attachment, ...role.ready] },
    );
    const knownHost = ready.stdout.apply((stdout) => stdout.trim());
    // Whoever uses the address has waited for the machine.
    this.address = pulumi.all([instance.id, knownHost]).apply(([id]) => daemonAddress(id));
    this.environment = { ...optionsEnvironment(args.proxyCommand), [knownHostVariable(node)]: knownHost };
    this.provider = new docker.Provider(
      `${name}-docker`,
      {
        host: this.address,
        sshOpts: pulumi
          .all([args.proxyCommand, knownHost])
          .apply(([proxyCommand, known]) => providerOptions(proxyCommand, known)),
        disableDockerDaemonCheck: true,
      },
      { parent: this },
    );
    this.registerOutputs();
  }

  image(name: keyof typeof publicImages): pulumi.Output<string> {
    return remembered(
      this.#images,
      name,
      () =>
        new docker.RemoteImage(
          `${this.#alias}-image-${name}`,
          // The old version may still be in use when this is replaced.
          { name: publicImages[name], keepLocally: true },
          { parent: this, ...tiedTo(this) },
        ).imageId,
    );
  }

  ownImage(name: OwnImage): pulumi.Output<string> {
    return remembered(this.#ownImages, name, () => this.#bringOwn(name, this));
  }

  /** A machine whose hardware fails moves to other hardware, one whose system hangs is rebooted. */
  #watch(name: string, args: MachineArgs, anyArn: pulumi.Output<string>): void {
    const { node, stack, alarmTopicArn } = args;
    for (const { purpose, metric, action, minutes, what } of [
      { purpose: "hardware", metric: "System", action: "recover", minutes: 2, what: "hardware or network" },
      { purpose: "system", metric: "Instance", action: "reboot", minutes: 3, what: "operating system" },
    ]) {
      new aws.cloudwatch.MetricAlarm(
        `${name}-${purpose}`,
        {
          alarmDescription: `siem-ha ${stack}: ${node.alias} fails the check of its ${what}; AWS does: ${action}`,
          namespace: "AWS/EC2",
          metricName: `StatusCheckFailed_${metric}`,
          dimensions: { InstanceId: this.machine.id },
          statistic: "Maximum",
          comparisonOperator: "GreaterThanOrEqualToThreshold",
          threshold: 1,
          period: 60,
          evaluationPeriods: minutes,
          treatMissingData: "missing",
          alarmActions: [
            anyArn.apply((arn) => {
              const [, partition, , region] = arn.split(":");
              return `arn:${partition}:automate:${region}:ec2:${action}`;
            }),
            ...(alarmTopicArn === undefined ? [] : [alarmTopicArn]),
          ],
          ...(alarmTopicArn === undefined ? {} : { okActions: [alarmTopicArn] }),
          tags: { Name: `${stack}-${node.alias}-${purpose}` },
        },
        { parent: this },
      );
    }
  }
}

function optionsEnvironment(proxyCommand: pulumi.Input<string>): Record<string, pulumi.Output<string>> {
  const known = pulumi.output(proxyCommand).apply(sshOptionsEnvironment);
  return Object.fromEntries(
    Object.keys(sshOptionsEnvironment("")).map((key) => [key, known.apply((all) => all[key] ?? "")]),
  );
}

function remembered<K, V>(map: Map<K, V>, key: K, make: () => V): V {
  const known = map.get(key);
  if (known !== undefined) return known;
  const made = make();
  map.set(key, made);
  return made;
}

/**
 * Shell: waits until the machine `$INSTANCE` has published its host key and is set up, with a Docker daemon that
 * answers; prints its line of known hosts.
 */
export function renderReadiness(
  node: Node,
  config: Pick<AwsConfig, "region">,
  stack: string,
  seconds: number = readySeconds,
): string {
  const parameter = hostKeyParameter(stack, node);
  return `set -eu
${wrapperFirst}
if ! aws --version 2>/dev/null | grep -q '^aws-cli/2'; then
  echo "version 2 of the AWS CLI is needed here, as the command aws: https://docs.aws.amazon.com/cli/" >&2
  exit 1
fi
said=nothing
# The parameter may still hold the key of the machine that was here before.
attempt() {
  known=$(aws ssm get-parameter --region ${config.region} --name ${parameter} --query Parameter.Value --output text 2>&1) || {
    said="its host key can't be read: $known"; return 1; }
  printf '%s\\n' "$known" | grep -Eq "^$INSTANCE ssh-ed25519 [A-Za-z0-9+/=]+$" || {
    said="it has not published its host key yet"; return 1; }
  export ${knownHostVariable(node)}="$known"
  said=$(ssh ${operator}@"$INSTANCE" test -e ${readyMarker} 2>&1) || {
    if [ $? -eq 1 ]; then said="SSH works, but it is still being set up"; fi; return 1; }
  said=$(docker -H "${daemonAddress("$INSTANCE")}" version --format '{{.Server.Version}}' 2>&1) || return 1
}
deadline=$(($(date +%s) + ${seconds}))
until attempt; do
  if [ "$(date +%s)" -ge "$deadline" ]; then
    echo "waited ${seconds} s for ${node.alias}; the last check said: $said" >&2
    echo "what its first boot says: aws ec2 get-console-output --latest --output text --region ${config.region} --instance-id $INSTANCE" >&2
    exit 1
  fi
  sleep 3
done
printf '%s\\n' "$known"
`;
}
