#!/bin/bash
# Tells the network once more that the virtual IP is on this node's card, each time the keeper asks for it: where two
# nodes claimed the address, clients may still send to the one that has let go.
set -uo pipefail
# shellcheck source=vip-lib.sh
source "${VIP_LIB:-/usr/local/lib/vip-lib.sh}"
load_settings || exit 0
exec {bell}<> "$VIP_STATE/announce"
while read -r -u "$bell"; do
  read -r _ device _ < <(ip -o -4 address show to "$VIP/32") || continue
  arping -q -c 1 -U -I "$device" -s "$VIP" "$VIP" > /dev/null
done
