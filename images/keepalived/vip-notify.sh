#!/bin/bash
# Keepalived runs this when the virtual IP comes or goes. `master`: this node has it now, so the keeper asks the witness
# at once, and every route table must point here, once the witness agrees. `released`: the lease is given back.
set -uo pipefail
# shellcheck source=vip-lib.sh
source "${VIP_LIB:-/usr/local/lib/vip-lib.sh}"
load_settings || exit 0
# Keepalived sends a script's output nowhere; the keeper copies this file to the container's log.
exec 2>> "$VIP_STATE/hook.log"

case "${1:-}" in
  master)
    wake_keeper
    has_cloud || exit 0
    # The last holder's lease may still run: it died without a word. Longer than a lease nobody dead can hold it.
    deadline=$((${EPOCHREALTIME/./} + (lease_ms + 1000) * 1000))
    until may_hold; do
      holds_vip || exit 0
      if ((${EPOCHREALTIME/./} > deadline)); then
        log "has the address, but may not have it (lease: $lease, peers: ${peers:-not asked}); the routes stay"
        exit 0
      fi
      sleep 0.1
    done
    holds_vip || exit 0
    read -ra tables <<< "$ROUTE_TABLES"
    write_routes "${tables[@]}"
    ;;
  released)
    wake_keeper
    # It may be back by now: Keepalived starts these without waiting for one another.
    holds_vip || release_lease
    exit 0
    ;;
  *)
    echo "usage: vip-notify master|released; given: ${*:-nothing}" >&2
    exit 64
    ;;
esac
