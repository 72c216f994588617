/* Three habits that ClickHouse 18.16 loses where this is preloaded into the server; current servers have none of them. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/*
 * It stores what it reads from Kafka when 65,536 rows are there, or when nothing has come for two seconds: each time that
 * it has read all that came, it asks four times, for half a second each, whether there is more. So a lone event was
 * stored after two seconds, and under a steady trickle nothing was stored for hours. Current servers store after
 * stream_flush_interval_ms, which the stacks set to half a second. Here that is so too: it waits for a quarter of that
 * each time, and half a second after the first message of a block there is nothing more for it until the block is stored.
 */
enum { flush_ms = 500, asks = 4, most = 32 };

/** What is known of a consumer, which one thread at a time asks. */
struct feed {
  void *consumer;
  /** When the first message of this block came; 0 before that. */
  long first_ms;
  /** How often in a row there was nothing. */
  int nothing;
  /** When it was last asked. */
  long asked_ms;
  /** What the server reads instead of its message, until it asks for the next. */
  char *row;
  size_t room;
};

static long now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000L + now.tv_nsec / 1000000L;
}

/** A new consumer takes the place of the one that was not asked for longest. */
static struct feed *feed_of(void *consumer, long now) {
  static struct feed feeds[most];
  static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  struct feed *found = feeds;
  pthread_mutex_lock(&lock);
  for (struct feed *feed = feeds; feed < feeds + most; feed++) {
    if (feed->consumer == consumer) {
      found = feed;
      break;
    }
    if (feed->asked_ms < found->asked_ms) found = feed;
  }
  if (found->consumer != consumer) *found = (struct feed){consumer, 0, 0, 0, found->row, found->room};
  found->asked_ms = now;
  pthread_mutex_unlock(&lock);
  return found;
}

/*
 * A message that it can't parse stops its partition and others with it, and it can't say where in Kafka a row was.
 * Current servers set the message aside (kafka_handle_error_mode) and have columns that say it. Here each message gets
 * the fields of these columns, and what it could not parse becomes a row with nothing but these. It is strict: a row is
 * one flat object of texts, and of whole numbers where the columns are numbers.
 */

/** librdkafka's rd_kafka_message_t. */
struct message {
  int error;
  void *topic;
  int partition;
  char *payload;
  size_t length;
  void *key;
  size_t key_length;
  long long offset;
  void *own;
};

/** Fields that are numbers, or were in earlier releases, and the largest of each. */
static const struct {
  const char *name;
  unsigned long largest;
} numbers[] = {
    {"event_timestamp", 0xffffffff}, {"is_threat", 0xff}, {"mark_awaited_until", 0xffffffff}, {"is_undated", 0xff}};

enum { most_fields = 64 };

struct text {
  const char *at, *end;
};

static void skip_space(struct text *text) {
  while (text->at < text->end && strchr(" \t\r\n", *text->at) && *text->at) text->at++;
}

static int takes(struct text *text, char wanted) {
  skip_space(text);
  if (text->at == text->end || *text->at != wanted) return 0;
  text->at++;
  return 1;
}

/** Four hexadecimal digits, or -1. */
static long hex4(const char *at, const char *end) {
  long value = 0;
  if (end - at < 4) return -1;
  for (int n = 0; n < 4; n++) {
    char c = at[n] | 32;
    if (c >= '0' && c <= '9') value = value * 16 + c - '0';
    else if (c >= 'a' && c <= 'f') value = value * 16 + c - 'a' + 10;
    else return -1;
  }
  return value;
}

/** Why it is no string, or 0; `inside` is what stands between the quotes. */
static const char *takes_string(struct text *text, struct text *inside) {
  if (!takes(text, '"')) return "a text in quotes is missing";
  inside->at = text->at;
  for (; text->at < text->end; text->at++) {
    if (*text->at == '"') {
      inside->end = text->at++;
      return 0;
    }
    if (*text->at != '\\') continue;
    if (++text->at == text->end) break;
    if (!strchr("\"\\/bfnrtu", *text->at) || !*text->at) return "an escape that JSON doesn't know";
    if (*text->at != 'u') continue;
    long code = hex4(text->at + 1, text->end);
    if (code < 0) return "an escape without four digits";
    text->at += 4;
    if (code >= 0xdc00 && code < 0xe000) return "half of a surrogate pair";
    if (code < 0xd800 || code >= 0xdc00) continue;
    if (text->end - text->at < 7 || text->at[1] != '\\' || text->at[2] != 'u') return "half of a surrogate pair";
    code = hex4(text->at + 3, text->end);
    if (code < 0xdc00 || code >= 0xe000) return "half of a surrogate pair";
    text->at += 6;
  }
  return "a text that does not end";
}

static int same(const struct text *one, const char *name) {
  size_t length = strlen(name);
  return (size_t)(one->end - one->at) == length && !memcmp(one->at, name, length);
}

/** Why a message is no row, or 0; `end` is where its object ends. */
static const char *no_row(struct text text, const char **end) {
  struct text names[most_fields], value;
  const char *why;
  int fields = 0;
  if (!takes(&text, '{')) return "not a JSON object";
  if (takes(&text, '}')) return "an object without fields";
  do {
    if (fields == most_fields) return "too many fields";
    struct text *name = &names[fields];
    if ((why = takes_string(&text, name))) return why;
    for (int n = 0; n < fields; n++)
      if (names[n].end - names[n].at == name->end - name->at &&
          !memcmp(names[n].at, name->at, name->end - name->at))
        return "a field that is there twice";
    fields++;
    if (name->at < name->end && *name->at == '_') return "a field that begins with _";
    if (!takes(&text, ':')) return "a field without a value";
    skip_space(&text);
    unsigned long largest = 0;
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
      if (same(name, numbers[n].name)) largest = numbers[n].largest;
    if (!largest) {
      if ((why = takes_string(&text, &value))) return why;
      continue;
    }
    unsigned long number = 0;
    const char *first = text.at;
    for (; text.at < text.end && *text.at >= '0' && *text.at <= '9' && number <= largest; text.at++)
      number = number * 10 + *text.at - '0';
    if (text.at == first || number > largest) return "a field that is not its number";
  } while (takes(&text, ','));
  if (!takes(&text, '}')) return "an object that does not end";
  *end = text.at - 1;
  skip_space(&text);
  return text.at == text.end ? 0 : "more than one object";
}

/** Escapes bytes for a JSON string; returns the end. */
static char *escaped(char *to, const char *from, size_t length) {
  for (size_t n = 0; n < length; n++) {
    unsigned char c = from[n];
    if (c == '"' || c == '\\') *to++ = '\\', *to++ = c;
    else if (c < 0x20) to += sprintf(to, "\\u%04x", c);
    else *to++ = c;
  }
  return to;
}

static void mark_row(struct feed *feed, struct message *message) {
  static const char *(*name_of)(void *);
  static long long (*time_of)(void *, int *);
  if (!name_of) name_of = (const char *(*)(void *))dlsym(RTLD_NEXT, "rd_kafka_topic_name");
  if (!time_of) time_of = (long long (*)(void *, int *))dlsym(RTLD_NEXT, "rd_kafka_message_timestamp");
  size_t needed = message->length * 6 + 1024;
  if (needed > feed->room) {
    char *row = realloc(feed->row, needed);
    if (!row) return;
    feed->row = row;
    feed->room = needed;
  }
  int kind;
  long long time_ms = time_of(message, &kind);
  const char *end, *why = no_row((struct text){message->payload, message->payload + message->length}, &end);
  char *to = feed->row;
  if (!why) {
    memcpy(to, message->payload, end - message->payload);
    to += end - message->payload;
  } else {
    to += sprintf(to, "{\"_error\":\"%s\",\"_raw_message\":\"", why);
    to = escaped(to, message->payload, message->length);
    *to++ = '"';
  }
  to += sprintf(to, ",\"_topic\":\"%s\",\"_partition\":%d,\"_offset\":%lld,\"_timestamp\":%lld}",
                name_of(message->topic), message->partition, message->offset, time_ms > 0 ? time_ms / 1000 : 0);
  message->payload = feed->row;
  message->length = to - feed->row;
}

void *rd_kafka_consumer_poll(void *consumer, int timeout_ms) {
  static void *(*poll)(void *, int);
  if (!poll) poll = (void *(*)(void *, int))dlsym(RTLD_NEXT, "rd_kafka_consumer_poll");
  long now = now_ms();
  struct feed *feed = feed_of(consumer, now);
  long wait_ms = flush_ms / asks;
  if (feed->first_ms && feed->first_ms + flush_ms - now < wait_ms) wait_ms = feed->first_ms + flush_ms - now;
  if (wait_ms > timeout_ms) wait_ms = timeout_ms;
  void *message = wait_ms > 0 || !feed->first_ms ? poll(consumer, wait_ms) : 0;
  if (message) {
    feed->nothing = 0;
    if (!feed->first_ms) feed->first_ms = now_ms();
    if (!((struct message *)message)->error) mark_row(feed, message);
  } else if (++feed->nothing == asks) {
    feed->nothing = 0;
    feed->first_ms = 0;
  }
  return message;
}

/*
 * Where it stops, or drops a queue, in the middle of a block, librdkafka may abort (rdkafka_cgrp.c, "assert:
 * !rkcg->rkcg_subscription"; decision 17), and the server's own handler of that signal hangs for ever. It ends instead.
 */
void abort(void) {
  static const char text[] = "aborted: ends with 134, see habits.c of the stand-in\n";
  if (write(2, text, sizeof text - 1) < 0) _exit(135);
  _exit(134);
}
