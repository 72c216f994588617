set -eu
server=localhost:9092
# The broker's own heap setting is too large for a short-lived tool beside it.
export KAFKA_HEAP_OPTS="-Xms32m -Xmx128m"
describe() { kafka-topics --bootstrap-server $server --describe; }
current=$(describe)
while read -r topic partitions; do
  copies=$(printf '%s\n' "$current" | sed -n "s/^Topic: $topic[[:space:]].*ReplicationFactor: \([0-9]*\).*/\1/p")
  have=$(printf '%s\n' "$current" | sed -n "s/^Topic: $topic[[:space:]].*PartitionCount: \([0-9]*\).*/\1/p")
  if [ -n "$have" ] && [ "$have" -gt "$partitions" ]; then
    echo "topic $topic has $have partitions, the configuration says $partitions: Kafka can't take partitions away; set siem-ha:kafka topics.$topic.partitions to $have or more" >&2
    exit 1
  fi
  if [ -n "$copies" ] && [ "$copies" != 3 ]; then
    echo "topic $topic has $copies copies of each partition, the configuration says 3: that takes a reassignment, which up does not do; set siem-ha:kafka replicationFactor to $copies" >&2
    exit 1
  fi
  if [ -z "$have" ]; then
    kafka-topics --bootstrap-server $server --create --if-not-exists --topic "$topic" --partitions "$partitions" \
      --replication-factor 3 </dev/null
  elif [ "$have" -lt "$partitions" ]; then
    kafka-topics --bootstrap-server $server --alter --topic "$topic" --partitions "$partitions" </dev/null
  fi
done <<'TOPICS'
ingest-events 6
alerts 3
TOPICS
