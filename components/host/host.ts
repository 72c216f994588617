// What a host is: a Docker daemon plus what is needed to run guests and one-off commands on it.

import type * as docker from "@pulumi/docker";
import type * as pulumi from "@pulumi/pulumi";
import { type OwnImage, type publicImages } from "../images.ts";

export interface Host {
  readonly provider: docker.Provider;
  /** Environment with which the `docker` command of a `command.local.Command` reaches this host's daemon. */
  readonly environment: Readonly<Record<string, pulumi.Input<string>>>;
  /** Value of the label that marks everything this stack makes in Docker. */
  readonly stack: string;
  /** Image id of each public image on this host. */
  image(name: keyof typeof publicImages): pulumi.Output<string>;
  /** Reference of one of our own images on this host, built or pulled before it resolves. */
  ownImage(name: OwnImage): pulumi.Output<string>;
}
