// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Counts every packet of a TC hook: by flow, and by interface.
 *
 * One look-up serves both directions of a flow. A packet that tells a story (the first
 * of its flow; SYN, FIN, RST) goes into a ring and is counted there; when the ring is
 * full it is counted with its flow, as all others are. So flows and events together are
 * exact, and what the flow table had no room for is the difference to the interface.
 */
#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include "record.h"

char LICENSE[] SEC("license") = "GPL";

/* A section of its own, as plain .rodata also collects what the compiler puts there. */
const volatile struct traffic_settings config SEC(".rodata.config");

static __always_inline struct traffic_settings get_settings(void)
{
	return config;
}

/* Programs insert and count; user space reads, and deletes what was idle for long. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
} flows SEC(".maps");

/* User space inserts before it attaches, and deletes after it detached. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct interface_key);
	__type(value, struct interface_value);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

TELL_LAYOUT(flow_event)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct told);
} told_flows SEC(".maps"), told_interfaces SEC(".maps");

/* Programs that want DNS packets, by point (and 2 more without a link header). */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} dns_programs SEC(".maps");

static __always_inline struct interface_value *find_interface(const struct interface_key *key)
{
	return bpf_map_lookup_elem(&interfaces, key);
}

static __always_inline struct flow_value *find_flow(const struct flow_key *key)
{
	return bpf_map_lookup_elem(&flows, key);
}

static __always_inline long insert_flow(const struct flow_key *key,
					const struct flow_value *value)
{
	return bpf_map_update_elem(&flows, key, value, BPF_NOEXIST);
}

static __always_inline struct flow_event *reserve_event(void)
{
	return bpf_ringbuf_reserve(&events, sizeof(struct flow_event), 0);
}

static __always_inline void submit_event(struct flow_event *event)
{
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP); /* the reader comes by the clock */
}

static __always_inline void hand_on(struct __sk_buff *skb, __u32 index)
{
	bpf_tail_call(skb, &dns_programs, index);
}

/* Of the kernel's enum only what we ask about: the whole would come into the object. */
enum bpf_func_id___asked { BPF_FUNC_ktime_get_coarse_ns___asked = 160 };

static __always_inline __u64 now(void)
{
	/* 5.11; costs 19 ns where the exact clock costs 44 */
	if (bpf_core_enum_value_exists(enum bpf_func_id___asked,
				       BPF_FUNC_ktime_get_coarse_ns___asked))
		return bpf_ktime_get_coarse_ns();
	return bpf_ktime_get_ns();
}

#include "traffic.h"

SEC("tc")
int ciliary_tc_in(struct __sk_buff *skb)
{
	return count(skb, ETH_HLEN, POINT_INGRESS);
}

SEC("tc")
int ciliary_tc_out(struct __sk_buff *skb)
{
	return count(skb, ETH_HLEN, POINT_EGRESS);
}

/* Devices without a link header: tun, wireguard, IP tunnels. */
SEC("tc")
int ciliary_l3_in(struct __sk_buff *skb)
{
	return count(skb, 0, POINT_INGRESS);
}

SEC("tc")
int ciliary_l3_out(struct __sk_buff *skb)
{
	return count(skb, 0, POINT_EGRESS);
}
