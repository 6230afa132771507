/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the DNS programs do with a packet. Whoever includes this has defined before, in the way
 * of its engine: count, reserve_message, submit_message.
 */
#ifndef CILIARY_DNS_COPY_H
#define CILIARY_DNS_COPY_H

#include "dns.h"
#include "packet.h"

#define DNS_PORT 53

struct payload {
	__u32 at;
	__u32 available; /* bytes in this packet */
	__u32 length; /* as the sender meant it: a fragment has less */
	__u32 sequence; /* of TCP */
};

/* Where the IP packet ends; short frames are padded behind it. */
static __always_inline __u32 end_of(struct __sk_buff *skb, const struct packet *p)
{
	__u32 is_ipv6 = p->family == 6, end;
	__be16 length;

	if (bpf_skb_load_bytes(skb, p->network + (is_ipv6 ? 4 : 2), &length, sizeof(length)) ||
	    !length) /* beyond 64 KB it is not said there */
		return skb->len;
	end = p->network + (is_ipv6 ? 40 : 0) + bpf_ntohs(length);
	return end < skb->len ? end : skb->len;
}

/* Returns 0 for what has no payload. */
static __always_inline int find_payload(struct __sk_buff *skb, const struct packet *p,
					struct payload *payload)
{
	__u32 end = end_of(skb, p);
	__u8 word[10];

	if (p->proto != IPPROTO_TCP && p->proto != IPPROTO_UDP)
		return 0;
	if (bpf_skb_load_bytes(skb, p->transport + 4, word, p->proto == IPPROTO_TCP ? 10 : 2))
		return 0;
	payload->at = p->transport + (p->proto == IPPROTO_TCP ? (word[8] >> 4) * 4 : 8);
	payload->available = end > payload->at ? end - payload->at : 0;
	payload->length = payload->available;
	payload->sequence = 0;
	if (p->proto == IPPROTO_TCP) {
		payload->sequence = (__u32)word[0] << 24 | word[1] << 16 | word[2] << 8 | word[3];
		/* an empty segment tells something only at the ends of a connection */
		return payload->length || p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST);
	}
	end = word[0] << 8 | word[1];
	if (end > payload->available + 8)
		payload->length = end - 8;
	return 1;
}

static __always_inline int copy(struct __sk_buff *skb, __u32 link_header, __u8 point)
{
	struct payload payload;
	struct dns_record *record;
	struct packet p;
	__u32 copied;

	parse_packet(skb, link_header, &p);
	if (p.kind || (p.source_port != DNS_PORT && p.destination_port != DNS_PORT) ||
	    !find_payload(skb, &p, &payload))
		return NEXT;
	count(DNS_SEEN);
	record = reserve_message();
	if (!record) {
		count(DNS_RING_FULL);
		return NEXT;
	}
	__builtin_memset(record, 0, __builtin_offsetof(struct dns_record, payload));
	record->time_ns = bpf_ktime_get_boot_ns();
	record->ifindex = skb->ifindex;
	record->received_on = skb->ingress_ifindex;
	record->sequence = payload.sequence;
	record->length = payload.length;
	record->source_port = p.source_port;
	record->destination_port = p.destination_port;
	record->ip_version = p.family;
	record->protocol = p.proto;
	__builtin_memcpy(record->source_ip, p.source, 16);
	__builtin_memcpy(record->destination_ip, p.destination, 16);
	record->point = point;
	record->tcp_flags = p.tcp_flags;
	if (payload.available) {
		copied = payload.available < DNS_PAYLOAD ? payload.available : DNS_PAYLOAD;
		/* 1..DNS_PAYLOAD; verifiers before 6.12 believe it only when told this way */
		asm volatile("" : "+r"(copied));
		copied = ((copied - 1) & (DNS_PAYLOAD - 1)) + 1;
		if (bpf_skb_load_bytes(skb, payload.at, record->payload, copied))
			copied = 0;
		record->copied = copied;
	}
	submit_message(record);
	return NEXT;
}

#endif
