// The whole program on AWS under mocks, as the stack prod: a NAT gateway a zone, backups, a public entry, own keys.

import { expect, it } from "vitest";
import { describeStack } from "./program.ts";
import { prod } from "./stack.ts";

describeStack(
  "prod",
  prod,
  {
    "aws:ec2/natGateway:NatGateway": 3,
    "aws:ec2/eip:Eip": 3,
    // As in dev, and the public entry's.
    "aws:ec2/securityGroup:SecurityGroup": 6,
    "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule": 30,
    "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule": 38,
    // As in dev, and those of the flow logs and the snapshots.
    "aws:iam/role:Role": 9 + 1 + 2,
    "aws:iam/rolePolicy:RolePolicy": 9 + 1 + 2 + 2,
    // The alarms' and the data's.
    "aws:kms/key:Key": 2,
    "aws:kms/alias:Alias": 1,
    "aws:cloudwatch/logGroup:LogGroup": 1,
    "aws:ec2/flowLog:FlowLog": 1,
    "aws:sns/topicSubscription:TopicSubscription": 1,
    "aws:dlm/lifecyclePolicy:LifecyclePolicy": 1,
    "aws:s3/bucket:Bucket": 1,
    "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration": 1,
    "aws:s3/bucketOwnershipControls:BucketOwnershipControls": 1,
    "aws:s3/bucketPolicy:BucketPolicy": 1,
    "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock": 1,
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration": 1,
    "aws:s3/bucketVersioning:BucketVersioning": 1,
    "aws:lb/loadBalancer:LoadBalancer": 1,
    "aws:lb/listener:Listener": 2,
    "aws:lb/targetGroup:TargetGroup": 2,
    "aws:lb/targetGroupAttachment:TargetGroupAttachment": 4,
  },
  (ofType) => {
    it("can't be terminated by mistake, and encrypts with the stack's own key", () => {
      for (const { name, inputs } of ofType("aws:ec2/instance:Instance")) {
        expect(inputs["disableApiTermination"], name).toBe(true);
        expect(JSON.stringify(inputs["rootBlockDevice"]), name).toMatch(/"kmsKeyId":"arn:aws:mock.*\/data"/);
      }
      for (const { name, inputs } of ofType("aws:ebs/volume:Volume")) {
        expect(inputs["encrypted"], name).toBe(true);
        expect(inputs["kmsKeyId"], name).toMatch(/\/data$/);
      }
    });

    it("takes TLS at its public entry, and nothing else", () => {
      for (const { name, inputs } of ofType("aws:lb/listener:Listener")) {
        expect(inputs["protocol"], name).toBe("TLS");
      }
    });
  },
);
