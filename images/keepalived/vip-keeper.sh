#!/bin/bash
# Stands behind Keepalived for as long as it runs: renews the lease of the virtual IP, makes this node let go of an
# address that it may not have, and repairs the routes. `answer` is what it says to another load balancer that asks.
set -uo pipefail
# shellcheck source=vip-lib.sh
source "${VIP_LIB:-/usr/local/lib/vip-lib.sh}"
load_settings || exit 0

if [[ "${1:-}" == answer ]]; then
  # Reading the request first keeps the connection from being reset under the answer.
  while read -rt 1 line && [[ "$line" != $'\r' ]]; do :; done
  text=free
  holds_vip && text=holds
  printf 'HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s' "${#text}" "$text"
  exit 0
fi

# Every so many seconds the holder looks whether all routes point to it, and reports to CloudWatch; a witness that
# can't be reached for so long is an alarm.
: "${VIP_RECONCILE_SECONDS:=10}" "${VIP_METRICS_SECONDS:=60}" "${VIP_WITNESS_SECONDS:=30}"
let_go="$VIP_STATE/let-go"
mkdir -p "$VIP_STATE"
echo 0 > "$let_go"
# The hook writes here when the address comes or goes.
wake="$VIP_STATE/wake"
[[ -p "$wake" ]] || mkfifo -m 0600 "$wake"
exec {bell}<> "$wake"
# Waits that long, or until the hook rings.
rest() { read -rt "$1" -u "$bell"; }

# A predecessor that was killed left these behind, and the port with them.
children="$VIP_STATE/children"
if [[ -r "$children" ]]; then
  while read -r pid; do
    case "$(cat "/proc/$pid/comm" 2> /dev/null)" in socat | tail) kill "$pid" ;; esac
  done < "$children"
fi
: > "$children"

responder=0
serve() {
  ((responder > 0)) && kill -0 "$responder" 2> /dev/null && return
  socat -T 2 "TCP4-LISTEN:$KEEPER_PORT,bind=$ADDRESS,reuseaddr,fork,max-children=8" "EXEC:$0 answer" &
  responder=$!
  echo "$responder" >> "$children"
}
# What the hook says belongs into the container's log too.
: > "$VIP_STATE/hook.log"
tail -qn +1 -F "$VIP_STATE/hook.log" >&2 &
teller=$!
echo "$teller" >> "$children"
trap 'kill "$responder" "$teller" 2> /dev/null; exit 0' TERM INT

# Gives the address up. Keepalived watches the file and goes to FAULT at once.
give_up() { # reason
  log "lets go of $VIP: $1"
  echo 1 > "$let_go"
  gave_up=1
  # Longer after each time: where the cause stays, the address must not flap.
  back_after=$((EPOCHSECONDS + pause))
  pause=$((pause < 30 ? pause * 2 : 60))
}

come_back() {
  log "may hold $VIP again: $1"
  echo 0 > "$let_go"
  gave_up=0
}

# Route tables with the wrong target for the address, as `name=id target`; the target is "-" where there is no route.
wrong_routes() { # the answer of DescribeRouteTables
  local entry table interface
  local -A target=()
  while read -r table interface; do target[$table]=$interface; done < <(
    # One tag a line. A route's target belongs to the destination before it.
    # shellcheck disable=SC2001 # Bash takes minutes for it where there are many routes.
    sed 's/></>\n</g' <<< "$1" | awk -F '[<>]' -v vip="$VIP/32" '
      $2 == "routeTableId" { table = $3 }
      $2 == "destinationCidrBlock" { ours = ($3 == vip) }
      $2 == "/item" { ours = 0 }
      ours && $2 == "networkInterfaceId" { print table, $3 }'
  )
  for entry in $ROUTE_TABLES; do
    [[ "${target[${entry#*=}]:--}" == "$NETWORK_INTERFACE" ]] || echo "$entry ${target[${entry#*=}]:--}"
  done
}

# Looks at every table and repairs what points elsewhere. Runs beside the loop, which must not stop renewing.
reconcile() {
  local filters=() number=0 entry found id was wrong=() still=0 misses
  for entry in $ROUTE_TABLES; do filters+=("RouteTableId.$((++number))=${entry#*=}"); done
  if ! load_keys; then
    found="no credentials from the instance's metadata"
  elif found=$(aws_call ec2 ec2 2016-11-15 DescribeRouteTables "${filters[@]}"); then
    rm -f "$VIP_STATE/misses"
    clear_alarm look "$NODE can see the route tables again."
    while read -r id was; do
      [[ -z "$id" ]] && continue
      log "route table ${id%%=*} (${id#*=}) pointed to $was"
      wrong+=("$id")
    done < <(wrong_routes "$found")
    if ((${#wrong[@]} > 0)) && holds_vip && may_hold; then
      if write_routes "${wrong[@]}"; then
        # Only what was really repaired is told; if the address moved meanwhile, nothing was.
        holds_vip && alarm "repaired" "$VIP: routes were wrong and have been repaired" \
          "$NODE holds $VIP, and ${#wrong[@]} route table(s) did not point to it: ${wrong[*]}. They do now. Somebody or something else changes them, or a takeover was cut short."
      else
        still=${#wrong[@]}
      fi
    fi
    echo "$still" > "$VIP_STATE/wrong"
    return
  fi
  # The API can't be asked. The routes stay as they are; one miss is no news.
  misses=$(($(cat "$VIP_STATE/misses" 2> /dev/null || echo 0) + 1))
  echo "$misses" > "$VIP_STATE/misses"
  log "can't look at the route tables: $found"
  ((misses < 3)) || alarm look "$VIP: its routes can't be checked" \
    "$NODE holds $VIP, but can't ask EC2 about the route tables: $found. The routes stay as they are; a takeover now could not move them."
}

report() { # unreachable witness: 0 or 1
  local text
  load_keys || return
  text=$(aws_call monitoring monitoring 2010-08-01 PutMetricData "Namespace=$METRICS" \
    MetricData.member.1.MetricName=VipHolder MetricData.member.1.Value=1 \
    MetricData.member.2.MetricName=VipRoutesWrong \
    "MetricData.member.2.Value=$(cat "$VIP_STATE/wrong" 2> /dev/null || echo 0)" \
    MetricData.member.3.MetricName=WitnessUnreachable "MetricData.member.3.Value=$1") \
    || log "can't report to CloudWatch: $text"
}

gave_up=0 back_after=0 pause=5
held=0            # since when this node has the address, seconds; 0 while it has not
refused_at=""     # the witness's count of grants when it first refused us
refusals_end=0    # by then a dead holder's lease has ended
doubts=0          # rounds in a row in which neither the witness nor a peer could be reached
refusals=0        # the witness's count of refusals, as last seen
announcements=0   # how often the address is still to be announced again
unreachable=0     # since when the witness can't be reached
job=0 next_look=0 next_report=0

log "keeps $VIP on $NODE: witness $WITNESS, peers $PEERS, $(wc -w <<< "$ROUTE_TABLES") route tables"
while :; do
  serve
  if holds_vip; then
    now=$EPOCHSECONDS
    if ((gave_up == 1)); then
      # Keepalived takes it off within milliseconds.
      rest 0.1
      continue
    fi
    if ((held == 0)); then
      held=$now doubts=0 refused_at=""
      next_look=$((now + VIP_RECONCILE_SECONDS)) next_report=$now
    fi
    may=0
    may_hold && may=1
    if [[ "$lease" == unknown ]]; then
      ((unreachable > 0)) || unreachable=$now
      if ((now - unreachable >= VIP_WITNESS_SECONDS)); then
        alarm witness "$VIP: the witness can't be reached" \
          "$NODE holds $VIP and hasn't reached the witness at $WITNESS for $((now - unreachable)) s (other load balancers: $peers). The address works, but losing another load balancer now takes it away." &
      fi
    elif ((unreachable > 0)); then
      unreachable=0
      clear_alarm witness "$NODE reaches the witness again." &
    fi
    wait_for=0.25
    if [[ "$lease" == granted || "$lease" == young ]]; then
      # A witness that was started again counts from the beginning.
      ((lease_refusals >= refusals)) || refusals=0
      # Another node has told the network that the address is there. It is about to let go, but nobody would notice.
      ((lease_refusals == refusals)) || { refusals=$lease_refusals && announcements=4; }
    fi
    if ((may == 1)); then
      doubts=0 refused_at=""
      # Renewing faster proves to it sooner that this node is alive.
      ((announcements > 0)) && ((announcements--)) && announce && wait_for=0.1
      # It has held for a while: the next trouble is a new one.
      ((now - held > 60)) && pause=5
      if has_cloud && ((now >= next_look)) && ! { ((job > 0)) && kill -0 "$job" 2> /dev/null; }; then
        next_look=$((now + VIP_RECONCILE_SECONDS))
        reconcile &
        job=$!
      fi
      if has_cloud && ((now >= next_report)); then
        next_report=$((now + VIP_METRICS_SECONDS))
        report "$((unreachable > 0))" &
      fi
    elif [[ "$lease" == refused ]]; then
      wait_for=0.1
      if [[ -z "$refused_at" ]]; then
        refused_at=$lease_grants refusals_end=$((${EPOCHREALTIME/./} + (lease_ms + 500) * 1000))
      elif ((lease_grants >= refused_at + 2)); then
        # Once may have been the last renewal of a node that is just giving it up.
        give_up "the witness gave it to another node, which is alive"
      elif ((${EPOCHREALTIME/./} > refusals_end)); then
        give_up "the witness gave it to another node"
      fi
    elif [[ "$peers" == holds ]]; then
      give_up "another node has it too, and the witness can't be reached"
    elif [[ "$lease" == young ]]; then
      # The other is dead, or it is being refused: asking often tells it that this node is alive.
      doubts=0 refused_at="" wait_for=0.1
      ((announcements > 0)) && ((announcements--)) && announce
    elif wait_for=0.02 && ((++doubts >= 2)); then
      give_up "neither the witness nor another load balancer can be reached"
    fi
  else
    # The hook gives the lease back too, but a renewal may have come after it.
    ((held > 0)) && release_lease
    held=0 unreachable=0
    wait_for=0.5
    if ((gave_up == 1)); then
      look_at_lease
      if [[ "$leaseholder" == "" || "$leaseholder" == "$NODE" ]]; then
        come_back "nobody has its lease"
      elif ((EPOCHSECONDS >= back_after)); then
        ask_peers
        if [[ "$peers" != silent ]]; then
          come_back "another load balancer can be reached"
        else
          back_after=$((EPOCHSECONDS + 1))
        fi
      fi
    fi
  fi
  rest "$wait_for"
done
