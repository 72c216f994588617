# shellcheck shell=bash disable=SC2034,SC2153 # Variables are read, and settings are set, in other files.
# What the hook and the keeper of the virtual IP share: who may hold it, the routes that follow it, and alarms.
# Read by bash; it expects the settings of components/render/keepalived.ts and does nothing by itself.

: "${VIP_SETTINGS:=/etc/siem-ha/vip.conf}" "${VIP_TOKEN:=/etc/siem-ha/witness-token}" "${VIP_STATE:=/run/vip}"
export LC_ALL=C
# Keepalived runs its scripts with a mask that takes even the owner's rights away.
umask 077
# How long a lease lasts, and how many seconds one question to the witness or to a peer may take. A holder that gets no
# answer has let go before its lease ends, so that the next one's begins when this one holds no more. The witness gives
# no longer lease, and is young for as long.
lease_ms=1500
ask_seconds=0.25
# A witness that is there answers within milliseconds: after so many seconds the peers are asked too. The other node has
# the address by then, and every tenth of a second that this one holds it on is one with two holders.
slow_seconds=0.1

log() { echo "vip: $*" >&2; }

# Reads the settings. Without them this node's address has neither routes nor a witness, and there is nothing to do.
load_settings() {
  [[ -r "$VIP_SETTINGS" ]] || return 1
  # shellcheck disable=SC1090 # Its lines are checked where they are made.
  source "$VIP_SETTINGS"
  : "${ROUTE_TABLES:=}"
}

# Routes have to follow the address; elsewhere the network follows it by itself.
has_cloud() { [[ -n "$ROUTE_TABLES" ]]; }

# Makes the keeper look at once.
wake_keeper() { ring wake; }

# Has this node's card announced once more; somebody else has announced another one.
announce() { ring announce; }

# Opened for reading too, because it must not wait for a reader that is not there.
ring() { # name of a pipe
  [[ ! -p "$VIP_STATE/$1" ]] || echo 1<> "$VIP_STATE/$1"
}

# This node has the address. PREFIX/32 finds it whatever its mask is.
holds_vip() { [[ -n "$(ip -o -4 address show to "$VIP/32" 2> /dev/null)" ]]; }

# ---- Who may hold it -----------------------------------------------------------------------------------------------

# Asks the witness; its token goes in on standard input, so that no list of processes shows it.
witness() { # method path [body]
  local method=$1 path=$2 body=${3:-} token
  read -r token < "$VIP_TOKEN" || [[ -n "$token" ]] || return 1
  printf 'header = "authorization: Bearer %s"\n' "$token" \
    | curl -sS -K - -X "$method" --connect-timeout "$ask_seconds" --max-time "$ask_seconds" -w '\n%{http_code}' \
      ${body:+-H 'content-type: application/json' --data "$body"} "$WITNESS$path" 2> /dev/null
}

# Number or text of a field in one flat JSON object.
json_field() { # json name
  local pattern="\"$2\" *: *(\"([^\"]*)\"|[0-9]+)"
  [[ "$1" =~ $pattern ]] || return 1
  echo "${BASH_REMATCH[2]:-${BASH_REMATCH[1]}}"
}

# Asks for the lease or renews it. Sets `lease` to granted, refused, unknown, or young: a witness that has just started
# may not grant anything yet, but this node is not cut off, and the witness will refuse others. Sets `lease_grants` to
# the witness's count of grants: where that grows while we are refused, the other holder is alive. Sets `lease_refusals`
# to its count of refusals: where that grows while we are not refused, another node claims the address.
# Runs the command given to it when the answer takes its time.
ask_lease() { # command
  local reply answer="" rest=""
  exec {reply}< <(witness PUT /lease "{\"holder\":\"$NODE\",\"ttlMs\":$lease_ms}")
  # It reads to the end; above 128 it is the time that ended it.
  IFS= read -rd '' -t "$slow_seconds" -u "$reply" answer
  if (($? > 128)); then
    "$@"
    IFS= read -rd '' -u "$reply" rest
    answer+=$rest
  fi
  exec {reply}<&-
  lease_grants=$(json_field "$answer" grants) || lease_grants=""
  lease_refusals=$(json_field "$answer" refusals) || lease_refusals=0
  case "${answer##*$'\n'}" in
    200) lease=granted ;;
    409) lease=refused ;;
    503) lease=young ;;
    *) lease=unknown ;;
  esac
}

# Gives the lease back, so that the next holder need not wait until it ends.
release_lease() { witness DELETE "/lease/$NODE" > /dev/null; }

# Who has the lease: sets `leaseholder` to a node's name, to nothing, or to "?" when the witness can't say.
look_at_lease() {
  local answer
  answer=$(witness GET /lease)
  if [[ "${answer##*$'\n'}" == 200 ]]; then
    leaseholder=$(json_field "$answer" holder) || leaseholder=""
  else
    leaseholder="?"
  fi
}

# Asks the other load balancers. Sets `peers` to
#   holds    one of them has the address too,
#   free     at least one can be reached, and none has it,
#   silent   none can be reached.
# A refused connection is an answer: that node is there, but its Keepalived, and so its address, is not.
ask_peers() {
  local peer answer
  peers=silent
  for peer in $PEERS; do
    # In the message of 7 curl has one text for a refusal and for a missing route; bash tells them apart.
    answer=$(curl -sS --max-time "$ask_seconds" "http://$peer:$KEEPER_PORT/" 2> /dev/null)
    (($? == 7)) && answer=$(timeout "$ask_seconds" bash -c ": < /dev/tcp/$peer/$KEEPER_PORT" 2>&1)
    case "$answer" in
      holds) peers=holds && return ;;
      free | *"Connection refused"*) peers=free ;;
    esac
  done
}

# For may_hold, whose `beside` it sets: asks the peers while the witness is being asked.
ask_beside() {
  [[ -n "$beside" ]] || exec {beside}< <(ask_peers && echo "$peers")
}

# This node may be the holder, and so may write routes. The witness decides. Where it can't be asked, VRRP's choice
# stands if a peer confirms it; a node that sees neither must assume that it is the one cut off.
# Sets `lease` as ask_lease does, and `peers` where they were asked.
may_hold() {
  local beside=""
  peers=""
  # Nobody has answered the last time: both are asked at once, so that a node that is cut off lets go the sooner.
  ((${doubts:-0} == 0)) || ask_beside
  ask_lease ask_beside
  if [[ -n "$beside" ]]; then
    [[ "$lease" == granted || "$lease" == refused ]] || read -r peers <&"$beside"
    exec {beside}<&-
  fi
  case "$lease" in
    granted) return 0 ;;
    refused) return 1 ;;
  esac
  [[ -n "$peers" ]] || ask_peers
  [[ "$peers" == free ]] && return 0
  # Both claim it, and nobody is there to settle it: the first by rank keeps it.
  [[ "$peers" == holds && "$RANK" == first ]]
}

# ---- Calls to AWS --------------------------------------------------------------------------------------------------

# Keys of the instance's role, by IMDSv2. Kept in this process's memory until five minutes before they end.
access_key="" secret_key="" session_token="" keys_end=0
load_keys() { # [fresh]
  local base="${METADATA_URL:-http://169.254.169.254}/latest" token role keys end
  ((keys_end > EPOCHSECONDS)) && [[ "${1:-}" != fresh ]] && return 0
  keys_end=0
  token=$(curl -sSf --connect-timeout 1 --max-time 2 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' \
    "$base/api/token" 2> /dev/null) || return 1
  role=$(metadata "$token" "$base/meta-data/iam/security-credentials/") || return 1
  keys=$(metadata "$token" "$base/meta-data/iam/security-credentials/${role%%$'\n'*}") || return 1
  access_key=$(json_field "$keys" AccessKeyId) && secret_key=$(json_field "$keys" SecretAccessKey) \
    && session_token=$(json_field "$keys" Token) && end=$(json_field "$keys" Expiration) || return 1
  end=$(date -d "$end" +%s 2> /dev/null) || end=$((EPOCHSECONDS + 600))
  keys_end=$((end - 300))
}

metadata() { # token url
  printf 'header = "X-aws-ec2-metadata-token: %s"\n' "$1" \
    | curl -sSf -K - --connect-timeout 1 --max-time 2 "$2" 2> /dev/null
}

# A signed call of a query API: prints the answer. On failure prints the cause, as AWS words it, and returns 1.
aws_call() { # service host-prefix version action [name=value …]
  local service=$1 url="${AWS_ENDPOINT_URL:-https://$2.$REGION.$DNS_SUFFIX}/" answer code text data=()
  data=(--data-urlencode "Version=$3" --data-urlencode "Action=$4")
  shift 4
  for text; do data+=(--data-urlencode "$text"); done
  answer=$(printf 'user = "%s:%s"\nheader = "x-amz-security-token: %s"\n' \
    "$access_key" "$secret_key" "$session_token" \
    | curl -sS -K - --aws-sigv4 "aws:amz:$REGION:$service" --connect-timeout 1 --max-time 4 \
      -w '\n%{http_code}' "${data[@]}" "$url" 2>&1)
  code=${answer##*$'\n'}
  answer=${answer%$'\n'*}
  if [[ "$code" == 2?? ]]; then
    echo "$answer"
    return 0
  fi
  if [[ "$answer" =~ \<Code\>([^<]*)\</Code\> ]]; then
    text=${BASH_REMATCH[1]}
    [[ "$answer" =~ \<Message\>([^<]*)\</Message\> ]] && text+=": ${BASH_REMATCH[1]}"
  else
    text="${answer//$'\n'/ }"
  fi
  echo "${text:-HTTP $code}"
  return 1
}

replace_route() { # route table
  aws_call ec2 ec2 2016-11-15 ReplaceRoute "RouteTableId=$1" "DestinationCidrBlock=$VIP/32" \
    "NetworkInterfaceId=$NETWORK_INTERFACE"
}

# Points the named tables (`name=id …`) to this node, all at once, and tries again those that fail, for as long as the
# address is ours. Alarms for each that can't be moved. Returns 1 if one is left.
write_routes() {
  local pending=("$@") failed entry work round delay pid result=0
  local -A pids=()
  local delays=()
  read -ra delays <<< "0 ${VIP_RETRY_DELAYS:-0.2 0.4 0.8 1.6 2}"
  work=$(mktemp -d "$VIP_STATE/write.XXXXXX") || return 1
  for round in "${!delays[@]}"; do
    delay=${delays[round]}
    if ((round > 0)); then
      sleep "$delay"
      # Too late: a write now would take the routes from the node that has the address.
      if ! holds_vip || ! may_hold; then
        log "leaves ${#pending[@]} route(s) alone: the address is another node's now"
        rm -rf "$work"
        return 0
      fi
    fi
    if ! load_keys "$( ((round < 2)) || echo fresh)"; then
      log "attempt $((round + 1)): no credentials from the instance's metadata"
      for entry in "${pending[@]}"; do echo "no credentials from the instance's metadata" > "$work/${entry%%=*}"; done
      continue
    fi
    pids=() failed=()
    for entry in "${pending[@]}"; do
      replace_route "${entry#*=}" > "$work/${entry%%=*}" &
      pids[$entry]=$!
    done
    for entry in "${pending[@]}"; do
      pid=${pids[$entry]}
      if wait "$pid"; then
        log "route table ${entry%%=*} (${entry#*=}) points to $NETWORK_INTERFACE"
        clear_alarm "write-${entry%%=*}" "Route table ${entry%%=*} (${entry#*=}) points to $NODE again."
      else
        failed+=("$entry")
        log "route table ${entry%%=*} (${entry#*=}), attempt $((round + 1)): $(< "$work/${entry%%=*}")"
      fi
    done
    pending=("${failed[@]}")
    ((${#pending[@]} == 0)) && break
  done
  for entry in "${pending[@]}"; do
    result=1
    alarm "write-${entry%%=*}" "$VIP: a route can't be moved" \
      "$NODE holds $VIP, but route table ${entry%%=*} (${entry#*=}) can't be made to point to it (${#delays[@]} attempts): $(< "$work/${entry%%=*}")
Until then the subnets of that table don't reach the address. $NODE goes on trying."
  done
  rm -rf "$work"
  return "$result"
}

# ---- Alarms --------------------------------------------------------------------------------------------------------

# Tells people, at most every half hour about the same thing. What can't be sent is tried again after a minute, and is
# in the log at least.
alarm() { # key subject text
  local file="$VIP_STATE/alarm-$1" next=0
  [[ -r "$file" ]] && read -r next < "$file"
  ((EPOCHSECONDS < ${next:-0})) && return 0
  log "ALARM: $2: $3"
  echo "$((EPOCHSECONDS + 1800))" > "$file"
  if ! publish "$2" "$3"; then
    log "the alarm could not be sent: $published"
    echo "$((EPOCHSECONDS + 60))" > "$file"
  fi
}

# Says that it is over, if it was ever said.
clear_alarm() { # key text
  [[ -e "$VIP_STATE/alarm-$1" ]] || return 0
  rm -f "$VIP_STATE/alarm-$1"
  publish "$VIP: resolved" "$2" || log "the all-clear could not be sent: $published"
}

publish() { # subject text
  has_cloud || return 0
  published="no credentials from the instance's metadata"
  load_keys || return 1
  published=$(aws_call sns sns 2010-03-31 Publish "TopicArn=$TOPIC" "Subject=siem-ha: $1" "Message=$2")
}
