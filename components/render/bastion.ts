// cloud-init of the bastion: a machine that passes SSH on to the others and can do nothing else.

import { stringify } from "yaml";

export interface BastionOptions {
  readonly user: string;
  /** Public keys of the operators. */
  readonly sshPublicKeys: readonly string[];
}

/** Its host key is made at the first boot, and cloud-init prints the public half on the console: there it is read. */
export function renderBastion({ user, sshPublicKeys }: BastionOptions): string {
  const config = {
    // Nobody but the one account, which has no shell: what it may do is below.
    users: [
      {
        name: user,
        gecos: "Operators, on their way to a machine",
        shell: "/usr/sbin/nologin",
        lock_passwd: true,
        ssh_authorized_keys: [...sshPublicKeys],
      },
    ],
    disable_root: true,
    ssh_pwauth: false,
    ssh_deletekeys: true,
    ssh_genkeytypes: ["ed25519"],
    package_update: true,
    packages: ["unattended-upgrades"],
    write_files: [
      {
        path: "/etc/ssh/sshd_config.d/10-bastion.conf",
        permissions: "0644",
        content: `# Rendered from components/render/bastion.ts.
HostKey /etc/ssh/ssh_host_ed25519_key
AllowUsers ${user}
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding local
PermitOpen *:22
AllowAgentForwarding no
AllowStreamLocalForwarding no
PermitTunnel no
X11Forwarding no
PermitTTY no
MaxSessions 100
MaxStartups 200:30:400
`,
      },
      {
        path: "/etc/apt/apt.conf.d/52unattended-upgrades-reboot",
        permissions: "0644",
        // One way in of two: it may restart, at an hour when nobody deploys.
        content: `Unattended-Upgrade::Automatic-Reboot "true";\nUnattended-Upgrade::Automatic-Reboot-Time "03:30";\n`,
      },
    ],
    runcmd: [["systemctl", "restart", "ssh"]],
  };
  return `#cloud-config\n# Rendered from components/render/bastion.ts.\n${stringify(config, { lineWidth: 0 })}`;
}
