// The programs that check rendered configurations in the tests: sshd, cloud-init, nft and others.

import { rm, writeFile } from "node:fs/promises";
import { aptGet, distribution, exists, isDebianLike, onPath } from "./docker-engine.ts";

/** Debian packages, and the program (or file) that each is known by. */
const checkers: Readonly<Record<string, string>> = {
  "cloud-init": "cloud-init",
  shellcheck: "shellcheck",
  "openssh-server": "/usr/sbin/sshd",
  "openssh-client": "ssh",
  nftables: "/usr/sbin/nft",
  chrony: "/usr/sbin/chronyd",
  e2fsprogs: "/usr/sbin/mkfs.ext4",
  iproute2: "ip",
  "docker-registry": "docker-registry",
  "python3-venv": "/usr/share/doc/python3-venv",
  curl: "curl",
};
/** Debian asks this program whether a package may start its service. */
const policy = "/usr/sbin/policy-rc.d";

/**
 * Says which of them are missing: the tests that need one skip. On CI, as root on Debian or Ubuntu, they are installed;
 * elsewhere not, because nobody expects a test to put an SSH server on their machine.
 */
export async function ensureCheckers(log: (line: string) => void): Promise<void> {
  const missing: string[] = [];
  for (const [name, program] of Object.entries(checkers)) {
    if (!(program.startsWith("/") ? await exists(program) : await onPath(program))) missing.push(name);
  }
  if (missing.length === 0) return;
  const ours = process.env["CI"] === "true" && process.getuid?.() === 0 && isDebianLike(await distribution());
  if (!ours) {
    log(`some checks are skipped; with these they run: apt-get install ${missing.join(" ")}`);
    return;
  }
  log(`installing ${missing.join(", ")} with apt-get`);
  // Only the programs are wanted, not an SSH server or a registry that listens.
  const forbid = !(await exists(policy));
  if (forbid) await writeFile(policy, "#!/bin/sh\nexit 101\n", { mode: 0o755 });
  try {
    await aptGet(["update", "-qq"]);
    await aptGet(["install", "-y", "-qq", "--no-install-recommends", ...missing]);
  } finally {
    if (forbid) await rm(policy);
  }
}
