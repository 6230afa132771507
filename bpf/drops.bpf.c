// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Packets that the kernel dropped: tracepoint kfree_skb, one record a packet.
 *
 * What user space does not want (rules, see native_probes/drops.py) is counted
 * and not sent. Names of code addresses are worked out once an address.
 */
#include "kernel.h"
#include <bpf/bpf_tracing.h>
#include "drops.h"
#include "record.h"

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} drops SEC(".maps");
TELL_LAYOUT(drop_record)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROP_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} drop_counters SEC(".maps");

/* What is not sent. User space writes it, we look it up. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct drop_rule);
	__type(value, __u8);
} drop_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} drop_scratch SEC(".maps");

/* A section of its own: plain .rodata also collects string literals. */
const volatile struct drop_settings config SEC(".rodata.config");

static __always_inline struct drop_settings get_settings(void)
{
	return config;
}

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&drop_counters, &what);

	if (counter)
		++*counter;
}

static __always_inline int has_rule(const struct drop_rule *rule)
{
	return bpf_map_lookup_elem(&drop_rules, rule) != 0;
}

static __always_inline struct scratch *get_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&drop_scratch, &zero);
}

static __always_inline struct drop_record *reserve_drop(void)
{
	return bpf_ringbuf_reserve(&drops, sizeof(struct drop_record), 0);
}

static __always_inline void submit_drop(struct drop_record *drop)
{
	bpf_ringbuf_submit(drop, 0);
}

#include "drop_places.h"
#include "drop_programs.h"

SEC("tp_btf/kfree_skb")
int BPF_PROG(drop_packet, struct sk_buff *skb, void *location)
{
	/* The third argument came with 5.17, and an older kernel refuses a program that reads it. */
	__u32 reason = HAS_DROP_REASON ? ctx[2] : 0;

	/* The receiving socket came later; TCP has forgotten the device when it drops. */
	struct sock *receiver = HAS_RECEIVER ? (struct sock *)ctx[3] : 0;

	return on_drop(ctx, skb, (__u64)location, reason, receiver);
}
