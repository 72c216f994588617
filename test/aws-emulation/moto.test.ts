// The emulator itself: what the other tests lean on is really checked, so that they can fail.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { account, field, type Moto, startMoto, withoutMoto } from "./moto.ts";

const region = "eu-central-1";

describe.skipIf(await withoutMoto())("moto", () => {
  let moto: Moto;
  beforeAll(async () => {
    moto = await startMoto();
  });
  afterAll(() => moto.stop());

  it("makes things, each in its region", async () => {
    const vpc = field(await moto.call("ec2", region, "CreateVpc", { CidrBlock: "10.42.0.0/16" }), "vpcId");
    expect(await moto.call("ec2", region, "DescribeVpcs")).toContain(vpc);
    expect(await moto.call("ec2", "us-east-1", "DescribeVpcs")).not.toContain(vpc);
  });

  it("refuses in AWS's words", async () => {
    await expect(
      moto.call("ec2", region, "ReplaceRoute", {
        RouteTableId: "rtb-0",
        DestinationCidrBlock: "172.25.0.222/32",
      }),
    ).rejects.toThrow("InvalidRouteTableID.NotFound");
  });

  it("speaks the JSON APIs", async () => {
    const Name = "/siem-ha/test/host-keys/lb-node-1";
    await moto.callJson("ssm", region, "AmazonSSM.PutParameter", { Name, Value: "x", Type: "String" });
    expect(await moto.callJson("ssm", region, "AmazonSSM.GetParameter", { Name })).toMatchObject({
      Parameter: { Value: "x" },
    });
  });

  it("checks signatures once it is told to, until it is told not to", async () => {
    expect(await moto.call("sts", region, "GetCallerIdentity")).toContain(account);
    await moto.resetAuth();
    expect((await moto.tryCall("ec2", region, "DescribeVpcs")).status).toBe(401);
    await moto.resetAuth(Infinity);
    expect((await moto.tryCall("ec2", region, "DescribeVpcs")).status).toBe(200);
  });
});
