/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the DNS probe tells user space; parsers/probe_dns.py mirrors it. */
#ifndef CILIARY_DNS_H
#define CILIARY_DNS_H

#ifdef CILIARY_BCC
#include <uapi/linux/types.h>
#else
#include <linux/types.h>
#endif

/* Answers are rarely longer than 1,232 bytes (the buffer size that DNS software agreed on in
 * 2020); a power of two, as the bound of the copy relies on it.
 */
#define DNS_PAYLOAD 2048

/* One packet from or to port 53. Addresses: network order, IPv4 mapped into IPv6; ports: host
 * order.
 */
struct dns_record {
	__u64 time_ns; /* boot clock */
	__u32 ifindex;
	__u32 received_on; /* interface by which it came in, 0 if from here */
	__u32 sequence; /* of TCP: number of the first byte of the payload */
	__u32 length; /* bytes of payload, of a fragmented datagram all of them */
	__u16 copied; /* of them, in payload */
	__u16 source_port;
	__u16 destination_port;
	__u8 ip_version; /* 4 or 6 */
	__u8 protocol; /* 6 or 17 */
	__u8 source_ip[16];
	__u8 destination_ip[16];
	__u8 point; /* enum point */
	__u8 tcp_flags;
	__u8 reserved[6];
	__u8 payload[DNS_PAYLOAD];
};
_Static_assert(sizeof(struct dns_record) == 72 + DNS_PAYLOAD, "dns_record");

enum dns_counter { DNS_SEEN, DNS_RING_FULL, DNS_COUNTERS };

#endif
