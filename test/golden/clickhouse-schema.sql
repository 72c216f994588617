CREATE DATABASE IF NOT EXISTS dev ON CLUSTER siem_cluster;

CREATE TABLE IF NOT EXISTS dev.events_replicated ON CLUSTER siem_cluster (
  event_id String,
  tenant_id String,
  event_timestamp UInt32,
  source_ip String,
  source_type String,
  raw_event String,
  event_category String,
  event_outcome String,
  event_action String,
  is_threat UInt8
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/events', '{replica}')
PARTITION BY toYYYYMM(toDateTime(event_timestamp))
ORDER BY (tenant_id, event_timestamp, event_id);

CREATE TABLE IF NOT EXISTS dev.events_queue ON CLUSTER siem_cluster (
  event_id String,
  tenant_id String,
  event_timestamp UInt32,
  source_ip String,
  source_type String,
  raw_event String,
  event_category String,
  event_outcome String,
  event_action String,
  is_threat UInt8
) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092,kafka-2:9092,kafka-3:9092', kafka_topic_list = 'ingest-events',
  kafka_group_name = 'clickhouse-ingest-events', kafka_format = 'JSONEachRow', kafka_num_consumers = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS dev.events_consumer ON CLUSTER siem_cluster TO dev.events_replicated AS
SELECT event_id, tenant_id, event_timestamp, source_ip, source_type, raw_event, event_category, event_outcome, event_action, is_threat FROM dev.events_queue;

CREATE TABLE IF NOT EXISTS dev.alerts_replicated ON CLUSTER siem_cluster (
  alert_id String,
  tenant_id String,
  event_id String,
  event_timestamp UInt32,
  source_ip String,
  rule String,
  severity String,
  summary String
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/alerts', '{replica}')
PARTITION BY toYYYYMM(toDateTime(event_timestamp))
ORDER BY (tenant_id, event_timestamp, alert_id);

CREATE TABLE IF NOT EXISTS dev.alerts_queue ON CLUSTER siem_cluster (
  alert_id String,
  tenant_id String,
  event_id String,
  event_timestamp UInt32,
  source_ip String,
  rule String,
  severity String,
  summary String
) ENGINE = Kafka SETTINGS kafka_broker_list = 'kafka-1:9092,kafka-2:9092,kafka-3:9092', kafka_topic_list = 'alerts',
  kafka_group_name = 'clickhouse-alerts', kafka_format = 'JSONEachRow', kafka_num_consumers = 1;

CREATE MATERIALIZED VIEW IF NOT EXISTS dev.alerts_consumer ON CLUSTER siem_cluster TO dev.alerts_replicated AS
SELECT alert_id, tenant_id, event_id, event_timestamp, source_ip, rule, severity, summary FROM dev.alerts_queue;
