// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The drop program for the bcc engine; see traffic.bcc.c. CILIARY_CONSTANTS has the bytes of
 * drop_settings. It is a raw tracepoint, which has the same arguments without BTF. bcc has no
 * read-only data for a format, so functions have no names here, and netfilter's hooks none.
 */
#include "kernel.h"
#include "drops.h"

#ifndef SIZE_drops
#define SIZE_drops (1 << 20)
#endif

BPF_RINGBUF_OUTPUT(drops, SIZE_drops / 4096);
BPF_PERCPU_ARRAY(drop_counters, __u64, DROP_COUNTERS);
BPF_TABLE("hash", struct drop_rule, __u8, drop_rules, 1024);
BPF_TABLE("hash", __u32, __u8, namespaces, 8192);
BPF_PERCPU_ARRAY(drop_scratch, struct scratch, 1);

static __always_inline struct drop_settings get_settings(void)
{
	union {
		__u8 bytes[sizeof(struct drop_settings)];
		struct drop_settings settings;
	} constants = {.bytes = {CILIARY_CONSTANTS}};

	return constants.settings;
}

static __always_inline void count(__u32 what)
{
	drop_counters.increment(what);
}

static __always_inline int is_listed(__u32 netns)
{
	return namespaces.lookup(&netns) != 0;
}

static __always_inline int has_rule(struct drop_rule *rule)
{
	return drop_rules.lookup(rule) != 0;
}

static __always_inline struct scratch *get_scratch(void)
{
	int zero = 0;

	return drop_scratch.lookup(&zero);
}

static __always_inline struct drop_record *reserve_drop(void)
{
	return drops.ringbuf_reserve(sizeof(struct drop_record));
}

static __always_inline void submit_drop(struct drop_record *drop)
{
	drops.ringbuf_submit(drop, 0);
}

static __always_inline void name_places(void *ctx, struct drop_record *drop,
					struct scratch *scratch, __u32 netfilter_reason)
{
}

#include "drop_programs.h"

int drop_packet(struct bpf_raw_tracepoint_args *ctx)
{
	__u32 reason = HAS_DROP_REASON ? ctx->args[2] : 0;
	struct sock *receiver = HAS_RECEIVER ? (void *)ctx->args[3] : 0;

	return on_drop(ctx, (void *)ctx->args[0], ctx->args[1], reason, receiver);
}
