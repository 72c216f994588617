// haproxy.cfg as text: typed data in, text out.

import { ports } from "../ports.ts";
import { type HttpReplica, type Topology } from "../topology.ts";
import { answerSeconds, ownAnswers, retryAfter } from "./own-answers.ts";

/** The user of the statistics page; its password is a stack secret. */
export const statsUser = "admin";

/**
 * Fast checks instead of every 30 s, for events and syslog alike. A server that goes down loses its running requests,
 * so what takes it down must be sure: a connection that is refused, or that nobody answers, within a second.
 */
const checkPace =
  "default-server inter 1s fastinter 200ms downinter 1s fall 2 rise 1 on-marked-down shutdown-sessions";

/**
 * One that takes the check's connection may only be slow: it has so long to answer, seconds, twice in a row. Posts that
 * are cut may be stored all the same; reads are asked again elsewhere, so they need no such patience.
 */
const patienceSeconds = 3;

/**
 * Connections at once. HAProxy accepts none at all beyond `all`, and Keepalived's health check would fail with the rest:
 * whoever opened that many half requests moved the virtual IP from node to node. So each entry has a share of its own, and
 * `all` has 256 more, which only the health check can take. A share that is full lets its clients wait in the kernel's
 * queue and touches no other. 512 senders of syslog for each of three ingestors are what these take themselves.
 *
 * One address gets `fromOne` of each entry: enough for hundreds of senders behind one NAT or relay, and for the load tests
 * (64), and three such addresses don't fill the entries for events. Connections to servers come on top, so HAProxy
 * needs two file descriptors for each of `all`; it asks for them when it starts, and does not start without.
 */
export const connections = {
  all: 4096,
  api: 896,
  ingest: 1280,
  syslog: 1536,
  stats: 128,
  fromOne: 400,
} as const;

/** A public entry's share, and one address's part of it. What is refused counts as denied on the statistics page. */
function shareOf(entry: "api" | "ingest" | "syslog"): string {
  return `    maxconn ${connections[entry]}
    stick-table type ip size 4k expire 1m store conn_cur
    tcp-request connection track-sc0 src
    tcp-request connection reject if { sc0_conn_cur gt ${connections.fromOne} }`;
}

function answers(given: Readonly<Record<number, readonly [code: string, message: string]>>): string {
  return Object.entries(given)
    .map(([status, [error, message]]) => {
      const later = Number(status) >= 500 ? ` hdr Retry-After ${retryAfter}` : "";
      return `    http-error status ${status} content-type application/json string '${JSON.stringify({ error, message })}'${later}`;
    })
    .join("\n");
}

function servers(prefix: string, replicas: readonly HttpReplica[]): string {
  return replicas.map((r) => `    server ${prefix}${r.slot} ${r.node.address}:${r.port} check`).join("\n");
}

/**
 * Syslog as it comes, to the ingestor with the fewest connections. Lines are rare on some connections, so an idle one
 * stays for hours; a connection belongs to one replica, and its sender connects again when that one stops.
 */
function syslogEntry({ ingestor }: Topology): string {
  const lines = ingestor.flatMap(({ slot, node, port, syslogPort }) =>
    syslogPort === undefined
      ? []
      : [`    server ingestor${slot} ${node.address}:${syslogPort} check port ${port}`],
  );
  if (lines.length === 0) return "";
  return `
defaults
    log global
    mode tcp
    option tcplog
    option dontlognull
    option redispatch
    retries 3
    timeout connect 2s
    timeout client 4h
    timeout server 4h
    ${checkPace}

frontend siem_syslog
    bind *:${ports.syslog.number}
${shareOf("syslog")}
    default_backend siem_syslog_backend

backend siem_syslog_backend
    balance leastconn
    option httpchk GET /health
    http-check expect status 200
    timeout check ${patienceSeconds}s
    http-check disable-on-404
${lines.join("\n")}
`;
}

/**
 * The load balancer's configuration, without any secret: the users of the statistics page stand in a second file
 * ({@link renderStatsUsers}).
 */
export function renderHaproxy(topology: Topology): string {
  return `# Rendered from components/render/haproxy.ts; changes here are lost at the next up.
global
    log stdout format raw local0 info
    maxconn ${connections.all}
    stats socket /var/run/haproxy/admin.sock mode 660 level admin expose-fd listeners
    stats timeout 30s
    hard-stop-after 30s

defaults
    log global
    mode http
    option httplog
    option dontlognull
    option forwardfor
    option redispatch
    option idle-close-on-response
    retries 3
    timeout connect 2s
    timeout client ${answerSeconds}s
    timeout server ${answerSeconds}s
    timeout http-request 10s
    timeout http-keep-alive 10s
    timeout queue 10s
    ${checkPace}

frontend siem_api
    bind *:${ports.haproxyApi.number}
${shareOf("api")}
    default_backend siem_api_backend

frontend siem_ingestor
    bind *:${ports.haproxyIngest.number}
${shareOf("ingest")}
    default_backend siem_ingestor_backend

backend siem_api_backend
    balance roundrobin
    # Only reads come here, so an answer that never came may be asked for again.
    retry-on conn-failure empty-response
    # The query of a client that has gone away ends too.
    option abortonclose
    option httpchk GET /v1/health
    http-check expect status 200
    http-check disable-on-404
${answers(ownAnswers.api)}
${servers("api", topology.api)}

backend siem_ingestor_backend
    balance leastconn
    # A post is sent once: only one that reached no server goes to another.
    retry-on conn-failure
    option httpchk GET /health
    http-check expect status 200
    timeout check ${patienceSeconds}s
    # A server that stops, or has lost Kafka, answers 404: it gets no new posts, and finishes the ones it has.
    http-check disable-on-404
${answers(ownAnswers.ingest)}
${servers("ingestor", topology.ingestor)}

frontend stats
    bind *:${ports.haproxyStats.number}
    maxconn ${connections.stats}
    http-request auth realm siem-ha unless { http_auth(stats_users) }
    stats enable
    stats uri /stats
    stats refresh 10s

frontend health
    bind 127.0.0.1:${ports.haproxyHealth.number}
    option dontlog-normal
    http-request return status 200 content-type text/plain string ok
${syslogEntry(topology)}`;
}

/** The users of the statistics page: the only part of the configuration that is secret. */
export function renderStatsUsers(password: string): string {
  return `userlist stats_users\n    user ${statsUser} insecure-password ${password}\n`;
}
