// The configurations of dev and prod that the tests of the whole AWS program run with.

export const operatorKey = `ssh-ed25519 ${"A".repeat(68)} operator@example.org`;

const common = { region: "eu-central-1", admin: { sshPublicKeys: [operatorKey] } };

export const dev = { ...common, tier: "dev" };

export const prod = {
  ...common,
  tier: "prod",
  kmsKey: "create",
  alarmEmail: "soc@example.org",
  backup: { retentionDays: 35 },
  entry: {
    clients: ["10.99.0.0/16"],
    loadBalancer: {
      public: true,
      clients: ["0.0.0.0/0"],
      certificateArn:
        "arn:aws:acm:eu-central-1:123456789012:certificate/0a1b2c3d-0000-0000-0000-000000000000",
    },
  },
};

/** The stack's settings as Pulumi hands them over. */
export function settings(aws: object): Record<string, string> {
  return { "siem-ha:target": "aws", "siem-ha:aws": JSON.stringify(aws) };
}
