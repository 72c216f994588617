// One machine on AWS under strict mocks: exact counts, the inputs that matter, and what keeps data and order.

import * as pulumi from "@pulumi/pulumi";
import { beforeAll, describe, expect, it } from "vitest";
import { parseConfig } from "../../components/config.ts";
import { reservedPorts } from "../../components/host/machine.ts";
import { machinePolicy } from "../../components/host/machine-role.ts";
import { publicImages } from "../../components/images.ts";
import { ports } from "../../components/ports.ts";
import { type Node, plan } from "../../components/topology.ts";

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLEEXAMPLE0 operator";
const aws = (tier: "dev" | "prod") => {
  const config = parseConfig({
    target: "aws",
    aws: {
      region: "eu-central-1",
      tier,
      admin: { sshPublicKeys: [key] },
      ...(tier === "prod" ? { alarmEmail: "team@example.com", backup: { retentionDays: 35 } } : {}),
    },
  }).aws;
  if (config === undefined) throw new Error("no aws in the configuration");
  return config;
};
const topology = plan({ machines: { address: (_role, zone) => `10.42.${zone}.31`, vip: "172.25.0.222" } });
const nodeOf = (alias: string): Node => {
  const node = topology.nodes.find((candidate) => candidate.alias === alias);
  if (node === undefined) throw new Error(`no node ${alias}`);
  return node;
};

interface Registration {
  readonly type: string;
  readonly name: string;
  readonly inputs: Record<string, unknown>;
  readonly provider: string | undefined;
}
const knownHost = (id: string) => `${id} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHOSTKEY`;
const arn = "arn:aws:ssm:eu-central-1:123456789012:parameter";
const outputs: Record<string, (inputs: Record<string, unknown>, name: string) => Record<string, unknown>> = {
  "aws:ssm/parameter:Parameter": (inputs) => ({ ...inputs, arn: arn + String(inputs["name"]) }),
  "aws:iam/role:Role": (inputs, name) => ({ ...inputs, name: `${name}-role` }),
  "aws:iam/rolePolicy:RolePolicy": (inputs) => inputs,
  "aws:iam/instanceProfile:InstanceProfile": (inputs, name) => ({ ...inputs, name: `${name}-profile` }),
  "aws:ec2/networkInterface:NetworkInterface": (inputs) => inputs,
  "aws:ebs/volume:Volume": (inputs) => inputs,
  "aws:ec2/instance:Instance": (inputs) => inputs,
  "aws:ec2/volumeAttachment:VolumeAttachment": (inputs) => inputs,
  "aws:cloudwatch/metricAlarm:MetricAlarm": (inputs) => inputs,
  "command:local:Command": (inputs) => {
    const environment = inputs["environment"] as Record<string, string>;
    return { ...inputs, stdout: `${knownHost(environment["INSTANCE"] ?? "")}\n`, stderr: "" };
  },
  "docker:index/remoteImage:RemoteImage": (inputs) => ({
    ...inputs,
    imageId: `sha256:${String(inputs["name"])}`,
  }),
  "pulumi:providers:docker": (inputs) => inputs,
};

/** Makes one machine; options come from a transformation, because mocks don't see them. */
async function make(alias: string, tier: "dev" | "prod") {
  const resources: Registration[] = [];
  const options = new Map<string, pulumi.CustomResourceOptions>();
  await pulumi.runtime.setMocks(
    {
      newResource: ({ type, name, inputs, provider }) => {
        if (type.startsWith("siem:") || type === "pulumi:pulumi:Stack") return { id: "", state: {} };
        const fill = outputs[type];
        if (fill === undefined) throw new Error(`the mocks don't know ${type}: say what it returns`);
        resources.push({ type, name, inputs: inputs as Record<string, unknown>, provider });
        const id = type === "aws:ec2/instance:Instance" ? "i-0123456789abcdef0" : `${name}-id`;
        const made = type === "aws:ebs/volume:Volume" ? "vol-0123456789abcdef0" : id;
        return { id: made, state: fill(inputs as Record<string, unknown>, name) };
      },
      call: ({ token }) => {
        throw new Error(`a machine calls ${token}`);
      },
    },
    "siem-ha",
    tier,
    false,
  );
  const { Machine } = await import("../../components/host/machine.ts");
  const node = nodeOf(alias);
  const route = new pulumi.ComponentResource("siem:test:Route", "route");
  const asked: string[] = [];
  const machine = new Machine(
    alias,
    {
      config: aws(tier),
      stack: tier,
      node,
      zone: `eu-central-1${"abc"[node.zone - 1]}`,
      subnetId: "subnet-1",
      securityGroupIds: ["sg-1"],
      ami: "ami-1",
      ...(node.role === "lb" ? { policies: { vip: '{"Version":"2012-10-17"}' }, metadataUid: 4711 } : {}),
      kmsKeyId: tier === "prod" ? "arn:aws:kms:eu-central-1:123456789012:key/1" : undefined,
      proxyCommand: pulumi.output("tunnel %h"),
      waitFor: [route],
      alarmTopicArn: tier === "prod" ? "arn:aws:sns:eu-central-1:123456789012:alarms" : undefined,
      ownImage: (name) => {
        asked.push(name);
        return pulumi.output(`image-${name}`);
      },
    },
    {
      transformations: [
        ({ type, name, opts }) => {
          options.set(`${type}::${name}`, opts);
          return undefined;
        },
      ],
    },
  );
  for (const image of ["anchor", "haproxy", "haproxy"] as const) machine.image(image);
  for (const image of ["keepalived", "keepalived"] as const) machine.ownImage(image);
  const value = <T>(output: pulumi.Input<T>) =>
    new Promise<T>((resolve) => pulumi.output(output).apply((known) => resolve(known as T)));
  const address = await value(machine.address);
  const environment = await value(pulumi.all(machine.environment));
  await pulumi.runtime.disconnect();
  const ofType = (type: string) => resources.filter((resource) => resource.type === type);
  const only = (type: string): Registration => {
    const [found, ...more] = ofType(type);
    if (found === undefined || more.length > 0) throw new Error(`${more.length + 1} of ${type}, not one`);
    return found;
  };
  const optionsOf = (type: string) => options.get(`${type}::${only(type).name}`);
  return { resources, ofType, only, optionsOf, address, environment, asked, route };
}
type Made = Awaited<ReturnType<typeof make>>;

describe("a load balancer's machine in production", () => {
  let made: Made;
  beforeAll(async () => (made = await make("lb-node-1", "prod")));
  const instance = () => made.only("aws:ec2/instance:Instance").inputs;

  it("has exactly these resources", () => {
    const counts: Record<string, number> = {};
    for (const { type } of made.resources) counts[type] = (counts[type] ?? 0) + 1;
    expect(counts).toEqual({
      "aws:ssm/parameter:Parameter": 1,
      "aws:iam/role:Role": 1,
      // Its own rights, and the VIP's.
      "aws:iam/rolePolicy:RolePolicy": 2,
      "aws:iam/instanceProfile:InstanceProfile": 1,
      "aws:ec2/networkInterface:NetworkInterface": 1,
      "aws:ebs/volume:Volume": 1,
      "aws:ec2/instance:Instance": 1,
      "aws:ec2/volumeAttachment:VolumeAttachment": 1,
      "aws:cloudwatch/metricAlarm:MetricAlarm": 2,
      "command:local:Command": 1,
      "pulumi:providers:docker": 1,
      // Each image once, however often it is asked for.
      "docker:index/remoteImage:RemoteImage": 2,
    });
    expect(made.asked).toEqual(["keepalived"]);
  });

  it("has its own network interface with the node's address, and takes packets for the VIP", () => {
    const { inputs } = made.only("aws:ec2/networkInterface:NetworkInterface");
    expect(inputs).toMatchObject({
      privateIps: ["10.42.1.31"],
      subnetId: "subnet-1",
      securityGroups: ["sg-1"],
      sourceDestCheck: false,
    });
    expect(instance()["primaryNetworkInterface"]).toEqual({ networkInterfaceId: "lb-node-1-id" });
  });

  it("gives out credentials only to the new metadata protocol, and only on the machine itself", () => {
    expect(instance()["metadataOptions"]).toMatchObject({
      httpTokens: "required",
      httpPutResponseHopLimit: 1,
    });
  });

  it("encrypts both disks with the given key", () => {
    const kmsKeyId = "arn:aws:kms:eu-central-1:123456789012:key/1";
    expect(instance()["rootBlockDevice"]).toMatchObject({ encrypted: true, volumeType: "gp3", kmsKeyId });
    expect(made.only("aws:ebs/volume:Volume").inputs).toMatchObject({
      encrypted: true,
      type: "gp3",
      kmsKeyId,
      size: 20,
      availabilityZone: "eu-central-1a",
      tags: { Name: "prod-lb-node-1-data", "siem-ha:backup": "prod" },
    });
  });

  it("keeps the data disk whatever happens, and the machine from being terminated by mistake", () => {
    expect(made.optionsOf("aws:ebs/volume:Volume")).toMatchObject({ protect: true, retainOnDelete: true });
    expect(made.optionsOf("aws:ec2/instance:Instance")).toMatchObject({ protect: true });
    expect(instance()["disableApiTermination"]).toBe(true);
  });

  it("is not replaced by a newer image or another first boot, and never stands beside its successor", () => {
    expect(made.optionsOf("aws:ec2/instance:Instance")).toMatchObject({
      ignoreChanges: ["ami", "userData", "userDataBase64", "instanceType", "sourceDestCheck"],
      deleteBeforeReplace: true,
    });
  });

  it("is stopped before its disk is taken away", () => {
    const { inputs } = made.only("aws:ec2/volumeAttachment:VolumeAttachment");
    expect(inputs).toMatchObject({ stopInstanceBeforeDetaching: true, volumeId: "vol-0123456789abcdef0" });
    expect(made.optionsOf("aws:ec2/volumeAttachment:VolumeAttachment")).toMatchObject({
      deleteBeforeReplace: true,
    });
  });

  it("starts only when it can reach the internet and has its rights", () => {
    const waits = made.optionsOf("aws:ec2/instance:Instance")?.dependsOn as pulumi.Resource[];
    expect(waits).toHaveLength(1 + 2);
    expect(waits).toContain(made.route);
  });

  it("has the disk's id and the hook's user in its first boot", () => {
    expect(instance()["userData"]).toContain("Amazon_Elastic_Block_Store_vol0123456789abcdef0");
    expect(instance()["userData"]).toContain("meta skuid 4711 accept");
  });

  it("recovers on other hardware and reboots, and tells the topic both times", () => {
    const alarms = made.ofType("aws:cloudwatch/metricAlarm:MetricAlarm").map(({ inputs }) => inputs);
    const topic = "arn:aws:sns:eu-central-1:123456789012:alarms";
    expect(alarms.map((alarm) => [alarm["metricName"], alarm["alarmActions"], alarm["dimensions"]])).toEqual([
      [
        "StatusCheckFailed_System",
        ["arn:aws:automate:eu-central-1:ec2:recover", topic],
        { InstanceId: "i-0123456789abcdef0" },
      ],
      [
        "StatusCheckFailed_Instance",
        ["arn:aws:automate:eu-central-1:ec2:reboot", topic],
        { InstanceId: "i-0123456789abcdef0" },
      ],
    ]);
  });

  it("lets the machine write its own parameter, which a deployment never overwrites", () => {
    expect(made.only("aws:ssm/parameter:Parameter").inputs).toMatchObject({
      name: "/siem-ha/prod/host-keys/lb-node-1",
      type: "String",
    });
    expect(made.optionsOf("aws:ssm/parameter:Parameter")?.ignoreChanges).toContain("insecureValue");
    const own = made
      .ofType("aws:iam/rolePolicy:RolePolicy")
      .find(({ name }) => name === "lb-node-1-role-machine");
    expect(own?.inputs["policy"]).toBe(machinePolicy(`${arn}/siem-ha/prod/host-keys/lb-node-1`));
  });

  it("waits for each new machine, and connects Docker only with what that gave", () => {
    const { inputs } = made.only("command:local:Command");
    expect(inputs["triggers"]).toEqual(["i-0123456789abcdef0"]);
    const ready = made.optionsOf("command:local:Command")?.dependsOn as pulumi.Resource[];
    expect(ready).toHaveLength(1 + 2);
    const provider = made.only("pulumi:providers:docker").inputs;
    expect(provider["host"]).toBe("ssh://ops@i-0123456789abcdef0");
    // The engine hands providers' lists on as JSON.
    expect(JSON.stringify(provider["sshOpts"])).toContain(
      `KnownHostsCommand=/bin/echo ${knownHost("i-0123456789abcdef0")}`,
    );
    expect(String(provider["disableDockerDaemonCheck"])).toBe("true");
    expect(made.address).toBe("ssh://ops@i-0123456789abcdef0");
  });

  it("tells the docker command its key, under a name of its own", () => {
    expect(Object.keys(made.environment).sort()).toEqual([
      "SIEM_HA_KNOWN_HOST_LB_NODE_1",
      "SIEM_HA_SSH_OPTIONS",
    ]);
    expect(made.environment["SIEM_HA_KNOWN_HOST_LB_NODE_1"]).toBe(knownHost("i-0123456789abcdef0"));
  });

  it("has nothing of the deploying machine in any input", () => {
    const text = JSON.stringify(made.resources);
    expect(text).not.toContain(process.cwd());
    expect(text).not.toContain(process.env["HOME"]);
  });

  it("pulls images through its own daemon, and again on a new machine", () => {
    for (const { name, inputs, provider } of made.ofType("docker:index/remoteImage:RemoteImage")) {
      expect(Object.values<unknown>(publicImages)).toContain(inputs["name"]);
      expect(provider, name).toContain("lb-node-1-docker");
    }
  });
});

describe("a machine of a development stack", () => {
  let made: Made;
  beforeAll(async () => (made = await make("store-node-2", "dev")));

  it("can be taken down without lifting anything", () => {
    for (const type of ["aws:ebs/volume:Volume", "aws:ec2/instance:Instance"]) {
      expect(made.optionsOf(type)?.protect, type).toBe(false);
    }
    expect(made.optionsOf("aws:ebs/volume:Volume")?.retainOnDelete).toBe(false);
    expect(made.only("aws:ec2/instance:Instance").inputs["disableApiTermination"]).toBe(false);
  });

  it("is encrypted all the same, with AWS's own key", () => {
    const volume = made.only("aws:ebs/volume:Volume").inputs;
    expect(volume["encrypted"]).toBe(true);
    expect(volume).not.toHaveProperty("kmsKeyId");
  });

  it("takes only packets that are meant for it, and no container may use its credentials", () => {
    expect(made.only("aws:ec2/networkInterface:NetworkInterface").inputs["sourceDestCheck"]).toBe(true);
    expect(made.only("aws:ec2/instance:Instance").inputs["userData"]).not.toContain("skuid 4711");
  });

  it("is of its role's type and in its zone", () => {
    expect(made.only("aws:ec2/instance:Instance").inputs["instanceType"]).toBe("m6i.xlarge");
    expect(made.only("aws:ebs/volume:Volume").inputs).toMatchObject({
      size: 200,
      availabilityZone: "eu-central-1b",
    });
  });

  it("recovers without a topic to tell", () => {
    for (const { inputs } of made.ofType("aws:cloudwatch/metricAlarm:MetricAlarm")) {
      expect(inputs["alarmActions"]).toHaveLength(1);
      expect(inputs).not.toHaveProperty("okActions");
    }
  });
});

describe("the third load balancer node, which never holds the VIP", () => {
  it("takes only packets that are meant for it", async () => {
    const made = await make("lb-node-3", "dev");
    expect(made.only("aws:ec2/networkInterface:NetworkInterface").inputs["sourceDestCheck"]).toBe(true);
  });
});

describe("the rights of every machine", () => {
  const statements = (
    JSON.parse(machinePolicy(`${arn}/siem-ha/prod/host-keys/lb-node-1`)) as {
      Statement: { Action: string | string[]; Resource: string; Effect: string }[];
    }
  ).Statement;
  it("write one parameter, its own", () => {
    const puts = statements.filter(({ Action }) =>
      [Action].flat().some((action) => action.startsWith("ssm:Put")),
    );
    expect(puts.map(({ Resource }) => Resource)).toEqual([`${arn}/siem-ha/prod/host-keys/lb-node-1`]);
  });
  it("read no parameter, and have no wildcard but for Session Manager's channels", () => {
    const actions = statements.flatMap(({ Action }) => [Action].flat());
    expect(actions.filter((action) => action.includes("*") || action.includes("Get"))).toEqual([]);
    const everywhere = statements.filter(({ Resource }) => Resource === "*");
    expect(
      everywhere.flatMap(({ Action }) => [Action].flat()).every((a) => a.startsWith("ssmmessages:")),
    ).toBe(true);
  });
});

describe("reserved ports", () => {
  it("are all of ours that Linux would give to clients' connections", () => {
    expect(reservedPorts).toContain(55000);
    for (const { number } of Object.values(ports)) {
      if (number >= 32768 && number <= 60999) expect(reservedPorts).toContain(number);
    }
  });
});
