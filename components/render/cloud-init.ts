// A machine's first boot as cloud-init user data: typed data in, text out. It is read once, when the machine is made.

import { stringify } from "yaml";
import { type AwsConfig } from "../config.ts";
import { operator } from "../host/ssh.ts";
import { ports } from "../ports.ts";
import { type Node } from "../topology.ts";

/** EC2 takes no more user data than this, bytes. */
export const userDataLimit = 16384;

/** The machine's data disk is mounted here. */
export const dataDirectory = "/srv/siem";

/** Exists once everything on the machine is as it has to be, after every boot. */
export const readyMarker = "/run/siem-ha/ready";

/** Name of the parameter in which a machine publishes `<instance id> <its public host key>`. */
export function hostKeyParameter(stack: string, node: Node): string {
  return `/siem-ha/${stack}/host-keys/${node.alias}`;
}

/** Shell scripts on the machine. */
const scripts = "/usr/local/lib/siem-ha";

/** Control group of all containers: what tells them from the machine's own processes, root's included. */
const containerSlice = "siem.slice";

export interface CloudInitArgs {
  readonly node: Node;
  readonly stack: string;
  readonly config: Pick<AwsConfig, "region" | "architecture" | "domain" | "admin">;
  /** Id of the data volume, `vol-…`: it exists before the machine, and is attached after its start. */
  readonly volumeId: string;
  /** Ports that a client's connection must never take as its own, because something listens there. */
  readonly reservedPorts: readonly number[];
  /** User in a container that may ask the metadata service for credentials. @default no container may */
  readonly metadataUid?: number | undefined;
}

interface File {
  readonly path: string;
  readonly content: string;
  readonly permissions?: string;
}

/**
 * The user data of one machine.
 * @throws Error if it is larger than EC2 takes: only the operators' keys can make it so.
 */
export function renderCloudInit(args: CloudInitArgs): string {
  const { node, config } = args;
  const userData = {
    hostname: node.alias,
    fqdn: `${node.alias}.${config.domain}`,
    // Debian's image would give the machine's own name to 127.0.1.1, where nobody else finds what it says it is.
    manage_etc_hosts: false,
    groups: ["docker"],
    // Without "default" in this list the image's own account is not made.
    users: [
      {
        name: operator,
        gecos: "Whoever runs the platform; the group docker is as good as root",
        groups: ["docker"],
        shell: "/bin/bash",
        lock_passwd: true,
        ssh_authorized_keys: [...config.admin.sshPublicKeys],
      },
    ],
    disable_root: true,
    ssh_pwauth: false,
    ssh_deletekeys: true,
    ssh_genkeytypes: ["ed25519"],
    package_update: true,
    package_upgrade: false,
    // Containers don't start without apparmor where the kernel has it on, and docker.io only recommends it.
    packages: [
      "apparmor",
      "ca-certificates",
      "chrony",
      "curl",
      "docker.io",
      "e2fsprogs",
      "nftables",
      "unattended-upgrades",
    ],
    package_reboot_if_required: false,
    write_files: filesOf(args).map(({ path, content, permissions }) => ({
      path,
      permissions: permissions ?? "0644",
      content,
    })),
    runcmd: [
      ["systemctl", "daemon-reload"],
      ["sysctl", "--quiet", "--system"],
      ["sh", "-c", `echo '${node.address} ${node.alias}.${config.domain} ${node.alias}' >> /etc/hosts`],
      ["sh", "-c", keepForeignAddresses],
      ["systemctl", "try-reload-or-restart", "ssh", "systemd-resolved", "systemd-journald"],
      ["systemctl", "restart", "chrony"],
      ["systemctl", "enable", "--now", "siem-ha-metadata", "siem-ha-data", "siem-ha-data-grow.timer"],
      // Installing it started it; should one of the above have failed then, it is started now.
      ["systemctl", "enable", "--now", "docker"],
      ["systemctl", "enable", "--now", "siem-ha-host-key", "siem-ha-ready"],
      [`${scripts}/install-ssm-agent`],
    ],
  };
  const text = `#cloud-config
# Rendered from components/render/cloud-init.ts for ${node.alias} of ${args.stack}. Read once, at the machine's first boot.
${stringify(userData, { lineWidth: 0, blockQuote: "literal" })}`;
  const size = Buffer.byteLength(text);
  if (size > userDataLimit) {
    const keys = config.admin.sshPublicKeys.join("").length;
    throw new Error(
      `the first-boot data of ${node.alias} has ${size} bytes, and EC2 takes ${userDataLimit}: siem-ha:aws admin.sshPublicKeys has ${keys} characters, at most ${keys - (size - userDataLimit)} fit. A key of type ssh-ed25519 has 80`,
    );
  }
  return text;
}

function filesOf(args: CloudInitArgs): File[] {
  const { node, stack, config, volumeId } = args;
  return [
    { path: "/etc/apt/apt.conf.d/52siem-ha", content: apt },
    { path: "/etc/chrony/sources.d/siem-ha.sources", content: timeSource },
    { path: "/etc/docker/daemon.json", content: renderDockerDaemon() },
    { path: "/etc/ssh/sshd_config.d/10-siem-ha.conf", content: sshd },
    { path: "/etc/sysctl.d/60-siem-ha.conf", content: renderSysctl(args.reservedPorts) },
    { path: "/etc/systemd/journald.conf.d/siem-ha.conf", content: "[Journal]\nSystemMaxUse=500M\n" },
    {
      // Where the image doesn't use systemd-resolved, the VPC's DHCP options say the same.
      path: "/etc/systemd/resolved.conf.d/siem-ha.conf",
      content: `[Resolve]\nDomains=${config.domain}\n`,
    },
    { path: "/etc/siem-ha/metadata.nft", content: renderMetadataFirewall(args.metadataUid) },
    script("data-disk", renderDataDisk(volumeId)),
    script("publish-host-key", renderHostKeyPublication(config.region, hostKeyParameter(stack, node))),
    script("install-ssm-agent", renderSsmAgentInstallation(config.region, config.architecture)),
    { path: "/etc/systemd/system/docker.service.d/siem-ha.conf", content: dockerDropIn },
    ...Object.entries(units).map(([name, content]) => ({ path: `/etc/systemd/system/${name}`, content })),
  ];
}

const script = (name: string, content: string): File => ({
  path: `${scripts}/${name}`,
  permissions: "0755",
  content,
});

/** Security updates every day; a reboot is an operator's decision, one machine at a time. */
const apt = `APT::Install-Recommends "false";
APT::Periodic::Update-Package-Lists "1";
APT::Periodic::Unattended-Upgrade "1";
Unattended-Upgrade::Automatic-Reboot "false";
Acquire::Retries "5";
DPkg::Lock::Timeout "300";
`;

/** Amazon's time service, the same for all machines and reachable without the internet. */
const timeSource = "server 169.254.169.123 prefer iburst minpoll 4 maxpoll 4\n";

/**
 * Containers outlive a restart of the daemon, logs don't fill the disk, and there are no networks of Docker's own:
 * everything shares the machine's. The control group is what the metadata firewall knows containers by.
 */
export function renderDockerDaemon(): string {
  const settings = {
    "live-restore": true,
    "log-driver": "json-file",
    "log-opts": { "max-size": "10m", "max-file": "3" },
    "cgroup-parent": containerSlice,
    bridge: "none",
    iptables: false,
    ip6tables: false,
    "ip-forward": false,
    "userland-proxy": false,
  };
  return `${JSON.stringify(settings, null, 2)}\n`;
}

/** Limits high enough for a deployment that opens many connections at once and many sessions on each. */
export const sshd = `PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowUsers ${operator}
HostKey /etc/ssh/ssh_host_ed25519_key
MaxStartups 200:30:400
MaxSessions 100
ClientAliveInterval 30
ClientAliveCountMax 4
X11Forwarding no
AllowAgentForwarding no
`;

export function renderSysctl(reservedPorts: readonly number[]): string {
  const reserved = [...new Set(reservedPorts)].sort((a, b) => a - b).join(",");
  return `# A client's connection must not sit on a port that one of ours listens on.
net.ipv4.ip_local_reserved_ports = ${reserved}
# HAProxy is not root, and takes syslog where the configuration asks for it.
net.ipv4.ip_unprivileged_port_start = ${ports.syslog.number}
vm.max_map_count = 262144
vm.swappiness = 1
net.core.somaxconn = 4096
`;
}

/**
 * nftables: the machine's credentials are for the machine. Containers share its network, and root in a container is
 * root, so the machine's own root is known by the control group its services are in. What starts outside of the
 * expected groups is refused, not allowed.
 */
export function renderMetadataFirewall(uid: number | undefined): string {
  const hook = uid === undefined ? "" : `    meta skuid ${uid} accept comment "what moves the virtual IP"\n`;
  return `#!/usr/sbin/nft -f
table inet siem_ha_metadata
delete table inet siem_ha_metadata
table inet siem_ha_metadata {
  chain output {
    type filter hook output priority filter; policy accept;
    ip daddr 169.254.169.254 jump metadata
    ip6 daddr fd00:ec2::254 jump metadata
  }
  chain metadata {
${hook}    meta skuid 0 socket cgroupv2 level 1 { "system.slice", "init.scope" } accept comment "cloud-init, host key, SSM agent"
    counter reject
  }
}
`;
}

/** The data disk's script: it runs at every boot before Docker, and as often as one likes. */
export function renderDataDisk(volumeId: string): string {
  return `#!/bin/sh
# Mounts the data disk and puts Docker's volumes on it. It is formatted only if it is blank: nothing else is ever lost.
set -eu
device=\${SIEM_HA_DEVICE:-/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${volumeId.replace("-", "")}}
data=\${SIEM_HA_DATA:-${dataDirectory}}
volumes=\${SIEM_HA_VOLUMES:-/var/lib/docker/volumes}

# It is attached after the machine has started.
seconds=\${SIEM_HA_SECONDS:-600}
while [ ! -b "$device" ]; do
  seconds=$((seconds - 1))
  if [ "$seconds" -le 0 ]; then
    echo "the data disk $device did not appear: is the volume attached?" >&2
    exit 1
  fi
  sleep 1
done

if ! mountpoint -q "$data"; then
  type=$(blkid -p -s TYPE -o value "$device" || true)
  if [ -z "$type" ]; then
    # A new volume reads as zeros. Whatever else looks empty may be a disk that can't be read.
    if ! cmp -s -n 16777216 "$device" /dev/zero; then
      echo "$device has no file system that is known here, and is not blank: nothing was done to it" >&2
      exit 1
    fi
    mkfs.ext4 -q -m 1 -L siem-data "$device"
  elif [ "$type" != ext4 ]; then
    echo "$device holds $type, not ext4: nothing was done to it" >&2
    exit 1
  fi
  e2fsck -p "$device" || [ $? -eq 1 ]
  mkdir -p "$data"
  mount -o noatime "$device" "$data"
fi
# The volume may have grown. A file system that can't is no reason to stand still.
said=$(resize2fs "$device" 2>&1) || echo "$data was not grown to the size of its volume: $said" >&2

mkdir -p "$data/docker-volumes" "$volumes"
chmod 0701 "$data/docker-volumes"
mountpoint -q "$volumes" || mount --bind "$data/docker-volumes" "$volumes"
`;
}

/** The host key's script: signs with the machine's own role, by curl, so that no AWS client is needed. */
export function renderHostKeyPublication(region: string, parameter: string): string {
  return `#!/bin/sh
# Publishes this machine's SSH host key, so that nobody has to take a connection on trust.
set -eu
metadata=\${SIEM_HA_METADATA:-http://169.254.169.254}
endpoint=\${SIEM_HA_SSM:-https://ssm.${region}.amazonaws.com}
key=\${SIEM_HA_HOST_KEY:-/etc/ssh/ssh_host_ed25519_key.pub}

# Nothing secret on a command line: curl reads it from its standard input.
token=$(curl -fsS --max-time 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 300' "$metadata/latest/api/token")
ask() {
  printf 'header = "X-aws-ec2-metadata-token: %s"\\n' "$token" |
    curl -fsS --max-time 5 -K - "$metadata/latest/meta-data/$1"
}
instance=$(ask instance-id)
role=$(ask iam/security-credentials/)
credentials=$(ask "iam/security-credentials/$role")
field() { printf '%s' "$credentials" | sed -n 's/.*"'"$1"'" *: *"\\([^"]*\\)".*/\\1/p'; }

value="$instance $(cut -d ' ' -f 1,2 "$key")"
printf 'user = "%s:%s"\\nheader = "X-Amz-Security-Token: %s"\\n' \\
  "$(field AccessKeyId)" "$(field SecretAccessKey)" "$(field Token)" |
  curl -fsS --max-time 10 -o /dev/null -K - --aws-sigv4 "aws:amz:${region}:ssm" \\
    -H 'Content-Type: application/x-amz-json-1.1' -H 'X-Amz-Target: AmazonSSM.PutParameter' \\
    -d '{"Name":"${parameter}","Value":"'"$value"'","Type":"String","Overwrite":true}' "$endpoint/"
`;
}

/** The second way in, for when SSH is broken. The machine does without it: a failure is only logged. */
export function renderSsmAgentInstallation(region: string, architecture: AwsConfig["architecture"]): string {
  const debian = architecture === "arm64" ? "arm64" : "amd64";
  return `#!/bin/sh
# Amazon's SSM agent is not in Debian: it comes from Amazon's bucket in this region.
set -eu
package=$(mktemp --suffix=.deb)
trap 'rm -f "$package"' EXIT
curl -fsS --retry 5 --retry-all-errors --max-time 120 -o "$package" \\
  https://s3.${region}.amazonaws.com/amazon-ssm-${region}/latest/debian_${debian}/amazon-ssm-agent.deb
# Not dpkg: apt waits for the lock that the daily updates may hold just now.
apt-get install -y -q "$package"
systemctl enable --now amazon-ssm-agent
`;
}

/**
 * systemd-networkd drops addresses that it did not set when it restarts, as its security updates make it do: the
 * virtual IP would go with them.
 */
const keepForeignAddresses = `for file in /run/systemd/network/*.network /etc/systemd/network/*.network; do
  [ -e "$file" ] || continue
  directory=/etc/systemd/network/$(basename "$file").d
  mkdir -p "$directory"
  printf '[Network]\\nKeepConfiguration=yes\\n' > "$directory/siem-ha.conf"
done
networkctl reload || true
`;

const dockerDropIn = `[Unit]
Requires=siem-ha-data.service siem-ha-metadata.service
After=siem-ha-data.service siem-ha-metadata.service
`;

const units = {
  [containerSlice]: `[Unit]
Description=Containers of the platform
# When the machine stops, they end before their data is taken away.
RequiresMountsFor=${dataDirectory} /var/lib/docker/volumes
`,
  "siem-ha-data.service": `[Unit]
Description=Data disk, with Docker's volumes on it
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${scripts}/data-disk
TimeoutStartSec=15min

[Install]
WantedBy=multi-user.target
`,
  "siem-ha-data-grow.service": `[Unit]
Description=File system of the data disk grows with its volume
Requires=siem-ha-data.service
After=siem-ha-data.service

[Service]
Type=oneshot
ExecStart=${scripts}/data-disk
`,
  "siem-ha-data-grow.timer": `[Unit]
Description=File system of the data disk grows with its volume

[Timer]
OnActiveSec=10min
OnUnitActiveSec=10min

[Install]
WantedBy=timers.target
`,
  "siem-ha-metadata.service": `[Unit]
Description=Firewall around the metadata service
Before=docker.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/siem-ha/metadata.nft

[Install]
WantedBy=multi-user.target
`,
  "siem-ha-host-key.service": `[Unit]
Description=Publishes the SSH host key
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=${scripts}/publish-host-key
Restart=on-failure
RestartSec=10

[Install]
WantedBy=multi-user.target
`,
  "siem-ha-ready.service": `[Unit]
Description=Marks the machine as ready
Requires=docker.service siem-ha-data.service siem-ha-metadata.service
After=docker.service siem-ha-data.service siem-ha-metadata.service

[Service]
Type=oneshot
RemainAfterExit=yes
RuntimeDirectory=siem-ha
ExecStart=/usr/bin/docker version
ExecStart=/usr/bin/touch ${readyMarker}

[Install]
WantedBy=multi-user.target
`,
};
