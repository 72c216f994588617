// Our own images on their way to machines that nobody can reach from outside: built and pushed to Amazon's registry by
// the deploying side, pulled by each machine's daemon, by digest.

import * as aws from "@pulumi/aws";
import * as command from "@pulumi/command";
import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { type Platform, publishedTag } from "../../images/build.ts";
import { type AwsConfig } from "../config.ts";
import { type OwnImage, ownImages } from "../images.ts";
import { tiedTo } from "./guest.ts";
import { type Host } from "./host.ts";
import { wrapperFirst } from "./ssh.ts";

/** Versions of an image that the registry keeps; the one that runs is among the newest. */
const keptVersions = 20;

export interface RegistryArgs {
  readonly config: Pick<AwsConfig, "region" | "architecture">;
  readonly stack: string;
  /** ARN of the key that the repositories are encrypted with. @default a key that the registry manages */
  readonly key?: pulumi.Output<string> | undefined;
  /** Images that the team brings instead of ours: pulled as they are, with no repository here. @default all are ours */
  readonly replacements?: Readonly<Partial<Record<OwnImage, string | undefined>>>;
}

export class Registry extends pulumi.ComponentResource {
  readonly #args: RegistryArgs;
  readonly #published = new Map<OwnImage, pulumi.Output<string>>();
  readonly #role: aws.iam.Role;
  readonly #rights: aws.iam.RolePolicy;

  constructor(name: string, args: RegistryArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:host:Registry", name, {}, opts);
    this.#args = args;
    const repositories = ownImages
      .filter((image) => args.replacements?.[image] === undefined)
      .map((image) => this.#makeRepository(image));
    const { accountId } = aws.getCallerIdentityOutput({}, { parent: this });
    const { partition } = aws.getPartitionOutput({}, { parent: this });
    this.#role = new aws.iam.Role(
      `${name}-pull`,
      {
        name: `siem-ha-${args.stack}-pull`,
        description: `siem-ha ${args.stack}: pulls the stack's images; whoever deploys hands its password to a machine`,
        // Who of the account may take it is for the account's own policies to say: they have to allow sts:AssumeRole.
        assumeRolePolicy: pulumi.all([accountId, partition]).apply(([account, part]) =>
          JSON.stringify({
            Version: "2012-10-17",
            Statement: [
              {
                Effect: "Allow",
                Principal: { AWS: `arn:${part}:iam::${account}:root` },
                Action: "sts:AssumeRole",
              },
            ],
          }),
        ),
        tags: { Name: `${args.stack}-${name}-pull` },
      },
      { parent: this },
    );
    this.#rights = new aws.iam.RolePolicy(
      `${name}-pull`,
      {
        role: this.#role.name,
        policy: pulumi.all(repositories.map((repository) => repository.arn)).apply(pullPolicy),
      },
      { parent: this.#role },
    );
    this.registerOutputs();
  }

  /** The image in the registry, `<repository>@sha256:…`; resolves once it is there. */
  published(image: OwnImage): pulumi.Output<string> {
    const reference = this.#published.get(image);
    if (reference === undefined) {
      throw new Error(`${image} is not in the registry: the team brings ${this.#args.replacements?.[image]}`);
    }
    return reference;
  }

  /**
   * Brings the image to a host through the host's own daemon, with a password that only lives while it does.
   * @returns the image's id there. Not its name: Docker reports containers with ids, and a name would look like a
   * change after every refresh.
   */
  pulledOn(
    host: Host,
    nodeAlias: string,
    image: OwnImage,
    opts: Pick<pulumi.CustomResourceOptions, "parent">,
  ): pulumi.Output<string> {
    const name = `${nodeAlias}-image-${image}`;
    const replacement = this.#args.replacements?.[image];
    if (replacement !== undefined) {
      return new docker.RemoteImage(
        name,
        { name: replacement, keepLocally: true },
        { ...opts, ...tiedTo(host) },
      ).imageId;
    }
    const reference = this.published(image);
    const pull = new command.local.Command(
      name,
      {
        create: pullScript,
        environment: {
          ...host.environment,
          DOCKER_HOST: host.address,
          REFERENCE: reference,
          REGION: this.#args.config.region,
          PULL_ROLE: this.#role.arn,
        },
        // A new machine needs it again.
        triggers: [reference, ...(host.machine === undefined ? [] : [host.machine.id])],
      },
      { ...opts, dependsOn: [this.#rights] },
    );
    return pull.stdout.apply((stdout) => stdout.trim());
  }

  #makeRepository(image: OwnImage): aws.ecr.Repository {
    const { config, stack, key } = this.#args;
    const repository = new aws.ecr.Repository(
      `repository-${image}`,
      {
        name: `siem-ha-${stack}-${image}`,
        imageTagMutability: "IMMUTABLE",
        imageScanningConfiguration: { scanOnPush: true },
        encryptionConfigurations: [
          key === undefined ? { encryptionType: "AES256" } : { encryptionType: "KMS", kmsKey: key },
        ],
        // Everything in it can be built again from this repository's sources.
        forceDelete: true,
        tags: { Name: `${stack}-${image}` },
      },
      // Its name is fixed, so a new one, for another key, can't be made beside the old one.
      { parent: this, deleteBeforeReplace: true },
    );
    new aws.ecr.LifecyclePolicy(
      `repository-${image}`,
      { repository: repository.name, policy: expiryPolicy(keptVersions) },
      { parent: repository },
    );
    const platform: Platform = config.architecture === "arm64" ? "linux/arm64" : "linux/amd64";
    const publish = new command.local.Command(
      `image-${image}`,
      {
        // The engine does not always run in the project directory; ops/workspace.ts says where that is.
        create: `cd "\${SIEM_HA_ROOT:-.}" && node --import tsx images/build.ts ${image} --push "$REPOSITORY" --platform ${platform}`,
        environment: { REPOSITORY: repository.repositoryUrl },
        // The tag is a hash of all that goes in, so an unchanged source is an unchanged tag, and no build.
        // Another key means a new, empty repository.
        triggers: [publishedTag(image, platform), key ?? "AES256"],
      },
      { parent: repository },
    );
    this.#published.set(
      image,
      publish.stdout.apply((stdout) => stdout.trim()),
    );
    return repository;
  }
}

/** What a machine needs to pull from these repositories, and nothing that writes. */
export function pullPolicy(repositoryArns: readonly string[]): string {
  return JSON.stringify({
    Version: "2012-10-17",
    Statement: [
      // This action knows no resources; what the password is good for, the next statement says.
      { Sid: "Password", Effect: "Allow", Action: "ecr:GetAuthorizationToken", Resource: "*" },
      {
        Sid: "PullOwnImages",
        Effect: "Allow",
        Action: ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"],
        Resource: repositoryArns,
      },
    ],
  });
}

/** Keeps the newest versions. */
export function expiryPolicy(count: number): string {
  return JSON.stringify({
    rules: [
      {
        rulePriority: 1,
        description: `keep the newest ${count}`,
        selection: { tagStatus: "any", countType: "imageCountMoreThan", countNumber: count },
        action: { type: "expire" },
      },
    ],
  });
}

/**
 * Shell: pulls `$REFERENCE` through the daemon at `$DOCKER_HOST` with a password of the role `$PULL_ROLE`, and prints
 * the image's id there. The password is never in an argument, nor on a disk for longer than this runs; the machine
 * only sees it pass by. Versions that no container uses any more go.
 */
export const pullScript = `set -eu
umask 077
${wrapperFirst}
config=$(mktemp -d)
trap 'rm -rf "$config"' EXIT
# A role that was made a moment ago is not known everywhere at once.
attempt=1
until session=$(aws sts assume-role --region "$REGION" --role-arn "$PULL_ROLE" --role-session-name siem-ha-pull \\
  --duration-seconds 900 --query 'Credentials.[AccessKeyId,SecretAccessKey,SessionToken]' --output text 2>"$config/error"); do
  if [ "$attempt" -ge 8 ] || ! grep -q -e AccessDenied -e NoSuchEntity "$config/error"; then
    cat "$config/error" >&2
    echo "can't take the role $PULL_ROLE; whoever deploys must be allowed sts:AssumeRole on it" >&2
    exit 1
  fi
  attempt=$((attempt + 1))
  sleep "\${RETRY_SECONDS:-4}"
done
password=$(
  unset AWS_PROFILE AWS_DEFAULT_PROFILE
  # shellcheck disable=SC2086 # Three words, and the shell is to see three.
  set -- $session
  export AWS_ACCESS_KEY_ID="$1" AWS_SECRET_ACCESS_KEY="$2" AWS_SESSION_TOKEN="$3"
  exec aws ecr get-login-password --region "$REGION"
)
repository=\${REFERENCE%@*}
auth=$(printf 'AWS:%s' "$password" | base64 | tr -d '\\n')
printf '{"auths":{"%s":{"auth":"%s"}}}' "\${repository%%/*}" "$auth" > "$config/config.json"
DOCKER_CONFIG="$config" docker pull --quiet "$REFERENCE" >&2
docker image ls --digests --format '{{.Repository}}@{{.Digest}}' "$repository" | grep -vxF "$REFERENCE" |
  while read -r old; do docker image rm "$old" >/dev/null 2>&1 || true; done
docker image inspect --format '{{.Id}}' "$REFERENCE"
`;
