// What every event goes through, however it came: rules, rows, batches, and Kafka's acknowledgement.

import { HttpError } from "../common/http.ts";
import { pause, type Pause } from "../common/loop-share.ts";
import { Batcher, type Message, type Publish, sizeOf } from "./batch.ts";
import { Budget, maxHeldBytes } from "./budget.ts";
import { alertId, eventColumns, type SiemEvent } from "./event.ts";
import { type Columns, toRow } from "./row.ts";
import { type Finding, type Match, type Rule, RuleEngine } from "./rules.ts";

export interface PipelineOptions {
  readonly publisher: { readonly connected: boolean; readonly publish: Publish };
  /** Whether what is in Kafka is read in time. @default nobody looks */
  readonly feed?: { readonly stands: boolean; readonly retentionHours: number };
  readonly rules: readonly Rule[];
  readonly eventsTopic: string;
  readonly alertsTopic: string;
  /** @default what a replica's container has room for */
  readonly maxHeldBytes?: number;
}

/** Each may be looked for among a thousand. */
const settledAtOnce = 100;

const alertColumns = {
  alert_id: "String",
  tenant_id: "String",
  event_id: "String",
  event_timestamp: "UInt32",
  source_ip: "String",
  rule: "String",
  severity: "String",
  summary: "String",
} as const satisfies Columns;

/** What Kafka is to hold of some events, all of it or nothing. */
export interface Parcel {
  readonly messages: readonly Message[];
  /** Their sizes. */
  readonly sizes: readonly number[];
  /** What these events count towards bursts. */
  readonly counted: readonly Match[];
}

/** One for a replica: the listeners share its memory and its rules' counters. */
export class Pipeline {
  readonly #options: PipelineOptions;
  readonly #engine: RuleEngine;
  readonly #batcher: Batcher;
  /** What all listeners may hold. */
  readonly budget: Budget;

  constructor(options: PipelineOptions) {
    this.#options = options;
    this.#engine = new RuleEngine(options.rules);
    this.budget = new Budget(options.maxHeldBytes ?? maxHeldBytes);
    this.#batcher = new Batcher((messages) => options.publisher.publish(messages), this.budget, pause);
  }

  /** Whether Kafka can be reached. */
  get connected(): boolean {
    return this.#options.publisher.connected;
  }

  /** Whether nothing is taken because what Kafka holds is not read. */
  get feedStands(): boolean {
    return this.#options.feed?.stands === true;
  }

  /** @throws HttpError 503 when nothing can be taken at the moment */
  admit(): void {
    if (!this.connected) throw kafkaUnreachable();
    if (this.feedStands) throw feedStands(this.#options.feed!.retentionHours);
  }

  /**
   * Applies the rules, and marks the events that one found. What comes out must be sent: until then it counts.
   * @param between asked after each event
   */
  async pack(events: readonly SiemEvent[], between: Pause = pause): Promise<Parcel> {
    const { eventsTopic, alertsTopic } = this.#options;
    const counted: Match[] = [];
    const messages: Message[] = [];
    const sizes: number[] = [];
    const add = (message: Message): void => {
      messages.push(message);
      sizes.push(sizeOf(message));
    };
    try {
      for (const event of events) {
        const finding = this.#engine.find(event, counted);
        if (finding) event.is_threat = 1;
        add({ topic: eventsTopic, key: event.event_id, value: toRow(eventColumns, event) });
        if (finding) add(alertMessage(alertsTopic, event, finding));
        await between();
      }
      return { messages, sizes, counted };
    } catch (error) {
      await this.#settle(counted, false);
      throw error;
    }
  }

  /**
   * Resolves when Kafka has acknowledged all of it on all in-sync replicas. Otherwise it counts towards no burst, unless
   * it is sent again.
   * @throws HttpError 429 when there is no room for it, 503 when Kafka didn't acknowledge each message
   */
  async send({ messages, sizes, counted }: Parcel): Promise<void> {
    try {
      this.admit();
      await this.#batcher.add(messages, sizes);
    } catch (error) {
      await this.#settle(counted, false);
      if (error instanceof HttpError) throw error;
      const message = "Kafka did not acknowledge all events; send them all again";
      throw Object.assign(new HttpError(503, "not_acknowledged", message), { cause: error });
    }
    await this.#settle(counted, true);
  }

  async #settle(counted: readonly Match[], isKept: boolean): Promise<void> {
    for (let at = 0; at < counted.length; at += settledAtOnce) {
      this.#engine.settle(counted.slice(at, at + settledAtOnce), isKept);
      await pause();
    }
  }

  /** Resolves when nothing waits for Kafka any more. */
  idle(): Promise<void> {
    return this.#batcher.idle();
  }
}

function kafkaUnreachable(): HttpError {
  return new HttpError(503, "kafka_unreachable", "Kafka can't be reached; try again");
}

/** Kafka would delete what it holds before it is read: see docs/retention.md. */
function feedStands(retentionHours: number): HttpError {
  const message =
    `the readers of Kafka are more than ${retentionHours / 2} hours behind, and Kafka deletes what is ${retentionHours} ` +
    "hours old: nothing is taken until they have caught up (docs/retention.md); send all of it again later";
  // Somebody has to act first, so there is no hurry.
  return new HttpError(503, "feed_stands", message, {}, { "retry-after": "60" });
}

function alertMessage(topic: string, event: SiemEvent, finding: Finding): Message {
  const { tenant_id, event_id, event_timestamp, source_ip } = event;
  const { id: rule, severity, summary } = finding;
  const alert_id = alertId(event, rule);
  const found = { alert_id, tenant_id, event_id, event_timestamp, source_ip, rule, severity, summary };
  return { topic, key: alert_id, value: toRow(alertColumns, found) };
}
