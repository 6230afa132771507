// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* Copies the payload of packets from and to port 53, UDP and TCP, into a ring.
 *
 * The traffic probe hands its packets on to these programs (bpf/traffic.bpf.c), so that an
 * interface has one program of ours at each hook and other packets cost nothing here.
 * Nothing of the payload is looked at: user space parses it.
 */
#include "kernel.h"
#include "dns.h"
#include "packet.h"

char LICENSE[] SEC("license") = "GPL";

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 22);
} dns_messages SEC(".maps");
TELL_LAYOUT(dns_record)

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DNS_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} dns_counters SEC(".maps");

static __always_inline void count(__u32 what)
{
	__u64 *counter = bpf_map_lookup_elem(&dns_counters, &what);

	if (counter)
		++*counter;
}

static __always_inline struct dns_record *reserve_message(void)
{
	return bpf_ringbuf_reserve(&dns_messages, sizeof(struct dns_record), 0);
}

static __always_inline void submit_message(struct dns_record *record)
{
	bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP); /* the reader comes by the clock */
}

#include "dns_copy.h"

SEC("tc")
int dns_tc_in(struct __sk_buff *skb)
{
	return copy(skb, ETH_HLEN, POINT_INGRESS);
}

SEC("tc")
int dns_tc_out(struct __sk_buff *skb)
{
	return copy(skb, ETH_HLEN, POINT_EGRESS);
}

/* Devices without a link header. */
SEC("tc")
int dns_l3_in(struct __sk_buff *skb)
{
	return copy(skb, 0, POINT_INGRESS);
}

SEC("tc")
int dns_l3_out(struct __sk_buff *skb)
{
	return copy(skb, 0, POINT_EGRESS);
}
