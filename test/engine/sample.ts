// A small program with the same kinds of resources as the AWS target: two machines, with containers on each.

import * as aws from "@pulumi/aws";
import * as command from "@pulumi/command";
import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";

const config = new pulumi.Config();
/** Options that tie a container to its machine. */
const tie = (config.get("tie") ?? "deletedWith replaceWith replacementTrigger").split(" ");
/** Lets a destroy through. */
const protect = config.getBoolean("unprotected") !== true;
const secret = config.requireSecret("password");

const provider = new aws.Provider("aws", {
  region: "eu-central-1",
  defaultTags: { tags: { project: "sample" } },
});
const inAws = { provider };
const ami = aws.ssm.getParameterOutput(
  { name: "/aws/service/debian/release/12/latest/amd64" },
  { provider },
).value;
const vpc = new aws.ec2.Vpc("vpc", { cidrBlock: config.get("cidr") ?? "10.42.0.0/16" }, inAws);
const gateway = new aws.ec2.InternetGateway("gateway", { vpcId: vpc.id }, inAws);
const publicSubnet = new aws.ec2.Subnet(
  "public",
  { vpcId: vpc.id, cidrBlock: "10.42.0.0/24", availabilityZone: "eu-central-1a" },
  inAws,
);
const address = new aws.ec2.Eip("nat", { domain: "vpc" }, { ...inAws, dependsOn: [gateway] });
const nat = new aws.ec2.NatGateway(
  "nat",
  { allocationId: address.allocationId, subnetId: publicSubnet.id },
  { ...inAws, dependsOn: [gateway] },
);
const privateSubnet = new aws.ec2.Subnet(
  "private",
  { vpcId: vpc.id, cidrBlock: "10.42.16.0/20", availabilityZone: "eu-central-1a" },
  inAws,
);
const group = new aws.ec2.SecurityGroup("machines", { vpcId: vpc.id, description: "machines" }, inAws);

const all: pulumi.Resource[] = [group];
let before: pulumi.Resource[] = [nat];
for (const index of [1, 2]) {
  const name = `node-${index}`;
  const eni = new aws.ec2.NetworkInterface(
    name,
    { subnetId: privateSubnet.id, privateIps: [`10.42.16.${10 + index}`], securityGroups: [group.id] },
    inAws,
  );
  const data = new aws.ebs.Volume(
    name,
    { availabilityZone: "eu-central-1a", size: 20, encrypted: true, type: "gp3" },
    { ...inAws, protect },
  );
  const machine = new aws.ec2.Instance(
    name,
    {
      ami,
      instanceType: "t3.medium",
      primaryNetworkInterface: { networkInterfaceId: eni.id },
      userData: pulumi.interpolate`#cloud-config\n# ${data.id}`,
    },
    { ...inAws, deleteBeforeReplace: true, ignoreChanges: ["ami", "userData"], dependsOn: [nat] },
  );
  const attachment = new aws.ec2.VolumeAttachment(
    name,
    {
      instanceId: machine.id,
      volumeId: data.id,
      deviceName: "/dev/xvdf",
      stopInstanceBeforeDetaching: true,
    },
    { ...inAws, deleteBeforeReplace: true },
  );
  const ready = new command.local.Command(`${name}-ready`, {
    create: "until answers; do sleep 1; done",
    environment: { MACHINE: machine.id },
    triggers: [machine.id],
  });
  const daemon = new docker.Provider(`${name}-docker`, {
    host: pulumi.all([machine.id, ready.stdout]).apply(([id]) => `ssh://ops@${id}`),
    disableDockerDaemonCheck: true,
  });
  const tied: pulumi.CustomResourceOptions = {
    provider: daemon,
    ...(tie.includes("deletedWith") ? { deletedWith: machine } : {}),
    ...(tie.includes("replaceWith") ? { replaceWith: [machine] } : {}),
    ...(tie.includes("replacementTrigger") ? { replacementTrigger: machine.id } : {}),
  };
  const image = new docker.RemoteImage(`${name}-image`, { name: "busybox:1.36.1", keepLocally: true }, tied);
  const volume = new docker.Volume(
    `${name}-data`,
    { name: "data" },
    { provider: daemon, deletedWith: machine, protect },
  );
  const container = { image: image.imageId, destroyGraceSeconds: 10, restart: "always" };
  const anchor = new docker.Container(
    `${name}-anchor`,
    { ...container, name: "anchor", networkMode: "host" },
    { ...tied, deleteBeforeReplace: true, dependsOn: before },
  );
  const guest = new docker.Container(
    `${name}-guest`,
    {
      ...container,
      name: "guest",
      networkMode: pulumi.interpolate`container:${anchor.id}`,
      volumes: [{ volumeName: volume.name, containerPath: "/data" }],
      uploads: [{ file: "/run/secret", content: secret }],
    },
    { ...tied, deleteBeforeReplace: true },
  );
  const gate = new command.local.Command(`${name}-gate`, {
    create: "until docker -H $DOCKER exec guest true; do sleep 1; done",
    environment: { DOCKER: pulumi.interpolate`ssh://ops@${machine.id}` },
    triggers: [guest.id],
  });
  before = [gate];
  all.push(gate, volume, guest, attachment);
}
/** Depends on all the rest, so a destroy begins with it; being protected, it ends there too. */
new aws.ssm.Parameter(
  "guard",
  { name: "/sample/guard", type: "String", insecureValue: "all that this stands for is protected" },
  { ...inAws, protect, dependsOn: all },
);
export const vpcId = vpc.id;
