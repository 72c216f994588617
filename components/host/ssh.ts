// How SSH reaches a machine: the one list of options, for the Docker provider and for the `docker` command.

import { type Node } from "../topology.ts";

/** The account on every machine that may use its Docker daemon. */
export const operator = "ops";

/** Environment variable with the options, one a line, that `ops/ssh/ssh` gives to ssh. */
const optionsVariable = "SIEM_HA_SSH_OPTIONS";

/** Variables with a machine's line of known hosts start with this; `ops/ssh/ssh` gathers them. */
const knownHostPrefix = "SIEM_HA_KNOWN_HOST_";

/** Where `ops/ssh/ssh` puts all of them for ssh to find. */
const knownHostsVariable = "SIEM_HA_KNOWN_HOSTS";

/**
 * Shell: puts `ops/ssh` in front of PATH, so that `docker -H ssh://…` runs the `ssh` there, which knows the machines.
 * An absolute path, because Go programs such as `docker` refuse what they find through a relative one.
 */
export const wrapperFirst = `PATH="$(cd "\${SIEM_HA_ROOT:-.}" && pwd)/ops/ssh:$PATH"; export PATH`;

/** The address of a machine's Docker daemon, as `docker -H` takes it. */
export function daemonAddress(instanceId: string): string {
  return `ssh://${operator}@${instanceId}`;
}

/**
 * The options that say how a connection is made and what proves that it is the right machine. Nothing of whoever
 * deploys is in them but their own key or agent, which ssh finds by itself: the same text works for everybody.
 */
function options(proxyCommand: string, knownHostsCommand: string): string[] {
  return [
    `ProxyCommand=${proxyCommand}`,
    // The machine's key comes from its own publication, so the first connection is verified like every other.
    "StrictHostKeyChecking=yes",
    `KnownHostsCommand=${knownHostsCommand}`,
    "UserKnownHostsFile=/dev/null",
    "GlobalKnownHostsFile=/dev/null",
    "HostKeyAlgorithms=ssh-ed25519",
    "UpdateHostKeys=no",
    "CanonicalizeHostname=no",
    "BatchMode=yes",
    "ForwardAgent=no",
    "ClearAllForwardings=yes",
    // One connection a machine, which all others go through: an Instance Connect Endpoint carries only twenty. The
    // socket's directory has to exist everywhere, and its path to be short.
    "ControlMaster=auto",
    "ControlPath=~/.siem-ha-%C",
    "ControlPersist=60",
    "ConnectTimeout=30",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
  ];
}

/**
 * `sshOpts` of a Docker provider: each element is one argument of ssh. The provider can't be given an environment of
 * its own, so the known host stands in the options.
 */
export function providerOptions(proxyCommand: string, knownHost: string): string[] {
  return options(proxyCommand, `/bin/echo ${knownHost}`).flatMap((option) => ["-o", option]);
}

/** Environment in which `ops/ssh/ssh` reaches a machine with a provider's own options, its known host among them. */
export function sshEnvironmentOf(providerOptions: readonly string[]): Record<string, string> {
  return { [optionsVariable]: providerOptions.filter((option) => option !== "-o").join("\n") };
}

/** Environment in which `ops/ssh/ssh` reaches this machine; those of several machines can be merged into one. */
export function sshEnvironment(node: Node, proxyCommand: string, knownHost: string): Record<string, string> {
  return { ...sshOptionsEnvironment(proxyCommand), [knownHostVariable(node)]: knownHost };
}

/** The part of it that every machine of a stack has in common. */
export function sshOptionsEnvironment(proxyCommand: string): Record<string, string> {
  return { [optionsVariable]: options(proxyCommand, `/usr/bin/printenv ${knownHostsVariable}`).join("\n") };
}

/** The variable with this machine's line of known hosts. */
export function knownHostVariable(node: Node): string {
  return knownHostPrefix + node.alias.toUpperCase().replaceAll("-", "_");
}
