// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The DNS programs for the bcc engine; see traffic.bcc.c. */
#include "packet.h"
#include "dns.h"

#ifndef SIZE_dns_messages
#define SIZE_dns_messages (1 << 22)
#endif

BPF_RINGBUF_OUTPUT(dns_messages, SIZE_dns_messages / 4096);
BPF_PERCPU_ARRAY(dns_counters, __u64, DNS_COUNTERS);

static __always_inline void count(__u32 what)
{
	dns_counters.increment(what);
}

static __always_inline struct dns_record *reserve_message(void)
{
	return dns_messages.ringbuf_reserve(sizeof(struct dns_record));
}

static __always_inline void submit_message(struct dns_record *record)
{
	dns_messages.ringbuf_submit(record, BPF_RB_NO_WAKEUP);
}

#include "dns_copy.h"

int dns_tc_in(struct __sk_buff *skb)
{
	return copy(skb, ETH_HLEN, POINT_INGRESS);
}

int dns_tc_out(struct __sk_buff *skb)
{
	return copy(skb, ETH_HLEN, POINT_EGRESS);
}

/* Devices without a link header. */
int dns_l3_in(struct __sk_buff *skb)
{
	return copy(skb, 0, POINT_INGRESS);
}

int dns_l3_out(struct __sk_buff *skb)
{
	return copy(skb, 0, POINT_EGRESS);
}
