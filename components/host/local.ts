// One Docker daemon as the host of all nine nodes: the `local` target.

import * as command from "@pulumi/command";
import * as docker from "@pulumi/docker";
import * as pulumi from "@pulumi/pulumi";
import { imageTag } from "../../images/build.ts";
import { replacementsOf, type SiemConfig } from "../config.ts";
import { type OwnImage, publicImages } from "../images.ts";
import { type Host } from "./host.ts";

export interface LocalHostArgs {
  readonly config: SiemConfig;
  /** Value of the label on everything the stack makes. */
  readonly stack: string;
}

/** The local daemon with every image the platform needs on it: pulled, or built from `images/`. */
export class LocalHost extends pulumi.ComponentResource implements Host {
  readonly provider: docker.Provider;
  readonly address: string;
  readonly environment = {};
  readonly stack: string;
  readonly #public: Record<keyof typeof publicImages, docker.RemoteImage>;
  /** Made when they are first asked for: not every target has a use for each. */
  readonly #own: Partial<Record<OwnImage, pulumi.Output<string>>> = {};
  readonly #replacements: Partial<Record<OwnImage, string>>;

  constructor(name: string, args: LocalHostArgs, opts?: pulumi.ComponentResourceOptions) {
    super("siem:host:Local", name, {}, opts);
    const { config, stack } = args;
    this.stack = stack;
    this.address = config.local.dockerHost;
    this.provider = new docker.Provider(
      `${name}-docker`,
      { host: config.local.dockerHost, disableDockerDaemonCheck: true },
      { parent: this },
    );
    const remote = (key: keyof typeof publicImages) =>
      new docker.RemoteImage(
        `image-${key}`,
        // Other stacks and people may use the same image: `down` leaves it.
        { name: publicImages[key], keepLocally: true },
        { parent: this, provider: this.provider },
      );
    this.#public = {
      anchor: remote("anchor"),
      zookeeper: remote("zookeeper"),
      kafka: remote("kafka"),
      clickhouse: remote("clickhouse"),
      haproxy: remote("haproxy"),
    };
    this.#replacements = replacementsOf(config);
    this.registerOutputs();
  }

  image(name: keyof typeof publicImages): pulumi.Output<string> {
    return this.#public[name].imageId;
  }

  ownImage(name: OwnImage): pulumi.Output<string> {
    return (this.#own[name] ??= this.#bring(name));
  }

  #bring(name: OwnImage): pulumi.Output<string> {
    const replacement = this.#replacements[name];
    if (replacement !== undefined) {
      return new docker.RemoteImage(
        `image-${name}`,
        { name: replacement, keepLocally: true },
        { parent: this, provider: this.provider },
      ).imageId;
    }
    // The tag is a hash of all that goes in, so an unchanged source is an unchanged tag, and no build.
    const tag = imageTag(name);
    const build = new command.local.Command(
      `build-${name}`,
      {
        // The engine does not always run in the project directory; ops/workspace.ts says where that is.
        create: `cd "\${SIEM_HA_ROOT:-.}" && node --import tsx images/build.ts ${name}`,
        environment: { DOCKER_HOST: this.address },
        triggers: [tag],
      },
      { parent: this },
    );
    // By id like every image: Docker reports containers with ids, and a name looks like a change after a refresh.
    return new docker.RemoteImage(
      `image-${name}`,
      { name: tag, keepLocally: true },
      { parent: this, provider: this.provider, dependsOn: [build] },
    ).imageId;
  }
}
