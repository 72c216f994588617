#!/bin/bash
# Runs Keepalived and makes sure that the VIP never outlives it: a killed Keepalived leaves its address behind.
set -uo pipefail

config="$KEEPALIVED_CONFIG"
if [[ ! -r "$config" ]]; then
  echo "keepalived: $config can't be read; mount it there (Keepalived needs the other files of its folder)." >&2
  exit 1
fi

# Addresses inside `virtual_ipaddress { … }`, without prefix, device or comment.
virtual_addresses() {
  awk '
    { sub(/[#!].*/, "") }
    /virtual_ipaddress[[:space:]]*\{/ { inside = 1; sub(/.*\{/, "") }
    inside && match($0, /[0-9]+(\.[0-9]+)+/) { print substr($0, RSTART, RLENGTH) }
    inside && /\}/ { inside = 0 }
  ' "$config"
}

release() {
  local address device cidr
  for address in $(virtual_addresses); do
    while read -r _ device _ cidr _; do
      echo "keepalived: taking $cidr off $device ($1)"
      ip address delete "$cidr" dev "$device"
    done < <(ip -o -4 address show to "$address/32")
  done
}

# Left by a predecessor that was killed: the pid files make Keepalived restart for ever, the address would stand twice.
rm -f /run/keepalived.pid /run/keepalived/*.pid /run/vrrp.pid /run/checkers.pid
release "left by a predecessor"

# What runs beside Keepalived is started again when it ends. The files through which it makes Keepalived let go have to
# be there first.
install -d -m 1777 /run/vip
beside() { # name command…
  local name=$1
  shift
  while :; do
    "$@"
    echo "keepalived: the $name ended with $?; it is started again" >&2
    sleep 1
  done
}
# Says whether HAProxy lives; until it has been seen to answer, this node may not have the address.
if [[ -n "${PROXY_ALIVE:-}" ]]; then
  echo 1 > /run/vip/proxy-down
  beside "watcher of HAProxy" proxy-watcher &
fi
# Keepalived 2.3 watches only files that are there when it starts; HAProxy's container makes this one before all else.
trap 'exit 143' TERM INT
until [[ -z "${PROXY_HAND_OVER:-}" || -e "$PROXY_HAND_OVER" ]]; do sleep 0.2; done
# Asks the witness, and moves the routes where there are any; the one account that may ask for a machine's credentials.
if [[ -r /etc/siem-ha/vip.conf ]]; then
  as_vip() { setpriv --reuid vip --regid vip --clear-groups --inh-caps=-all -- "$@"; }
  as_vip sh -c 'echo 0 > /run/vip/let-go'
  mkfifo -m 0666 /run/vip/announce
  beside "announcer" vip-announcer &
  beside "keeper of the address" as_vip vip-keeper &
fi

keepalived -n -l -D -P -f "$config" "$@" &
child=$!
# On TERM Keepalived sends priority 0, so the peer takes over at once; HUP reloads, USR1 dumps its state.
for signal in TERM INT HUP USR1 USR2; do
  # shellcheck disable=SC2064 # The names are meant now.
  trap "kill -$signal $child 2> /dev/null" "$signal"
done

# A trapped signal ends `wait` early, so wait until the process is really gone.
while kill -0 "$child" 2> /dev/null; do
  wait "$child"
  status=$?
done
release "Keepalived has ended"
exit "${status:-1}"
