// The whole program on AWS under mocks, as the stack dev: one NAT gateway, nothing protected.

import { expect, it } from "vitest";
import { describeStack } from "./program.ts";
import { dev } from "./stack.ts";

describeStack(
  "dev",
  dev,
  {
    "aws:ec2/natGateway:NatGateway": 1,
    "aws:ec2/eip:Eip": 1,
    // Three roles, the way in, the endpoint.
    "aws:ec2/securityGroup:SecurityGroup": 5,
    // Golden files hold them one by one.
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": 26,
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": 36,
    // A machine's each, and the one that pulls images; what each may do, and the VIP's on two machines.
    "aws:iam/role:Role": 9 + 1,
    "aws:iam/rolePolicy:RolePolicy": 9 + 1 + 2,
    // The alarms' key: AWS's own lets no alarm through.
    "aws:kms/key:Key": 1,
  },
  (ofType) => {
    it("can be thrown away", () => {
      for (const { name, inputs } of ofType("aws:ec2/instance:Instance")) {
        expect(inputs["disableApiTermination"], name).toBe(false);
      }
    });
  },
);
